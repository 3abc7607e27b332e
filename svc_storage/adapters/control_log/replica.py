"""One replica's copy of the state, and its place in the log: catching up, putting the next entry, starting over from a snapshot.

Whoever was silent for long (stopped, partitioned) may face a log that was trimmed beyond its place; a free number there means nothing.
So what the log said counts only if the last talk with it began at most `silence_s` before the answer; else snapshots are looked at
first, of which there is always one above whatever was trimmed. Entries are trimmed an hour after they were seen (`keeping.py`), twelve
times as late.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Sequence

from millrace.errors import MillraceError, OutcomeUnknown, StoreUnavailable
from millrace.failpoints import failpoint
from svc_storage.adapters.control_log.codec import ID_BYTES, decode_entry, decode_snapshot, encode_entry
from svc_storage.adapters.control_log.entries import Entries
from svc_storage.adapters.control_log.state import Operation, State
from svc_storage.ports import ControlNews

READ_AHEAD = 64
TRIES = 3
_LARGE_BYTES = 256 << 10
Stamp = tuple[float, float]
"""Seconds by a clock that only rises (and counts a suspended machine where the kernel can), seconds by the wall."""


def now() -> Stamp:
    rising = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
    return rising, time.time()


class Replica:
    """Used by one task at a time. Between its calls `state` holds exactly the entries up to `head`, plus what the caller is trying."""

    def __init__(
        self,
        entries: Entries,
        tell: Callable[[ControlNews], None],
        *,
        silence_s: float,
        clock: Callable[[], Stamp] = now,
    ) -> None:
        self._entries, self._tell, self._silence_s, self._clock = entries, tell, silence_s, clock
        self.state = State()
        self.head = 0
        self.snapshot = 0  # the newest known
        self.bytes_since = 0  # of entries after it
        self.ages: deque[tuple[float, int]] = deque(maxlen=64)  # (when, head then), oldest first
        self._talked = clock()

    # -- reading
    async def start_over(self) -> None:
        """From the newest snapshot, if it is above what is known here, then up to the head. Also how a replica starts."""
        for _ in range(TRIES):
            started = self._clock()
            newest = max(await self._entries.snapshots(), default=0)
            data = b"" if newest <= self.head else await self._entries.get_snapshot(newest)
            if data is not None:
                if data:
                    self.state = await asyncio.to_thread(_thawed, newest, data)
                    self._jumped(newest)
                self._talked = started
                await self.catch_up()
                return
        raise StoreUnavailable("snapshots of the control log disappear while they are read", retry_after_ms=1_000)

    def _jumped(self, n: int) -> None:
        self.head = self.snapshot = n
        self.bytes_since = 0
        self._tell(ControlNews(self.state.revision(), None, tuple(self.state.leases())))

    async def catch_up(self) -> int:
        """Applies what others appended; how many entries. Raises ChecksumMismatch, StoreUnavailable."""
        applied, found = 0, [b""] * READ_AHEAD
        while len(found) == READ_AHEAD:
            started = self._clock()
            found = list(await self._entries.read_from(self.head + 1, READ_AHEAD))
            if self._silent_for_long():
                await self.start_over()
                return applied + 1
            for data in found:
                await self._apply(data)
            applied += len(found)
            self._talked = started
        return applied

    async def _apply(self, data: bytes) -> None:
        n = self.head + 1
        if len(data) > _LARGE_BYTES:
            operations = await asyncio.to_thread(decode_entry, n, data)
        else:
            operations = decode_entry(n, data)
        for operation in operations:
            self.state.do(operation)
        self._advance(data)

    def _advance(self, data: bytes) -> None:
        """`state` now holds one entry more."""
        news = self.state.news()
        self.state.keep()
        self.head += 1
        self.bytes_since += len(data)
        rising = self._clock()[0]
        if not self.ages or rising - self.ages[-1][0] >= self._silence_s / 5:
            self.ages.append((rising, self.head))
        self._tell(news)

    # -- writing
    async def append(self) -> bool:
        """Makes what was done to `state` the next entry; durable when True. False: others were first, theirs is applied, and what was
        done is undone. Undone too when this raises StoreUnavailable (nothing happened) or OutcomeUnknown."""
        n, data = self.head + 1, encode_entry(self.state.done, os.urandom(ID_BYTES))
        try:
            started = self._clock()
            failpoint("storage.before_catalog_commit")
            there = await self._put(n, data)
            failpoint("storage.after_catalog_commit")
            late = self._silent_for_long()
            if there is None and (not late or await self._stands(n, data)):
                self._talked = self._talked if late else started
                self._advance(data)
                return True
        finally:
            self.state.back_to((0, 0))  # nothing is left to undo once it was kept
        if late or there is None:
            await self.start_over()
        else:
            await self._apply(there)
            self._talked = started
        return False

    async def refresh(self) -> None:
        """Before anything is tried."""
        if self._silent_for_long():
            await self.start_over()

    async def _put(self, n: int, data: bytes) -> bytes | None:
        """None: it stands at `n`, by this try or an earlier one. Else what stands there."""
        doubt: MillraceError | None = None
        for _ in range(TRIES):
            try:
                if doubt is not None and (found := await self._entries.read_from(n, 1)):
                    there: bytes | None = found[0]
                else:
                    there = await self._entries.put_if_absent(n, data)
                return None if there == data else there
            except OutcomeUnknown as unknown:
                doubt = unknown
            except StoreUnavailable:
                if doubt is None:
                    raise
        raise OutcomeUnknown(
            "the store did not say whether the change happened", hint="repeat the request with the same request_id"
        ) from doubt

    async def _stands(self, n: int, data: bytes) -> bool:
        """Whether an entry that was put after a long silence is part of the log, and not alone where all was trimmed."""
        if max(await self._entries.snapshots(), default=0) <= n:
            return True
        found = await self._entries.read_from(n, 2)
        if not found:
            raise OutcomeUnknown("the change's entry was trimmed", hint="repeat it with the same request_id")
        return found[0] == data and len(found) == 2

    def _silent_for_long(self) -> bool:
        return max(a - b for a, b in zip(self._clock(), self._talked, strict=True)) > self._silence_s


def _thawed(n: int, data: bytes) -> State:
    return decode_snapshot(n, data).thaw()


def size_of(operations: Sequence[Operation]) -> int:
    """About how many bytes they carry."""
    return sum(200 + _size(argument) for operation in operations for argument in operation.arguments)


def _size(value: object) -> int:
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, tuple | list):
        return sum(map(_size, value))
    inner = (getattr(value, name, None) for name in ("value", "body", "spec", "status", "event"))
    return 50 + sum(_size(one) for one in inner if one is not None) if hasattr(value, "__slots__") else 8
