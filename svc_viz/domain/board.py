"""The one place where what is known of the pipeline hangs; pages look at it and are woken when it changes."""

from __future__ import annotations

from collections.abc import Callable

from svc_viz.ports import Dashboard, World


class NoticeBoard:
    """Implements `Board`. Listeners are called on the event loop, after the world was replaced."""

    def __init__(self, world: World | None = None) -> None:
        self._world = world or World()
        self._listeners: dict[Callable[[], None], None] = {}

    @property
    def world(self) -> World:
        return self._world

    def publish(self, world: World) -> None:
        if world == self._world:
            return
        self._world = world
        for listener in tuple(self._listeners):
            listener()

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
