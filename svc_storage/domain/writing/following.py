"""A table's view follows its log: this replica's own commits, and what others committed meanwhile.

Neither S3 nor Cassandra tells replica B what A did, so B looks: before a read that wants the newest version, and four to ten times a
second while somebody watches, twice where nothing happens. Publishing is one step on the event loop and only ever adds the log's next
commits, so it may happen between any two awaits of the committer; whoever decided on an older head loses the race for its number and
decides anew.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from millrace.errors import MillraceError
from svc_storage.domain.versions import LogView
from svc_storage.ports import CommitLog, Committed, LogTrimmed

PROBE_S = (0.1, 0.25)
"""Between two looks at the log of a watched table, evenly spread so that replicas do not look in step."""
QUIET_PROBE_S = (0.4, 0.7)
"""The same where nothing came for `QUIET_S`: each look costs the store two requests, and a second is what is promised."""
QUIET_S = 5.0
LINGER_S = 1.0
"""A watcher that takes in what came is back by then."""
_log = logging.getLogger(__name__)


class Following:
    """The one that moves `view`. `shared`: others may commit too; else looking is needed only after a lost race."""

    def __init__(self, log: CommitLog, view: LogView, published: Callable[[], None], *, shared: bool) -> None:
        self.log, self._view, self._published = log, view, published
        self.shared = shared
        self._running: asyncio.Task[None] | None = None  # a look that has begun
        self._next: asyncio.Task[None] | None = None  # one that begins after it
        self._watchers = 0
        self._tail: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """What was acknowledged anywhere before this call is published afterwards. Costs nothing where nobody else commits."""
        if self.shared:
            await self.look()

    async def look(self) -> None:
        """Reads the log's newest part; those who ask while a look is under way share the next one. Raises what the log raises."""
        if self._next is None:
            # In no request's context: the caller's deadline and token are not this read's.
            work = self._after(self._running)
            self._next = asyncio.create_task(work, name="look at the log", context=contextvars.Context())
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._next)

    def publish(self, committed: Committed) -> None:
        """A commit of this replica, the one after the head."""
        self._view.publish(committed)
        self._published()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keeps looking while the block runs."""
        self._watchers += 1
        if self.shared and (self._tail is None or self._tail.done()):
            self._tail = asyncio.create_task(self._keep_looking(), name="tail", context=contextvars.Context())
        try:
            yield
        finally:
            self._watchers -= 1

    async def close(self) -> None:
        for task in (self._tail, self._running, self._next):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task])

    async def _after(self, running: asyncio.Task[None] | None) -> None:
        if running is not None and not running.done():
            await asyncio.wait([running])
        self._running, self._next = self._next, None
        await self._look()

    async def _look(self) -> None:
        try:
            found = await self.log.read_after(self._view.head.version)
        except LogTrimmed:
            await self._start_again()
            return
        fresh = [committed for committed in found if committed.version > self._view.head.version]
        if fresh and fresh[0].version != self._view.head.version + 1:
            await self._start_again()
            return
        for committed in fresh:
            self._view.publish(committed)
        if fresh:
            self._published()

    async def _start_again(self) -> None:
        """This replica slept longer than the log is kept."""
        tail = await self.log.recover()
        newest = tail.commits[-1].version if tail.commits else tail.base.version
        if newest > self._view.head.version:
            self._view.reset(tail)
            self._published()

    async def _keep_looking(self) -> None:
        clock = asyncio.get_running_loop().time
        seen, moved, pause_s = clock(), clock(), 0.0
        head = self._view.head.version
        while clock() - seen < LINGER_S:
            if self._watchers:
                seen = clock()
            if head != self._view.head.version:
                head, moved = self._view.head.version, clock()
            quiet = clock() - moved > QUIET_S
            await asyncio.sleep(random.uniform(*(QUIET_PROBE_S if quiet else PROBE_S)) + pause_s)
            try:
                await self.look()
                pause_s = 0.0
            except MillraceError as failed:  # the store is away: less often, and told once
                if not pause_s:
                    _log.warning("a watched table's log cannot be read: %s", failed.message)
                pause_s = min(5.0, 2 * pause_s + 0.25)
            except Exception:
                _log.exception("looking at a watched table's log failed")
                pause_s = 5.0
