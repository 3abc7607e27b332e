"""`ControlStore` over a log: every replica applies the same entries in the same order, and one put if absent is one transaction.

Work runs on the event loop, on the state itself, and is undone when it fails or loses. All that waits while the store is being asked
goes together into the next entry. Reading costs one probe for the next entry, shared in the same way.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from millrace.errors import CommitConflict, MillraceError, OutcomeUnknown, StoreUnavailable
from svc_storage.adapters.control_log.entries import Entries
from svc_storage.adapters.control_log.keeping import Keeping, KeepingPolicy
from svc_storage.adapters.control_log.replica import Replica, Stamp, now, size_of
from svc_storage.ports import ControlNews, ControlTransaction

T = TypeVar("T")
_log = logging.getLogger(__name__)
GROUP = 256
GROUP_BYTES = 256 << 10
MAX_LOSSES = 200
MAX_BACK_OFF_S = 0.2
PROBE_S = (0.1, 0.25)
MAX_PAUSE_S = 5.0


@dataclass(slots=True)
class _Waiting:
    work: Callable[[ControlTransaction], Any]
    answer: asyncio.Future[Any]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    outcome: tuple[Any, BaseException | None] = (None, None)

    def settle(self) -> None:
        result, error = self.outcome
        if error is None:
            self.answer.set_result(result)
        else:
            self.answer.set_exception(error)


class LogControl:
    """Open with `await LogControl.open(entries)`. Belongs to one event loop."""

    def __init__(self, entries: Entries, policy: KeepingPolicy, clock: Callable[[], Stamp]) -> None:
        self._entries = entries
        self._replica = Replica(entries, self._told, silence_s=policy.silence_s, clock=clock)
        self._keeping = Keeping(entries, policy, rising=lambda: clock()[0])
        self._queue: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[ControlNews], None]] = []
        self._watchers = 0
        self._tail: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(
        cls, entries: Entries, *, policy: KeepingPolicy | None = None, clock: Callable[[], Stamp] = now
    ) -> LogControl:
        """Reads what there is. Raises StoreUnavailable, ChecksumMismatch."""
        store = cls(entries, policy or KeepingPolicy(), clock)
        await store._replica.start_over()
        return store

    @property
    def head(self) -> int:
        """The newest entry known here."""
        return self._replica.head

    async def run(self, work: Callable[[ControlTransaction], T]) -> T:
        if self._closed:
            raise StoreUnavailable("the catalog is closed")
        waiting = _Waiting(work, asyncio.get_running_loop().create_future())
        waiting.answer.add_done_callback(lambda ended: ended.exception())  # also when the caller went away
        self._queue.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work_off(), context=contextvars.Context())
        result: T = await asyncio.shield(waiting.answer)
        return result

    def tell(self, listener: Callable[[ControlNews], None]) -> None:
        self._listeners.append(listener)

    def watched(self) -> AbstractContextManager[None]:
        return self._watched()

    async def close(self) -> None:
        self._closed = True
        if self._tail is not None:
            self._tail.cancel()
        if self._worker is not None:
            await asyncio.wait([self._worker])
        await self._keeping.close()
        await self._entries.close()

    # -- turns
    async def _work_off(self) -> None:
        while self._queue:
            group = [self._queue.popleft() for _ in range(min(GROUP, len(self._queue)))]
            try:
                done = await self._turn(group)
            except BaseException as failed:
                self._replica.state.back_to((0, 0))
                for waiting in group:
                    waiting.answer.set_exception(_for_callers(failed))
                if not isinstance(failed, Exception):
                    raise
                continue
            for waiting in done:
                waiting.settle()
            self._queue.extendleft(reversed(group[len(done) :]))

    async def _turn(self, group: Sequence[_Waiting]) -> Sequence[_Waiting]:
        """Those whose work is done: a first part of `group`, nearly always all of it."""
        replica = self._replica
        await replica.refresh()
        current = False  # whether all that was answered before this turn is in the state
        for losses in range(MAX_LOSSES):
            tried = self._try(group)
            if replica.state.done:
                began = time.monotonic()
                if await replica.append():
                    self._keeping.consider(replica)
                    return tried
                took = (
                    time.monotonic() - began
                )  # two that try at once hold each other up: the slower the store, the longer
                await asyncio.sleep(random.uniform(0, min(MAX_BACK_OFF_S, took * 2 ** min(losses, 2) / 2)))
                if losses % 2:
                    await replica.catch_up()
                    current = True
            elif current or not await replica.catch_up():
                return tried
            else:
                current = True
        raise CommitConflict("other replicas change the catalog all the time", retry_after_ms=500)

    def _try(self, group: Sequence[_Waiting]) -> Sequence[_Waiting]:
        """Runs the work of as many as fit into one entry on the state."""
        state = self._replica.state
        for count, waiting in enumerate(group, 1):
            mark = state.mark()
            try:
                waiting.outcome = (waiting.context.run(waiting.work, state), None)
            except Exception as refused:
                state.back_to(mark)
                waiting.outcome = (None, refused)
            if state.done and count % 8 == 0 and size_of(state.done) >= GROUP_BYTES:
                return group[:count]
        return group

    # -- notice
    def _told(self, news: ControlNews) -> None:
        for listener in self._listeners:
            listener(news)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._watchers += 1
        if self._tail is None or self._tail.done():
            self._tail = asyncio.get_running_loop().create_task(self._follow(), context=contextvars.Context())
        try:
            yield
        finally:
            self._watchers -= 1

    async def _follow(self) -> None:
        """Looks for others' entries while anybody watches."""
        failures = 0
        while self._watchers and not self._closed:
            await asyncio.sleep(min(MAX_PAUSE_S, random.uniform(*PROBE_S) * 2 ** min(failures, 6)))
            try:
                await self.run(lambda tx: None)
                failures = 0
            except MillraceError as failed:
                failures += 1
                if failures == 1:
                    _log.warning("the control log cannot be followed: %s", failed.message)


def _for_callers(failed: BaseException) -> BaseException:
    if isinstance(failed, MillraceError | asyncio.CancelledError):
        return failed
    unknown = OutcomeUnknown("the control log failed in a way nobody expected", hint="repeat it with the same id")
    unknown.__cause__ = failed
    return unknown
