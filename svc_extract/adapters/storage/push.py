"""One AppendRows stream per Ingest stream, with the caller's own token; nothing is repeated here: the caller resumes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pyarrow as pa

from millrace.arrow import ipc
from millrace.client import status
from millrace.client.channel import Connection
from millrace.errors import Unexpected
from millrace.storage.v1 import frames_pb2, storage_pb2_grpc
from millrace.storage.v1 import storage_pb2 as pb
from millrace.types.v1 import types_pb2
from millrace.wire.schema import schema_from_proto
from svc_extract.convert.positions import duration_ms, letter_to, position_from, position_to
from svc_extract.ports import (
    DeadLetter,
    OnBadRow,
    Position,
    PushCommitted,
    PushDone,
    PushOpen,
    PushOpened,
    RowFault,
)


class StorageGate:
    def __init__(self, as_caller: Connection) -> None:
        self._connection = as_caller

    @asynccontextmanager
    async def open(self, request: PushOpen) -> AsyncIterator[StorageChannel]:
        stub = storage_pb2_grpc.StorageServiceStub(self._connection.channel)
        call = stub.AppendRows(metadata=self._connection.metadata(request.table))
        try:
            channel = StorageChannel(call)
            await channel.begin(request)
            yield channel
        finally:
            call.cancel()


class StorageChannel:
    opened: PushOpened

    def __init__(self, call: Any) -> None:
        self._call = call

    async def begin(self, request: PushOpen) -> None:
        await self._write(pb.AppendRowsRequest(open=_open(request)))
        self.opened = _opened(await self._read("opened"))

    async def send(
        self,
        offset: int | None,
        rows: pa.RecordBatch | None,
        payload: Any,
        dead_letters: Sequence[DeadLetter],
        position: Position | None,
    ) -> None:
        batch = payload if rows is None else _batch(rows)
        await self._write(
            pb.AppendRowsRequest(
                batch=frames_pb2.AppendBatch(
                    offset=offset,
                    batch=batch,
                    position=position_to(position),
                    dead_letters=[letter_to(one) for one in dead_letters],
                )
            )
        )

    async def flush(self) -> None:
        await self._write(pb.AppendRowsRequest(flush=frames_pb2.Flush()))

    async def finish(self) -> None:
        await self._write(pb.AppendRowsRequest(finish=frames_pb2.Finish()))
        with contextlib.suppress(*status.CALL_ERRORS, asyncio.InvalidStateError):
            await status.raising(self._call.done_writing())

    async def answers(self) -> AsyncIterator[PushCommitted | PushDone]:
        while True:
            answer = await self._answer()
            match answer.WhichOneof("message"):
                case "committed":
                    yield _committed(answer.committed)
                case "done":
                    yield PushDone(answer.done.next_offset, answer.done.version)
                    return

    async def _write(self, frame: pb.AppendRowsRequest) -> None:
        """A write that fails says nothing: why the stream ended is what reading says."""
        with contextlib.suppress(*status.CALL_ERRORS, asyncio.InvalidStateError):
            await status.raising(self._call.write(frame))

    async def _read(self, wanted: str) -> Any:
        while True:
            answer = await self._answer()
            kind = answer.WhichOneof("message")
            if kind == wanted:
                return getattr(answer, wanted)
            if kind != "heartbeat":
                raise Unexpected(f"storage sent `{kind}` where `{wanted}` belongs")

    async def _answer(self) -> pb.AppendRowsResponse:
        try:
            answer = await status.raising(self._call.read())
        except status.CALL_ERRORS as error:
            raise status.error_of(error) from error
        if answer is grpc.aio.EOF:
            raise status.Unreachable("the stream ended without `done`", metadata={"grpc_code": "OK"})
        assert isinstance(answer, pb.AppendRowsResponse)
        if answer.WhichOneof("message") == "error":
            raise status.in_band(answer.error)
        return answer


def _batch(rows: pa.RecordBatch) -> types_pb2.Batch:
    if not rows.num_rows:
        return types_pb2.Batch()
    return types_pb2.Batch(arrow=ipc.encode(rows), row_count=rows.num_rows)


def _open(request: PushOpen) -> pb.AppendOpen:
    frame = pb.AppendOpen(
        table=request.table,
        writer_id=request.writer_id,
        epoch=request.epoch,
        validate_only=request.validate_only,
        on_bad_row=types_pb2.ON_BAD_ROW_DEAD_LETTER
        if request.on_bad_row is OnBadRow.DEAD_LETTER
        else types_pb2.ON_BAD_ROW_FAIL,
    )
    if request.commit_interval_ms is not None:
        frame.commit_interval.FromMilliseconds(request.commit_interval_ms)
    return frame


def _opened(message: frames_pb2.AppendOpened) -> PushOpened:
    return PushOpened(
        epoch=message.epoch,
        next_offset=message.next_offset,
        position=position_from(message.position) if message.HasField("position") else None,
        schema=schema_from_proto(message.schema),
        max_unacked_bytes=message.max_unacked_bytes,
        max_unacked_batches=message.max_unacked_batches,
        max_message_bytes=message.max_message_bytes,
        ack_timeout_ms=duration_ms(message.ack_timeout),
    )


def _committed(message: frames_pb2.Committed) -> PushCommitted:
    return PushCommitted(
        next_offset=message.next_offset,
        version=message.version,
        time_us=message.commit_time.seconds * 1_000_000 + message.commit_time.nanos // 1000,
        rows_written=message.rows_written,
        rows_dead_lettered=message.rows_dead_lettered,
        rows_duplicate=message.rows_duplicate,
        sample=tuple(RowFault(one.row_index, one.field, one.reason, one.message) for one in message.sample),
    )
