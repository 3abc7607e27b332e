"""When and how a call is made again (contracts.md, rule 3 and section 5).

Bare breaks and a few named reasons are repeated: 0.1 to 5 s with full jitter, at most 10 tries without a new message.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from millrace import errors
from millrace.client import status

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
TRIES = 10
IDLE_LIMIT_S = 60.0
"""Every stream that may idle has heartbeats each 15 s: silence for a minute is a break."""

_AT_ONCE = (errors.StreamAgedOut, errors.StreamDraining)
_AFTER_PAUSE = (
    status.Unreachable,
    errors.StoreUnavailable,
    errors.SourceUnavailable,
    errors.Starting,
    errors.AlreadyRunning,
    errors.CommitConflict,
)

M = TypeVar("M")


def resumable(error: errors.MillraceError) -> bool:
    """True when a client may make the same call again by itself. COMMIT_UNKNOWN is not among these: only a writer that opens anew learns
    what happened."""
    if isinstance(error, _AT_ONCE + _AFTER_PAUSE):
        return True
    exhausted = isinstance(error, (errors.TooManyStreams, errors.QuotaExceeded, errors.DiskFull))
    return exhausted and error.retry_after_ms is not None


class Backoff:
    """Counts tries and waits between them. `limit_s`: no pause begins that would end later than this after the start."""

    def __init__(self, *, tries: int = TRIES, limit_s: float | None = None) -> None:
        self._tries = tries
        self._failed = 0
        self._ends = None if limit_s is None else time.monotonic() + limit_s

    def progress(self) -> None:
        """A new message came: what failed before no longer counts."""
        self._failed = 0

    def left_s(self) -> float | None:
        """Seconds until `limit_s`; None without one."""
        return None if self._ends is None else max(0.001, self._ends - time.monotonic())

    async def pause(self, error: errors.MillraceError) -> None:
        """Waits before the next try, as long as `error` says or with full jitter. Raises `error` when it was the last one."""
        self._failed += 1
        wait = self._wait_s(error)
        left = self.left_s()
        if self._failed >= self._tries or (left is not None and wait >= left):
            raise error
        await asyncio.sleep(wait)

    def _wait_s(self, error: errors.MillraceError) -> float:
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failed, 10))
        if isinstance(error, _AT_ONCE) and self._failed == 1:
            return (error.retry_after_ms or 0) / 1000
        if error.retry_after_ms:
            return error.retry_after_ms / 1000 + random.uniform(0, FIRST_PAUSE_S)
        return random.uniform(0, longest)


class Resumed(Generic[M]):
    """A server stream that survives breaks: `open` is called again for each try and reads the resume state that its maker keeps.

    `async for` gives messages until `finish` was called (an explicit end was seen). A stream that ends OK without that is a break.
    Close it (`aclose`, or as a context) unless it was read to the end. One reader at a time."""

    def __init__(
        self,
        open: Callable[[], Any],
        *,
        retries: Callable[[errors.MillraceError], bool] = resumable,
        idle_s: float | None = IDLE_LIMIT_S,
        tries: int = TRIES,
    ) -> None:
        self._open, self._retries, self._idle_s = open, retries, idle_s
        self._backoff = Backoff(tries=tries)
        self._call: Any = None
        self._finished = False
        self.resumes = 0

    def finish(self) -> None:
        """The explicit end was seen: nothing more is read, whatever the status says."""
        self._finished = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> M:
        while not self._finished:
            try:
                message = await self._next()
            except (*status.CALL_ERRORS, errors.MillraceError) as error:
                await self._broken(status.error_of(error), error)
                continue
            self._backoff.progress()
            return message
        self._cancel()
        raise StopAsyncIteration

    async def _next(self) -> M:
        if self._call is None:
            self._call = self._open()
        try:
            async with asyncio.timeout(self._idle_s):
                message = await status.raising(self._call.read())
        except TimeoutError as error:
            raise status.Unreachable(f"nothing came for {self._idle_s} s") from error
        if message is grpc.aio.EOF:
            raise status.Unreachable("the stream ended without its end", metadata={"grpc_code": "OK"})
        found: M = message
        return found

    async def interrupt(self, failure: errors.MillraceError) -> None:
        """The consumer found that what came is wrong: as if the stream had broken with `failure`, which is raised after too many tries."""
        await self._broken(failure, failure)

    async def _broken(self, failure: errors.MillraceError, cause: BaseException) -> None:
        self._cancel()
        if not self._retries(failure):
            raise failure from (cause if cause is not failure else None)
        self.resumes += 1
        await self._backoff.pause(failure)

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    async def aclose(self) -> None:
        """Cancels the call. Safe to repeat."""
        self._finished = True
        self._cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


@asynccontextmanager
async def closing(stream: M, *, limit_s: float = 5.0) -> AsyncIterator[M]:
    """Closes `stream` (it has `aclose`) however the block ends; no second cancellation cuts that short, no hang holds it up."""
    try:
        yield stream
    finally:
        await asyncio.shield(asyncio.wait_for(stream.aclose(), limit_s))  # type: ignore[attr-defined]
