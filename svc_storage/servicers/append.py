"""AppendRows and MergeRows: frames go in by a task of their own, the handler itself tells what was committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, TypeAlias

from millrace import errors
from millrace.server.identity import caller
from millrace.server.lifecycle import HEARTBEAT_S, stream_life
from millrace.server.telemetry import traceparent
from millrace.storage.v1 import merge_pb2
from millrace.storage.v1 import storage_pb2 as pb
from svc_storage.convert import appending as convert
from svc_storage.convert import schema_change
from svc_storage.domain.opened import Opened
from svc_storage.domain.writing.appending import AppendStream, Incoming, SchemaAccepted
from svc_storage.domain.writing.feeding import Signal, feeding
from svc_storage.domain.writing.merging import columns_of
from svc_storage.domain.writing.schema_change import SchemaChange
from svc_storage.ports import Clock

Frame: TypeAlias = pb.AppendRowsRequest | merge_pb2.MergeRowsRequest
Answer: TypeAlias = type[pb.AppendRowsResponse] | type[merge_pb2.MergeRowsResponse]
ASIDE_BYTES = 32 * 1024
"""Larger batches are decoded on a worker thread."""


class AppendRpcs:
    def __init__(self, opened: Opened, clock: Clock) -> None:
        self._opened, self._clock = opened, clock

    async def AppendRows(self, request_iterator: AsyncIterator[pb.AppendRowsRequest], context: Any) -> None:
        await self._write(request_iterator, context, pb.AppendRowsResponse)

    async def MergeRows(self, request_iterator: AsyncIterator[merge_pb2.MergeRowsRequest], context: Any) -> None:
        await self._write(request_iterator, context, merge_pb2.MergeRowsResponse)

    async def _write(self, requests: AsyncIterator[Frame], context: Any, answer: Answer) -> None:
        first = await anext(requests, None)
        if first is None:
            raise errors.StreamProtocol("the first frame is `open`", field="open")
        who = caller()
        request = convert.open_from(
            first, principal=who.principal, is_service=who.is_service, trace_context=traceparent()
        )
        table = await self._opened.table(first.open.table, uid=first.open.table_uid)
        stream = await table.committer.open(request)
        life = stream_life(context)
        async with feeding(stream, _frames(requests, stream), until=life.wait(), reason=life.error):
            await context.write(answer(opened=convert.opened(stream, columns_of(stream), table.row.uid)))
            await self._tell(stream, context, answer)

    async def _tell(self, stream: AppendStream, context: Any, answer: Answer) -> None:
        while not stream.ended:
            ack = await stream.next_event(HEARTBEAT_S)
            if ack is not None and ack.schema is not None:
                ack = replace(ack, schema=columns_of(stream))
            if isinstance(ack, SchemaAccepted):
                await context.write(answer(schema_accepted=schema_change.accepted(ack)))
            elif ack is not None:
                await context.write(answer(committed=convert.committed(ack)))
            elif not stream.ended:
                await context.write(answer(heartbeat=convert.heartbeat(self._clock.now_us())))
        await context.write(answer(done=convert.done(stream)))


async def _frames(
    requests: AsyncIterator[Frame], stream: AppendStream
) -> AsyncIterator[Incoming | SchemaChange | Signal]:
    """Raises StreamProtocol, and what a batch that cannot be decoded raises."""
    async for frame in requests:
        match frame.WhichOneof("message"):
            case "batch":
                schema = columns_of(stream)
                if frame.ByteSize() >= ASIDE_BYTES:
                    yield await asyncio.to_thread(convert.incoming_from, frame.batch, schema)
                else:
                    yield convert.incoming_from(frame.batch, schema)
            case "schema_change":
                yield schema_change.change_from(frame.schema_change)
            case "flush":
                yield Signal.FLUSH
            case "finish":
                yield Signal.FINISH
            case "open":
                raise errors.StreamProtocol("`open` comes once, first", field="open")
            case _:
                raise errors.StreamProtocol(
                    "a frame holds one of open, batch, schema_change, flush, finish", field="message"
                )
