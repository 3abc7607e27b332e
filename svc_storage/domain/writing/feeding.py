"""What a client sends, into its stream: by a task of its own, so that acknowledgements go out while frames come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import Enum

from millrace import errors
from svc_storage.domain.writing.appending import AppendStream, Incoming
from svc_storage.domain.writing.schema_change import SchemaChange


class Signal(Enum):
    """FLUSH: commit now. FINISH: no frame follows."""

    FLUSH = "FLUSH"
    FINISH = "FINISH"


@asynccontextmanager
async def feeding(
    stream: AppendStream,
    frames: AsyncIterator[Incoming | SchemaChange | Signal],
    *,
    until: Awaitable[None],
    reason: Callable[[], errors.MillraceError],
) -> AsyncIterator[None]:
    """Feeds while the block runs, and closes the stream with it. Once `until` is done, no more is read: what came is committed, then the
    stream ends with `reason()`."""
    feed = asyncio.create_task(_feed(stream, frames), name="append feed")
    end = asyncio.create_task(_end(stream, feed, until, reason), name="append end")
    try:
        yield
    finally:
        stream.close()
        feed.cancel()
        end.cancel()
        await asyncio.wait([feed, end], timeout=1.0)


async def _feed(stream: AppendStream, frames: AsyncIterator[Incoming | SchemaChange | Signal]) -> None:
    """Ends with FINISH, or fails the stream with what was wrong; then all that came before it is committed first."""
    try:
        async for frame in frames:
            if frame is Signal.FINISH:
                await stream.finish()
                return
            if isinstance(frame, Incoming):
                await stream.append(frame)
            elif isinstance(frame, SchemaChange):
                await stream.change_schema(frame)
            else:
                stream.flush()
        abandoned = "the stream ended without `finish`: what was not committed is dropped"
        stream.fail(errors.StreamProtocol(abandoned, field="finish"))
    except errors.MillraceError as refused:
        await stream.end_with(refused)
    except Exception as bug:
        failure = errors.Unexpected("reading the stream failed")
        failure.__cause__ = bug
        stream.fail(failure)


async def _end(
    stream: AppendStream, feed: asyncio.Task[None], until: Awaitable[None], reason: Callable[[], errors.MillraceError]
) -> None:
    await until
    feed.cancel()
    await asyncio.wait([feed])
    await stream.end_with(reason())
