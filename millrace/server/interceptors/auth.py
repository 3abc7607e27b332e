"""Who is calling, and may they? Health is open, everything else needs a token and what its RPC declares (contracts.md section 7).

Refusals and changes leave a line in the audit log, whatever became of them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from millrace import errors
from millrace.server import access, audit, names, status
from millrace.server.access import Access, Gate
from millrace.server.authentication import Authenticator
from millrace.server.identity import Caller, set_caller
from millrace.server.interceptors.call import Call, Proceed

OPEN_SERVICES = frozenset({"grpc.health.v1.Health"})


class Auth:
    """A layer. Afterwards `identity.caller()` answers inside the RPC."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def __call__(self, call: Call, proceed: Proceed) -> bytes | None:
        if call.method.service in OPEN_SERVICES:
            return await proceed(call)
        declared = access.access_of(call.method.full_name)
        trail = _Trail(call, declared)
        try:
            caller = await self._authenticator.caller(call.metadata.get(names.AUTHORIZATION, ""))
            call.principal = caller.principal
            set_caller(caller)
            trail.gate = self._gate(call, caller, declared)
            self._check(call, trail.gate)
            answer = await proceed(call)
        except asyncio.CancelledError:
            trail.end("CANCELLED")
            raise
        except Exception as raised:
            error = status.from_exception(raised)
            trail.end(status.code_of(error).name, error.reason)
            raise
        trail.end("OK")
        return answer

    def _gate(self, call: Call, caller: Caller, declared: Access) -> Gate:
        owner = call.metadata.get(names.ON_BEHALF_OF, "")
        if owner and not caller.is_service:
            raise errors.NotAllowed("only services act on behalf of others", hint=f"leave out {names.ON_BEHALF_OF}")
        granted = self._authenticator.granted(owner) if owner and not declared.services_only else None
        return Gate(
            who=caller.principal if granted is None else owner,
            rights=caller.rights if granted is None else granted,
            access=declared,
            metadata=call.metadata,
            method=call.method.name,
            trusted=caller.is_service and granted is None,
        )

    def _check(self, call: Call, gate: Gate) -> None:
        """Before the servicer starts, and for a stream at each frame that it reads. Raises NotAllowed, FieldInvalid."""
        access.enter(gate)
        call.context.gate = gate
        gate.admit()
        if call.method.request is None or call.method.service in access.FOREIGN:
            return
        if call.requests is not None:
            call.requests.checks.append(gate.check_frame)
        else:
            gate.check(call.message())


class _Trail:
    """What the audit says about one call."""

    def __init__(self, call: Call, declared: Access) -> None:
        self._call, self._declared = call, declared
        self.gate: Gate | None = None

    def end(self, code: str, reason: str = "") -> None:
        """Changes by services among themselves (leases, statuses) are left out, unless they were refused: there are many a second."""
        call, declared = self._call, self._declared
        refused = code in ("PERMISSION_DENIED", "UNAUTHENTICATED")
        if not refused and (not declared.changes or declared.services_only or not declared.declared):
            return
        request: Any = call.request
        audit.write(
            principal=call.principal,
            on_behalf_of=call.metadata.get(names.ON_BEHALF_OF, "")[:256],
            method=call.method.full_name,
            resources=self.gate.named if self.gate else (),
            request_id=audit.request_id_of(request),
            code=code,
            reason=reason,
            trace_id=call.trace_id,
        )
