"""What a service is made of (`ServiceSpec`, `Composition`), and what its factory gets (`Runtime`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from millrace.server.admin import HeldLease
from millrace.server.authentication import Authenticator
from millrace.server.config import ServerSettings
from millrace.server.peers import PeerChannel, Peers
from millrace.server.supervision import Background, Work
from millrace.server.telemetry import TableLabels, Telemetry

S = TypeVar("S")
Hook = Callable[[], Awaitable[None]]
AddServicer = Callable[[Any, Any], None]


@dataclass(slots=True)
class OwnAddress:
    """Where this process is reached from inside it; "" before it listens."""

    target: str = ""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The process around a service."""

    settings: ServerSettings
    telemetry: Telemetry
    background: Background  # start(name, work): tasks that somebody watches, outside of any request
    peers: Peers
    authenticator: Authenticator
    draining: asyncio.Event  # set once drain begins: take no lease, start nothing new
    address: OwnAddress = field(default_factory=OwnAddress)

    @property
    def table_labels(self) -> TableLabels:
        return TableLabels(frozenset(self.settings.metric_tables))

    def channel(self, service: str) -> PeerChannel:
        """The channel to another service, for its generated stub or for `millrace.client`'s core; it becomes a peer: this service is not
        SERVING before the peer answered once. Raises SettingsError when its target is not set."""
        return self.peers.channel(service)

    def own_channel(self) -> PeerChannel:
        """A channel of this service to itself, as itself: what it keeps for others, it may keep for itself. From `on_start` on."""
        return self.peers.to_itself(self.address.target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """The parts of one running service. Hooks run in order; `on_stop` in reverse."""

    servicers: Sequence[tuple[AddServicer, object]]  # (add_XServicer_to_server, servicer)
    background: Mapping[str, Work] = field(
        default_factory=dict
    )  # started once the port listens; died ones are restarted
    on_start: Sequence[Hook] = ()  # after the port listens, before SERVING
    on_drain: Sequence[Hook] = ()  # first thing of a drain: release leases, stop accepting work
    on_stop: Sequence[Hook] = ()  # after the last call ended: close stores, flush
    counters: Callable[[], Mapping[str, float]] = dict  # for GetStatus
    leases: Callable[[], Iterable[HeldLease]] = tuple  # for GetStatus
    leases_lost: Callable[[], float] = float  # ever, without those given back
    degraded: Callable[[], str] = str  # why the service is degraded, empty when it is not


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec(Generic[S]):
    """One of the five. `settings` reads the environment and raises SettingsError. `compose` builds the service; what it raises becomes the
    one line that the process ends with."""

    name: str
    settings: Callable[[Mapping[str, str]], S]
    compose: Callable[[S, Runtime], Awaitable[Composition]]
