"""Health under separate names: startup, readiness, liveness, "" (readiness) and one per service."""

from __future__ import annotations

from collections.abc import Iterable

from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
STARTUP, READINESS, LIVENESS = "startup", "readiness", "liveness"


class Health:
    """`servicer` goes into the server; the rest is told by bootstrap."""

    def __init__(self) -> None:
        self.servicer = HealthServicer()
        self._ready_names: list[str] = ["", READINESS]

    async def begin(self, services: Iterable[str]) -> None:
        """The process lives and listens; it does not serve yet."""
        self._ready_names += services
        for name in self._ready_names:
            await self.servicer.set(name, _NOT_SERVING)
        await self.servicer.set(STARTUP, _NOT_SERVING)
        await self.servicer.set(LIVENESS, _SERVING)

    async def started(self) -> None:
        await self.servicer.set(STARTUP, _SERVING)

    async def ready(self, serving: bool) -> None:
        for name in self._ready_names:
            await self.servicer.set(name, _SERVING if serving else _NOT_SERVING)
