"""Who is calling? Health is open, everything else needs a token (contracts.md section 7)."""

from __future__ import annotations

from millrace.server.identity import Principals, set_caller
from millrace.server.interceptors.call import Call, Proceed

OPEN_SERVICES = frozenset({"grpc.health.v1.Health"})


class Auth:
    """A layer. Afterwards `identity.caller()` answers inside the RPC."""

    def __init__(self, principals: Principals) -> None:
        self._principals = principals

    async def __call__(self, call: Call, proceed: Proceed) -> bytes | None:
        if call.method.service not in OPEN_SERVICES:
            found = self._principals.authenticate(call.metadata.get("authorization", ""))
            call.principal = found.principal
            set_caller(found)
        return await proceed(call)
