"""Background work that somebody watches: a dead task is logged, shown in GetStatus, and started again."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.2, 30.0
HEALTHY_AFTER_S = 30.0

_log = logging.getLogger(__name__)

Work = Callable[[], Awaitable[None]]


class Background:
    """Owns tasks of a process. They run outside of any request: no caller, no deadline, no span of it."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failing: dict[str, str] = {}
        self._ended = False

    def start(self, name: str, work: Work, *, restart: bool = True) -> asyncio.Task[None]:
        """Runs `work()`; when it raises it is logged, and with `restart` started again after 0.2 to 30 s. Returning is a normal end.

        Cancel the returned task to stop that one. Raises KeyError when `name` is already running.
        """
        if (before := self._tasks.get(name)) is not None and not before.done():
            raise KeyError(f"the background task {name} is already running")
        task = outside_of_requests(self._keep(name, work, restart), name)
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._forget(name, done))
        return task

    def start_once(self, name: str, work: Work) -> None:
        """As `start`, without restart; nothing when it is running already."""
        if (before := self._tasks.get(name)) is None or before.done():
            self.start(name, work, restart=False)

    def _forget(self, name: str, done: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is done:
            del self._tasks[name]
        if done.cancelled():
            self._failing.pop(name, None)

    async def _keep(self, name: str, work: Work, restart: bool) -> None:
        pause = BACKOFF_FIRST_S
        while not self._ended:
            began = time.monotonic()
            try:
                await self._once(name, work)
                self._failing.pop(name, None)
                return
            except Exception as error:
                _log.exception("background task %s died", name)
                self._failing[name] = f"{name}: {type(error).__name__}"
            if not restart:
                return
            if time.monotonic() - began > HEALTHY_AFTER_S:
                pause = BACKOFF_FIRST_S
            await asyncio.sleep(pause)
            pause = min(BACKOFF_MAX_S, pause * 2)

    async def _once(self, name: str, work: Work) -> None:
        healthy = asyncio.get_running_loop().call_later(HEALTHY_AFTER_S, self._failing.pop, name, None)
        try:
            await work()
        finally:
            healthy.cancel()

    def failing(self) -> tuple[str, ...]:
        """Tasks that died and have not been well for `HEALTHY_AFTER_S` since."""
        return tuple(self._failing.values())

    def running(self) -> tuple[str, ...]:
        return tuple(sorted(self._tasks))

    async def stop(self, limit_s: float = 5.0) -> None:
        """Cancels all and waits for their clean-up, bounded."""
        self._ended = True
        tasks = set(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=limit_s)
            for task in late:
                _log.error("background task %s does not end", task.get_name())


def outside_of_requests(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task in an empty context: one started during a request must not call on with that user's token."""
    return asyncio.get_running_loop().create_task(work, name=name, context=contextvars.Context())
