"""AppendRows: one task feeds the stream from the client's frames, the handler itself tells what was committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from millrace import errors
from millrace.server.identity import caller
from millrace.server.lifecycle import HEARTBEAT_S, StreamLife, stream_life
from millrace.storage.v1 import storage_pb2 as pb
from svc_storage.convert import appending as convert
from svc_storage.domain.appending import AppendStream
from svc_storage.domain.opened import Opened, OpenTable
from svc_storage.ports import Clock

ASIDE_BYTES = 32 * 1024
"""Larger batches are decoded on a worker thread."""


class AppendRpcs:
    def __init__(self, opened: Opened, clock: Clock) -> None:
        self._opened, self._clock = opened, clock

    async def AppendRows(self, request_iterator: AsyncIterator[pb.AppendRowsRequest], context: Any) -> None:
        first = await anext(request_iterator, None)
        if first is None:
            raise errors.StreamProtocol("the first frame is `open`", field="open")
        request = convert.open_from(first, principal=caller().principal, trace_context=_traceparent(context))
        table = await self._opened.table(first.open.table, uid=first.open.table_uid)
        stream = await table.committer.open(request)
        feeding = asyncio.create_task(_feed(stream, table, request_iterator), name="append feed")
        ending = asyncio.create_task(_end_in_time(stream, feeding, stream_life(context)), name="append end")
        try:
            await context.write(convert.opened(stream, table.definition, table.row.uid))
            await self._tell(stream, context)
        finally:
            stream.close()
            feeding.cancel()
            ending.cancel()

    async def _tell(self, stream: AppendStream, context: Any) -> None:
        while not stream.ended:
            ack = await stream.next_event(HEARTBEAT_S)
            if ack is not None:
                await context.write(convert.committed(ack))
            elif not stream.ended:
                await context.write(convert.heartbeat(self._clock.now_us()))
        await context.write(convert.done(stream))


async def _feed(stream: AppendStream, table: OpenTable, frames: AsyncIterator[pb.AppendRowsRequest]) -> None:
    """Ends with `finish`, or fails the stream with what was wrong."""
    try:
        async for frame in frames:
            match frame.WhichOneof("message"):
                case "batch":
                    await stream.append(await _decoded(frame, table))
                case "flush":
                    stream.flush()
                case "finish":
                    await stream.finish()
                    return
                case "open":
                    raise errors.StreamProtocol("`open` comes once, first", field="open")
                case _:
                    raise errors.StreamProtocol("a frame holds one of open, batch, flush, finish", field="message")
        abandoned = "the stream ended without `finish`: what was not committed is dropped"
        stream.fail(errors.StreamProtocol(abandoned, field="finish"))
    except errors.MillraceError as refused:
        await stream.end_with(refused)
    except asyncio.CancelledError:
        raise
    except Exception as bug:
        failure = errors.Unexpected("reading the stream failed")
        failure.__cause__ = bug
        stream.fail(failure)


async def _decoded(frame: pb.AppendRowsRequest, table: OpenTable) -> Any:
    schema = table.definition.schema
    if frame.ByteSize() >= ASIDE_BYTES:
        return await asyncio.to_thread(convert.incoming_from, frame.batch, schema)
    return convert.incoming_from(frame.batch, schema)


async def _end_in_time(stream: AppendStream, feeding: asyncio.Task[None], life: StreamLife) -> None:
    """Age and drain: no more frames are read, what came is committed, then the stream ends with the reason."""
    await life.wait()
    feeding.cancel()
    await asyncio.wait([feeding])
    await stream.end_with(life.error())


def _traceparent(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent":
            return str(value)
    return ""
