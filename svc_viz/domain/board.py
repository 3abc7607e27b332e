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
            for name, one in sorted(self.world.dashboards.items())
            if slug in {one.slug, f"{one.namespace}/{one.slug}"}
        ]
        return next((one for one in found if one.namespace == "default"), found[0] if found else None)


class BoardView(NoticeBoard):
    """The part of another board that somebody may see: facts whose full name `may_see`."""

    def __init__(self, board: NoticeBoard, may_see: Callable[[str], bool]) -> None:
        self._board, self._may_see = board, may_see

    @property
    def world(self) -> World:
        found = self._board.world
        parts = ("dashboards", "pipelines", "sources", "transforms", "tables")
        return found.changed(
            **{
                part: {name: facts for name, facts in getattr(found, part).items() if self._may_see(name)}
                for part in parts
            }
        )

    def publish(self, world: World) -> None:
        self._board.publish(world)

    async def known(self, limit_s: float) -> None:
        await self._board.known(limit_s)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        return self._board.listen(listener)
