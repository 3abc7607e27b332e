"""A service inside a test: the real server with all its layers, on a free port, in the test's event loop."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from millrace.server.authentication import Authenticator
from millrace.server.config import AREAS, ServerSettings
from millrace.server.peers import OPTIONS, PeerChannel, Peers
from millrace.server.rights import INCLUDED
from millrace.server.runtime import Runtime, ServiceSpec
from millrace.server.serving import Serving
from millrace.server.settings import Secret, redacted
from millrace.server.supervision import Background
from millrace.server.telemetry import Telemetry, start_telemetry

S = TypeVar("S")
END_LIMIT_S = 60.0


def _entry(principal: str, kind: str, *roles: str) -> dict[str, object]:
    return {"principal": principal, "kind": kind, "roles": list(roles)}


PRINCIPALS: dict[str, dict[str, object]] = {
    hashlib.sha256(f"{principal}-token".encode()).hexdigest(): entry
    for principal, entry in {
        "local": _entry("local", "person", "admin"),
        "guest": {**_entry("guest", "person"), "rights": {"default": "writer"}},
        **{f"a-{role}": {**_entry(f"a-{role}", "person"), "rights": {"a": role}} for role in INCLUDED},
        **{area: _entry(area, "service") for area in AREAS},
    }.items()
}
"""The token of each principal is its name with `-token`: local (an admin), guest (a person who writes in `default`), a-reader and so on
(people with that role in `a`), and the five services."""


@dataclass(slots=True)
class Served:
    """A running service. `serving` is the object itself, for looking inside."""

    serving: Serving
    runtime: Runtime
    target: str
    _channels: list[PeerChannel] = field(default_factory=list)

    def channel(self, principal: str = "local", *, token: str | None = None) -> PeerChannel:
        """A channel that calls as `principal`, or with `token` ("" for none)."""
        secret = Secret(f"{principal}-token" if token is None else token)
        made = PeerChannel(
            grpc.aio.insecure_channel(self.target, options=list(OPTIONS)), secret, self.runtime.telemetry
        )
        self._channels.append(made)
        return made


@asynccontextmanager
async def running(
    spec: ServiceSpec[S],
    env: Mapping[str, str] | None = None,
    *,
    telemetry: Telemetry | None = None,
    home: Path | None = None,
    **changes: Any,
) -> AsyncIterator[Served]:
    """`env`: for the service's own settings. `changes`: fields of ServerSettings (`stream_age_s=0.3`). Ends it, too."""
    settings = ServerSettings(**{"service": spec.name, "home": home or Path(), "drain_grace_s": 2.0, **changes})
    own = spec.settings(env or {})
    signals = telemetry or start_telemetry(spec.name)
    runtime = Runtime(
        settings=settings,
        telemetry=signals,
        background=Background(),
        peers=Peers(settings.targets, Secret(f"{spec.name}-token"), signals),
        authenticator=Authenticator.of(settings, PRINCIPALS),
        draining=asyncio.Event(),
    )
    composition = await spec.compose(own, runtime)
    shown = {**redacted(settings), **redacted(own)}
    serving = Serving(runtime, composition, own=shown)
    await serving.start()
    await serving.ready()
    served = Served(serving, runtime, f"127.0.0.1:{serving.port}")
    try:
        yield served
    finally:
        for channel in served._channels:
            await channel.close()
        serving.drain(0.2)
        # A test that ran out of time has cancelled what ends the service: it fails, and does not hang.
        async with asyncio.timeout(END_LIMIT_S):
            await serving.ended.wait()
