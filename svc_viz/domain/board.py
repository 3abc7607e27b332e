"""The one place where what is known of the pipeline hangs; pages look at it and are woken when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from svc_viz.ports import Dashboard, World


class NoticeBoard:
    """Implements `Board`. Listeners are called on the event loop, after the world was replaced."""

    def __init__(self, world: World | None = None) -> None:
        self._world = world or World()
        self._listeners: dict[Callable[[], None], None] = {}
        self._known = asyncio.Event()
        if not self._world.unreachable:
            self._known.set()

    @property
    def world(self) -> World:
        return self._world

    def publish(self, world: World) -> None:
        if world == self._world:
            return
        self._world = world
        if not world.unreachable:
            self._known.set()
        for listener in tuple(self._listeners):
            listener()

    async def known(self, limit_s: float) -> None:
        """Waits until there has been a first look at everything, at most `limit_s`: a page asked for while we start is not an empty one."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._known.wait(), limit_s)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Returns how to stop."""
        self._listeners[listener] = None
        return lambda: self._listeners.pop(listener, None)

    def dashboard(self, slug: str) -> Dashboard | None:
        """By `slug`, or by `namespace/slug` where two namespaces have it."""
        found = [
            one
            for name, one in sorted(self._world.dashboards.items())
            if slug in {one.slug, f"{one.namespace}/{one.slug}"}
        ]
        return next((one for one in found if one.namespace == "default"), found[0] if found else None)
