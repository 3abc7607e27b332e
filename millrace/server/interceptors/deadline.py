"""Runs the servicer as a task of its own, ends it at its deadline, at the stream's age and on drain, and waits for its clean-up.

gRPC interrupts a cancelled handler again at its first `await` of clean-up (measured, grpcio 1.85): the task here is cancelled
once, and gets `CLEAN_UP_LIMIT_S` for its `finally` blocks whatever happens to the handler around it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextvars import ContextVar

from millrace import errors
from millrace.server.interceptors.call import Call, Proceed
from millrace.server.lifecycle import Streams

MARGIN_S = 0.2
"""Work ends this long before the caller's deadline, so that the answer still arrives."""
CLEAN_UP_LIMIT_S = 5.0

UNARY_DEFAULTS_S = {
    "LeaseService": 3.0,
    **dict.fromkeys(("PlanRead", "ValidateTransform", "ExplainQuery", "CheckSource"), 30.0),
    "LookupRows": 5.0,
    **dict.fromkeys(("FitRegression", "ForecastSeries"), 60.0),
}
"""Contracts.md section 8, by method or service name; everything else is CRUD: `CRUD_S`."""
CRUD_S = 10.0
CALL_DEFAULTS_S = {
    **UNARY_DEFAULTS_S,
    "Query": 300.0,
    "RenderChart": 300.0,
    "PreviewTransform": 300.0,
    "PreviewSource": 300.0,
}

_DEADLINE: ContextVar[float | None] = ContextVar("millrace_deadline", default=None)
_cancelled: set[asyncio.Task[bytes | None]] = set()
_log = logging.getLogger(__name__)


def ends_s() -> float | None:
    """When the caller's time is up, on the monotonic clock; None where it named no deadline. Looked at before each commit."""
    return _DEADLINE.get()


def remaining_s() -> float | None:
    """Seconds of the caller's time that are left to work in; None where it named no deadline."""
    deadline = _DEADLINE.get()
    return None if deadline is None else deadline - time.monotonic()


def default_deadline_s(service: str, name: str, *, stream: bool) -> float | None:
    """What a call gets that names no deadline: the table above; None for streams that may run for long."""
    short = service.rpartition(".")[2]
    if (found := CALL_DEFAULTS_S.get(name, CALL_DEFAULTS_S.get(short))) is not None:
        return found
    return None if stream else CRUD_S


class Deadline:
    """A layer. Opens the stream in `Streams`, too: it is the one that ends it."""

    def __init__(self, streams: Streams, *, drain_grace_s: float) -> None:
        self._streams = streams
        self._soft_s = max(0.2, min(10.0, drain_grace_s * 0.5))

    async def __call__(self, call: Call, proceed: Proceed) -> bytes | None:
        _set_deadline(call)
        if not call.is_stream:
            return await self._run(call, proceed)
        call.context.life = self._streams.open(call.method.full_name)
        call.context.ends_at_write = not call.request_streaming and not _tells_of_drain(call)
        try:
            return await self._run(call, proceed)
        finally:
            self._streams.close(call.method.full_name, call.context.life)

    async def _run(self, call: Call, proceed: Proceed) -> bytes | None:
        work = asyncio.ensure_future(proceed(call))
        try:
            await _until_done(call, work)
            if not work.done():
                await self._end_early(call, work)
        except asyncio.CancelledError:
            await _settle(work)
            raise
        if work.cancelled():
            raise _cancelled_inside(call)
        return work.result()

    async def _end_early(self, call: Call, work: asyncio.Task[bytes | None]) -> None:
        """The deadline passed or the stream should end. Raises what the caller is told, unless the work ended by itself meanwhile."""
        life = call.context.life
        if life is None or not life.ending:
            await _settle(work)
            if work.cancelled() or work.exception() is not None:
                raise _too_late()
            return
        if await self._ends_by_itself(call, work):
            return
        await _settle(work)
        if work.cancelled():
            raise life.error()

    async def _ends_by_itself(self, call: Call, work: asyncio.Task[bytes | None]) -> bool:
        """Gives a bidi stream time for its commit, and a server stream time for its message under way (or its first one)."""
        if call.request_streaming or call.tally.messages_out == 0 or _tells_of_drain(call):
            await asyncio.wait({work}, timeout=self._soft_s)
            return work.done()
        try:
            async with asyncio.timeout(self._soft_s), call.context.writing:
                if not call.context.told_to_end:
                    _cancel_once(work)  # between two messages: what was written is covered by its resume token
        except TimeoutError:
            _log.debug("%s: the client is too slow to take the message at hand", call.method.name)
        if call.context.told_to_end:
            await asyncio.wait({work}, timeout=CLEAN_UP_LIMIT_S)
        return work.done()


def _tells_of_drain(call: Call) -> bool:
    """Health's Watch: NOT_SERVING is the very message that a drain begins with."""
    return call.method.service == "grpc.health.v1.Health"


async def _until_done(call: Call, work: asyncio.Task[bytes | None]) -> None:
    """Returns when the work is done, the deadline passed, or the stream should end."""
    waiting: set[asyncio.Future[bytes | None] | asyncio.Future[None]] = {work}
    if call.context.life is not None:
        waiting.add(call.context.life.ended)
    timeout = None if call.deadline is None else max(0.0, call.deadline - time.monotonic())
    await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


def _cancel_once(work: asyncio.Task[bytes | None]) -> None:
    """A second cancellation would interrupt the clean-up that the first one began."""
    if work in _cancelled:
        return
    _cancelled.add(work)
    work.add_done_callback(_cancelled.discard)
    work.add_done_callback(lambda done: done.cancelled() or done.exception())
    work.cancel()


async def _settle(work: asyncio.Task[bytes | None]) -> None:
    """Cancels the work once and waits for its clean-up, bounded; what takes longer goes on detached and is not lost sight of."""
    _cancel_once(work)
    await asyncio.wait({work}, timeout=CLEAN_UP_LIMIT_S)
    if not work.done():
        _log.error("%s still cleans up after %.0f s", work.get_name(), CLEAN_UP_LIMIT_S)


def _set_deadline(call: Call) -> None:
    left = call.context.time_remaining()
    if left is None:
        left = default_deadline_s(call.method.service, call.method.name, stream=call.is_stream)
        margin = 0.0
    else:
        margin = min(MARGIN_S, left / 2)
    if left is not None:
        call.deadline = time.monotonic() + left - margin
        _DEADLINE.set(call.deadline)


def _too_late() -> errors.MillraceError:
    return errors.DeadlineTooShort("the caller's deadline passed before the work was done", hint="allow more time")


def _cancelled_inside(call: Call) -> BaseException:
    """The work was cancelled, not by us: the client went away during a write, or a bug let a cancellation out."""
    if call.context.cancelled() or call.context.done():
        return asyncio.CancelledError("the client went away")
    return errors.Unexpected(f"{call.method.name} was cancelled from inside")
