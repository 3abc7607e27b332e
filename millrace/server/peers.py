"""Channels to the other services: keepalive, who calls, how long, and which trace; and whether they answer.

`PeerChannel` is a `grpc.aio.Channel` like any other: generated stubs take it. Interceptors of grpc.aio are not used: a
cancelled stream leaves their span open, and they wrap every message.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.trace import SpanKind, StatusCode, use_span

from millrace.server import names
from millrace.server.identity import forwarded_token, whose_work
from millrace.server.interceptors.deadline import default_deadline_s, remaining_s
from millrace.server.settings import Secret, SettingsError
from millrace.server.telemetry import PROPAGATOR, Telemetry

PROBE_FIRST_S, PROBE_AFTERWARDS_S, PROBE_TIMEOUT_S = 0.2, 2.0, 2.0
ROUND_ROBIN = '{"loadBalancingConfig":[{"round_robin":{}}]}'
"""Calls go to the replicas behind a target in turn; one that is down is left out."""
OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.service_config", ROUND_ROBIN),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.use_local_subchannel_pool", 1),
)

_ITSELF = "itself"
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Peer:
    """`last_reached`: seconds since 1970, 0 for never."""

    service: str
    target: str
    reachable: bool = False
    last_reached: float = 0.0


class Peers:
    """The services this one calls. `channel` makes one of them a peer."""

    def __init__(self, targets: Mapping[str, str], token: Secret, telemetry: Telemetry) -> None:
        self._targets, self._token, self._telemetry = targets, token, telemetry
        self._channels: dict[str, PeerChannel] = {}
        self._peers: dict[str, Peer] = {}
        self._changed: Callable[[], None] = lambda: None

    def channel(self, service: str) -> PeerChannel:
        """One channel per service, kept. Raises SettingsError when MILLRACE_<SERVICE>_TARGET is not set."""
        if (found := self._channels.get(service)) is not None:
            return found
        if (target := self._targets.get(service)) is None:
            raise SettingsError([f"MILLRACE_{service.upper()}_TARGET is missing"])
        made = PeerChannel(grpc.aio.insecure_channel(target, options=list(OPTIONS)), self._token, self._telemetry)
        self._channels[service], self._peers[service] = made, Peer(service, target)
        return made

    def to_itself(self, target: str) -> PeerChannel:
        """Never counts as a peer: a service does not wait for itself."""
        if (found := self._channels.get(_ITSELF)) is None:
            plain = grpc.aio.insecure_channel(target, options=list(OPTIONS))
            found = self._channels[_ITSELF] = PeerChannel(plain, self._token, self._telemetry)
        return found

    def all(self) -> tuple[Peer, ...]:
        return tuple(self._peers.values())

    def never_reached(self) -> tuple[str, ...]:
        return tuple(peer.service for peer in self._peers.values() if not peer.last_reached)

    def lost(self) -> tuple[str, ...]:
        return tuple(peer.service for peer in self._peers.values() if peer.last_reached and not peer.reachable)

    def on_change(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    async def watch(self) -> None:
        """Asks every peer's health, for ever; run it as background work. A peer is reached when it answers at all."""
        while True:
            await asyncio.gather(*map(self._probe, tuple(self._peers)))
            waiting = any(not peer.reachable for peer in self._peers.values())
            await asyncio.sleep(PROBE_FIRST_S if waiting else PROBE_AFTERWARDS_S)

    async def _probe(self, service: str) -> None:
        peer = self._peers[service]
        reachable = await _answers(health_pb2_grpc.HealthStub(self._channels[service].plain))
        changed, peer.reachable = reachable != peer.reachable, reachable
        if reachable:
            peer.last_reached = time.time()
        if changed:
            level = logging.INFO if reachable else logging.WARNING
            _log.log(level, "%s at %s %s", service, peer.target, "answers" if reachable else "does not answer")
            self._changed()

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close(None)


async def _answers(ask: Any) -> bool:
    try:
        await ask.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return True


class PeerChannel(grpc.aio.Channel):
    """Adds to each call: token (the user's inside a request, else this service's own), deadline (what is left of the caller's, less
    200 ms; else the default), trace context; and a client span with its metric, ended when the call ends."""

    def __init__(self, plain: grpc.aio.Channel, token: Secret, telemetry: Telemetry) -> None:
        self.plain = plain
        self._token, self._telemetry = token, telemetry

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._calling(self.plain.unary_unary(method, *args, **kwargs), method, stream=False)

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._calling(self.plain.unary_stream(method, *args, **kwargs), method, stream=True)

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._calling(self.plain.stream_unary(method, *args, **kwargs), method, stream=True)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._calling(self.plain.stream_stream(method, *args, **kwargs), method, stream=True)

    def _calling(self, inner: Any, method: str | bytes, *, stream: bool) -> Callable[..., Any]:
        path = method.decode() if isinstance(method, bytes) else method
        service, _, name = path.strip("/").rpartition("/")
        default_s = default_deadline_s(service, name, stream=stream)

        def call(
            request: Any = None,
            *,
            timeout: float | None = None,
            metadata: Sequence[tuple[str, Any]] | None = None,
            **rest: Any,
        ) -> Any:
            span = self._telemetry.tracer.start_span(f"{service}/{name}", kind=SpanKind.CLIENT)
            began = time.monotonic()
            with use_span(span, end_on_exit=False):
                sent = self._metadata(metadata)
            # The caller's time bounds what is done for it, whatever the callee's default is.
            limits = [
                limit for limit in (timeout if timeout is not None else default_s, remaining_s()) if limit is not None
            ]
            made = inner(request, timeout=max(0.0, min(limits)) if limits else None, metadata=sent, **rest)
            made.add_done_callback(lambda done: self._ended(done, span, f"{service}/{name}", began))
            return made

        return call

    def _metadata(self, given: Sequence[tuple[str, Any]] | None) -> tuple[tuple[str, Any], ...]:
        sent = list(given or ())
        own = f"Bearer {self._token.reveal()}"
        shown = next((value for key, value in sent if key == names.AUTHORIZATION), None)
        if shown is None and (token := forwarded_token() or self._token):
            shown = f"Bearer {token.reveal()}"
            sent.append((names.AUTHORIZATION, shown))
        if shown == own and (owner := whose_work()):
            sent.append((names.ON_BEHALF_OF, owner))
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier)
        return (*sent, *carrier.items())

    def _ended(self, done: Any, span: Any, name: str, began: float) -> None:
        code = _code_of(done)
        attributes = {names.RPC_SYSTEM: "grpc", names.RPC_METHOD: name, names.RPC_STATUS: code}
        span.set_attributes(attributes)
        if code != "OK":
            span.set_attribute(names.ERROR_TYPE, code)
            span.set_status(StatusCode.ERROR)
        span.end()
        self._telemetry.instruments.client_duration.record(time.monotonic() - began, attributes)

    async def close(self, grace: float | None = None) -> None:
        await self.plain.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.plain.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.plain.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.plain.channel_ready()

    async def __aenter__(self) -> PeerChannel:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close(None)


def _code_of(done: Any) -> str:
    """The status of a call that is over, without waiting: `code()` of grpc.aio is a coroutine, its answer is already there."""
    asking = done.code()
    try:
        asking.send(None)
    except StopIteration as answer:
        return str(getattr(answer.value, "name", answer.value))
    finally:
        asking.close()
    return "UNKNOWN"
