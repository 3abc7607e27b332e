"""The gRPC server of one process: options, layers, the services everyone has, and the state that health shows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from importlib import metadata
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from millrace.admin.v1 import admin_pb2, admin_pb2_grpc
from millrace.server import names as metrics
from millrace.server.admin import AdminServicer, Facts
from millrace.server.config import ServerSettings
from millrace.server.health import Health
from millrace.server.interceptors.auth import Auth
from millrace.server.interceptors.chain import Chain
from millrace.server.interceptors.deadline import Deadline
from millrace.server.interceptors.errors import Errors
from millrace.server.interceptors.fields import Fields
from millrace.server.interceptors.telemetry import Observe
from millrace.server.lifecycle import Streams
from millrace.server.reflection import add_channelz, add_reflection
from millrace.server.runtime import Composition, Runtime
from millrace.server.supervision import outside_of_requests

MAX_MESSAGE_BYTES = 4 << 20
_log = logging.getLogger(__name__)


class PortTaken(Exception):
    """Another process has the port."""


def options(settings: ServerSettings) -> list[tuple[str, int]]:
    """Contracts.md section 8."""
    found = [
        ("grpc.so_reuseport", int(settings.so_reuseport)),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", 1 << 20),
        ("grpc.keepalive_time_ms", round(settings.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(settings.keepalive_s * 1000 / 3)),
        ("grpc.http2.ping_timeout_ms", round(settings.keepalive_s * 1000 / 3)),  # 60 s by default, and it rules (seen)
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.enable_channelz", 1),
    ]
    if settings.max_connection_age_s:
        found.append(("grpc.max_connection_age_ms", round(settings.max_connection_age_s * 1000)))
    return found


class Serving:
    """Owns the server. `start` listens, `ready` follows the peers, `drain` ends it; each is called once."""

    def __init__(self, runtime: Runtime, composition: Composition, *, own: Mapping[str, str]) -> None:
        self._runtime, self._parts, self._authenticator = runtime, composition, runtime.authenticator
        settings = runtime.settings
        self.streams = Streams(age_s=settings.stream_age_s, limit=settings.max_streams)
        self.observed = Observe(runtime.telemetry)
        self.health = Health()
        self.ended = asyncio.Event()
        self.port = 0
        self._started = False
        self._drained: asyncio.Task[None] | None = None
        layers = (
            self.observed,
            Errors(),
            Auth(runtime.authenticator),
            Deadline(self.streams, drain_grace_s=settings.drain_grace_s),
            Fields(),
        )
        self.server = grpc.aio.server(interceptors=[Chain(layers)], options=options(settings))
        self._own = own
        self._measure()

    def _measure(self) -> None:
        telemetry, parts = self._runtime.telemetry, self._parts
        telemetry.gauge(
            metrics.LEASE_HELD, "{lease}", "Leases that this process holds.", lambda: [(len(tuple(parts.leases())), {})]
        )
        telemetry.total(
            metrics.LEASE_LOST, "{lease}", "Leases lost to another, or not renewed in time.", parts.leases_lost
        )

    # -- start --------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Listens; raises PortTaken. Health says NOT_SERVING until `ready`."""
        names = self._add_services()
        await self.health.begin(names)
        settings = self._runtime.settings
        try:
            self.port = self.server.add_insecure_port(f"{settings.host}:{settings.port}")
        except RuntimeError as error:
            raise PortTaken(f"port {settings.port} on {settings.host} is taken") from error
        await self.server.start()
        host = "127.0.0.1" if settings.host in ("0.0.0.0", "") else settings.host
        self._runtime.address.target = f"{host}:{self.port}"

    def _add_services(self) -> tuple[str, ...]:
        recorder = _Recorder(self.server)
        for add, servicer in self._parts.servicers:
            add(servicer, recorder)
        recorder_as_server: Any = recorder
        admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminServicer(self._facts()), recorder_as_server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, recorder)
        add_channelz(self.server)
        names = tuple(recorder.names)
        add_reflection(self.server, (*names, "grpc.channelz.v1.Channelz"))
        return names

    def _facts(self) -> Facts:
        return Facts(
            service=self._runtime.settings.service,
            version=version(),
            settings=self._own,
            state=self.state,
            peers=self._runtime.peers,
            streams=self.streams,
            observed=self.observed,
            leases=self._parts.leases,
            counters=self._parts.counters,
            drain=self._drain_for_admin,
        )

    async def ready(self) -> None:
        """Runs the start hooks, starts background work; from now on health follows the peers."""
        for hook in self._parts.on_start:
            await hook()
        background = self._runtime.background
        if self._runtime.peers.all():
            self._runtime.peers.on_change(lambda: background.start_once("health", self._show))
            background.start("peers", self._runtime.peers.watch)
        if (keys := self._authenticator.remote) is not None:
            self._authenticator.on_change(lambda: background.start_once("health", self._show))
            background.start("issuer keys", keys.watch)
        for name, work in self._parts.background.items():
            background.start(name, work)
        self._started = True
        await self.health.started()
        await self._show()

    async def _show(self) -> None:
        state, why = self.state()
        serving = state in (admin_pb2.SERVING_STATE_SERVING, admin_pb2.SERVING_STATE_DEGRADED)
        await self.health.ready(serving)
        level = logging.INFO if serving else logging.WARNING
        _log.log(level, "%s%s", admin_pb2.ServingState.Name(state)[14:], f": {why}" if why else "")

    def state(self) -> tuple[admin_pb2.ServingState.ValueType, str]:
        """State and the reason for it, empty when all is well."""
        if self.streams.draining:
            return admin_pb2.SERVING_STATE_DRAINING, f"{self.streams.total()} streams are open"
        if not self._started:
            return admin_pb2.SERVING_STATE_STARTING, "starts its parts"
        if missing := self._runtime.peers.never_reached():
            return admin_pb2.SERVING_STATE_STARTING, f"waits for {', '.join(missing)}"
        if self._authenticator.never_read():
            return admin_pb2.SERVING_STATE_STARTING, self._authenticator.problem()
        reasons = [f"{name} does not answer" for name in self._runtime.peers.lost()]
        reasons += [f"background task died: {task}" for task in self._runtime.background.failing()]
        if keys := self._authenticator.problem():
            reasons.append(keys)
        if own := self._parts.degraded():
            reasons.append(own)
        if reasons:
            return admin_pb2.SERVING_STATE_DEGRADED, "; ".join(reasons)
        return admin_pb2.SERVING_STATE_SERVING, ""

    # -- end ----------------------------------------------------------------------------------------------------------
    async def _drain_for_admin(self, grace_s: float | None) -> int:
        open_streams = self.streams.total()
        self.drain(grace_s)
        return open_streams

    def drain(self, grace_s: float | None = None) -> None:
        """Begins to end, once: mesh.md section 4. `ended` is set when all is closed."""
        if self._drained is None:
            grace = self._runtime.settings.drain_grace_s if grace_s is None else grace_s
            self._drained = outside_of_requests(self._end(grace), "drain")

    async def _end(self, grace_s: float) -> None:
        _log.info("draining: %d streams are open", self.streams.total())
        self._runtime.draining.set()
        await self.health.ready(False)
        await _run_all("drain", self._parts.on_drain)
        self.streams.drain()
        await asyncio.sleep(self._runtime.settings.drain_lead_s)
        await self.server.stop(grace_s)
        await self._runtime.background.stop()
        await _run_all("stop", tuple(reversed(self._parts.on_stop)))
        await self._runtime.peers.close()
        self.ended.set()


async def _run_all(what: str, hooks: tuple[Callable[[], Awaitable[None]], ...] | Any) -> None:
    """Every hook, also when one fails: it is logged."""
    for hook in hooks:
        try:
            await hook()
        except Exception:
            _log.exception("a %s hook failed", what)


def version() -> str:
    try:
        return metadata.version("millrace")
    except metadata.PackageNotFoundError:
        return "0+unknown"


class _Recorder:
    """Stands in for the server while servicers are added, to learn the names of their services."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self.names: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self.names += [name for handler in handlers if (name := handler.service_name())]
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Nothing: the generic handlers do the same, and interceptors see them."""
