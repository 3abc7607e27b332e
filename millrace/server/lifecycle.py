"""How a stream ends before its work does: age and drain (contracts.md rule 4), and the heartbeats that keep it open.

A servicer of a *server stream* needs nothing: `context.write` refuses the next message and an idle one is ended for it, because
its resume token covers what was written. A servicer of a *bidi stream* watches `stream_life(context)`: it commits, answers, and
calls `check()`; if it has not ended by itself in time, it is cancelled and the same error is sent.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from millrace import errors

HEARTBEAT_S = 15.0
AGE_JITTER = 0.1


class StreamLife:
    """The life of one stream. `ended` resolves once the stream should end: give it to `asyncio.wait`; never cancel it."""

    __slots__ = ("_error", "_timer", "ended", "started_at")

    def __init__(self, age_s: float = 0.0) -> None:
        self.started_at = time.monotonic()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._error: errors.MillraceError | None = None
        self._timer: asyncio.TimerHandle | None = None
        if age_s > 0:
            after = age_s * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
            self._timer = asyncio.get_running_loop().call_later(after, self._age_out)

    @property
    def ending(self) -> bool:
        """True: end after the message (or the commit) at hand, then `check()` or raise `error()`."""
        return self._error is not None

    def error(self) -> errors.MillraceError:
        """What to raise; StreamAgedOut or StreamDraining, both with RetryInfo 0."""
        if self._error is None:
            raise LookupError("the stream is not ending")
        return self._error

    def check(self) -> None:
        """Raises `error()` when the stream should end. Call it where nothing is half done."""
        if self._error is not None:
            raise self._error

    async def wait(self) -> None:
        """Returns when the stream should end."""
        await asyncio.shield(self.ended)

    def drain(self) -> None:
        self._end(errors.StreamDraining("the server is draining", hint="resume at once", retry_after_ms=0))

    def _age_out(self) -> None:
        self._end(errors.StreamAgedOut("the stream reached its age", hint="resume at once", retry_after_ms=0))

    def _end(self, error: errors.MillraceError) -> None:
        if self._error is None:
            self._error = error
            if not self.ended.done():
                self.ended.set_result(None)

    def close(self) -> None:
        """The stream is over: no timer stays behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def stream_life(context: Any) -> StreamLife:
    """The life of the stream that `context` belongs to; one that never ends for a context of another making (a test's)."""
    found = getattr(context, "life", None)
    return found if isinstance(found, StreamLife) else StreamLife()


class Streams:
    """All open streams of this process, by method. Drain reaches every one; a limit keeps their number bounded."""

    def __init__(self, *, age_s: float, limit: int) -> None:
        self._age_s, self._limit = age_s, limit
        self._open: dict[str, set[StreamLife]] = {}
        self._count = 0
        self.draining = False

    def open(self, method: str) -> StreamLife:
        """Raises TooManyStreams beyond the limit, StreamDraining while the server drains."""
        if self.draining:
            raise errors.StreamDraining("the server is draining", hint="resume at once", retry_after_ms=0)
        if self._count >= self._limit:
            raise errors.TooManyStreams(
                f"{self._count} streams are open here, the limit",
                hint="close some, or ask again later",
                retry_after_ms=1000,
            )
        life = StreamLife(self._age_s)
        self._open.setdefault(method, set()).add(life)
        self._count += 1
        return life

    def close(self, method: str, life: StreamLife) -> None:
        life.close()
        lives = self._open.get(method, set())
        if life in lives:
            lives.remove(life)
            self._count -= 1
            if not lives:
                del self._open[method]

    def counts(self) -> dict[str, int]:
        return {method: len(lives) for method, lives in sorted(self._open.items())}

    def total(self) -> int:
        return self._count

    def drain(self) -> int:
        """Tells every stream to end; the number of those that were open. New ones are refused from now on."""
        self.draining = True
        for lives in list(self._open.values()):
            for life in list(lives):
                life.drain()
        return self._count


@asynccontextmanager
async def heartbeats(
    context: Any, make: Callable[[], Any], *, every_s: float = HEARTBEAT_S, at_once: bool = False
) -> AsyncIterator[None]:
    """Writes `make()` whenever nothing was written for `every_s` while the block runs; first of all when `at_once`.

    Writes through `context` are serialised, so the block may write whenever it likes.
    """
    if at_once:
        await context.write(make())
    beat = asyncio.create_task(_beat(context, make, every_s), name="heartbeats")
    try:
        yield
    finally:
        beat.cancel()
        await asyncio.wait({beat}, timeout=1.0)
        if beat.done() and not beat.cancelled():
            beat.exception()  # a failed write: whoever writes next hears of it


async def _beat(context: Any, make: Callable[[], Any], every_s: float) -> None:
    while True:
        quiet_for = time.monotonic() - context.last_write_at
        if quiet_for < every_s:
            await asyncio.sleep(every_s - quiet_for)
            continue
        # Not `write`: that the stream should end is for its servicer to hear, not for this task.
        await getattr(context, "send", context.write)(make())
