"""AdminService, the same in all five: what the process is doing, how loudly it says so, and drain."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from millrace import errors
from millrace.admin.v1 import admin_pb2, admin_pb2_grpc
from millrace.server import logs
from millrace.server.identity import require_admin_or_service
from millrace.server.interceptors.telemetry import Observe
from millrace.server.lifecycle import Streams
from millrace.server.peers import Peers
from millrace.server.process import resident_bytes

MIN_GRACE_S, MAX_GRACE_S, DEFAULT_GRACE_S = 1, 300, 30


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease this process holds. `renewed_at`: monotonic seconds."""

    name: str
    epoch: int
    renewed_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Where GetStatus looks. The callables are asked at each call."""

    service: str
    version: str
    settings: Mapping[str, str]
    state: Callable[[], tuple[admin_pb2.ServingState.ValueType, str]]
    peers: Peers
    streams: Streams
    observed: Observe
    leases: Callable[[], Iterable[HeldLease]]
    counters: Callable[[], Mapping[str, float]]
    drain: Callable[[float | None], Awaitable[int]]


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._started_at = time.time()

    async def GetStatus(self, request: admin_pb2.GetStatusRequest, context: Any) -> admin_pb2.GetStatusResponse:
        facts = self._facts
        state, why = facts.state()
        response = admin_pb2.GetStatusResponse(
            service=facts.service,
            version=facts.version,
            state=state,
            state_reason=why,
            pid=os.getpid(),
            settings=facts.settings,
            resident_bytes=resident_bytes(),
            counters=facts.counters(),
            log_level=logging.getLevelName(logging.getLogger().level),
        )
        _set_time(response.start_time, self._started_at)
        self._add_parts(response)
        return response

    def _add_parts(self, response: admin_pb2.GetStatusResponse) -> None:
        for peer in self._facts.peers.all():
            shown = response.peers.add(service=peer.service, target=peer.target, reachable=peer.reachable)
            if peer.last_reached:
                _set_time(shown.last_reached, peer.last_reached)
        for lease in self._facts.leases():
            held = response.leases.add(name=lease.name, epoch=lease.epoch)
            held.age.FromMilliseconds(round((time.monotonic() - lease.renewed_at) * 1000))
        for method, count in self._facts.streams.counts().items():
            response.streams.add(method=method, open=count)
        for error in self._facts.observed.recent:
            told = response.errors.add(
                method=error.method,
                code=error.code,
                reason=error.reason,
                message=error.message,
                trace_id=error.trace_id,
            )
            _set_time(told.time, error.at)

    async def SetLogLevel(self, request: admin_pb2.SetLogLevelRequest, context: Any) -> admin_pb2.SetLogLevelResponse:
        require_admin_or_service()
        if request.level not in logs.LEVELS:
            raise errors.FieldInvalid(f"`level` is one of {', '.join(logs.LEVELS)}", field="level")
        return admin_pb2.SetLogLevelResponse(previous_level=logs.set_level(request.level))

    async def Drain(self, request: admin_pb2.DrainRequest, context: Any) -> admin_pb2.DrainResponse:
        require_admin_or_service()
        grace_s: float | None = None
        if request.HasField("grace"):
            grace_s = request.grace.ToMilliseconds() / 1000
            if not MIN_GRACE_S <= grace_s <= MAX_GRACE_S:
                raise errors.FieldInvalid(f"`grace` is {MIN_GRACE_S} to {MAX_GRACE_S} s", field="grace")
        return admin_pb2.DrainResponse(open_streams=await self._facts.drain(grace_s or DEFAULT_GRACE_S))


def _set_time(target: Any, seconds: float) -> None:
    target.FromMicroseconds(round(seconds * 1_000_000))
