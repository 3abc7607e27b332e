"""A live result: an Arrow table that changes with the data, frame by frame, across breaks."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import pyarrow as pa

from millrace import errors
from millrace.analysis.v1 import analysis_pb2, analysis_pb2_grpc
from millrace.client import frames
from millrace.client.channel import Connection
from millrace.client.read import decoded
from millrace.client.resume import Resumed, resumable
from millrace.client.status import Unreachable
from millrace.wire.schema import schema_from_proto

_INLINE_ROWS = 1_000
_MAX_WRONG_FRAMES = 3


@dataclass(frozen=True, slots=True)
class Frame:
    """The whole result as of `versions` (table full name -> version). `changed_rows`: upserts of this frame, `deleted_rows` likewise.

    `reason`: why it was sent whole (FIRST, MODE, LARGE_CHANGE, TABLE_RECREATED, RESUMED); empty for a delta."""

    table: pa.Table
    versions: Mapping[str, int]
    commit_time: dt.datetime | None
    event_time_high: dt.datetime | None
    changed_rows: int
    deleted_rows: int
    reason: str
    conflated_versions: int


class Subscription:
    """`async for frame in subscription`: one at the start, then one per change; the newest state wins when the consumer is slow.

    Close it (`aclose`, or as a context). Raises SqlInvalid, TableNotFound, ResultTooLarge and the like."""

    def __init__(self, connection: Connection, request: analysis_pb2.SubscribeRequest, *, tries: int = 10) -> None:
        self._request = analysis_pb2.SubscribeRequest()
        self._request.CopyFrom(request)
        self._stub = analysis_pb2_grpc.AnalysisServiceStub(connection.channel)
        self._connection = connection
        self._messages: Resumed[analysis_pb2.SubscribeResponse] = Resumed(
            self._open, retries=self._retries, tries=tries
        )
        self._schema: pa.Schema | None = None
        self._key_schema = pa.schema([])
        self._table: pa.Table | None = None
        self._sequence = self._wrong = 0
        self._frame: _Pending | None = None

    def _open(self) -> object:
        self._sequence, self._frame = 0, None
        return self._stub.Subscribe(self._request, metadata=self._connection.metadata())

    def _retries(self, error: errors.MillraceError) -> bool:
        if isinstance(error, (errors.TokenUnsupported, errors.TokenMismatch)) and self._request.resume_token:
            self._request.resume_token = b""
            return True
        return resumable(error)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Frame:
        async for message in self._messages:
            frame = await self._take(message)
            if frame is not None:
                return frame
        raise StopAsyncIteration

    async def _take(self, message: analysis_pb2.SubscribeResponse) -> Frame | None:
        self._sequence += 1
        if message.sequence != self._sequence:
            await self._start_over(f"message {message.sequence} came as number {self._sequence}")
            return None
        match message.WhichOneof("message"):
            case "header":
                self._schema = schema_from_proto(message.header.schema)
                self._key_schema = schema_from_proto(message.header.key_schema)
            case "begin":
                self._frame = _Pending(message.begin)
            case "upsert" if self._frame is not None:
                self._frame.upserts.append(await decoded(message.upsert, self.schema, self._request.compression))
            case "delete" if self._frame is not None:
                self._frame.deletes.append(await decoded(message.delete, self._key_schema, self._request.compression))
            case "commit" if self._frame is not None:
                return await self._commit(message)
            case "heartbeat" if message.resume_token and self._table is not None:
                self._request.resume_token = message.resume_token
        return None

    @property
    def schema(self) -> pa.Schema:
        """Columns of the result; raises RuntimeError before the first frame."""
        if self._schema is None:
            raise RuntimeError("no frame came yet")
        return self._schema

    async def _commit(self, message: analysis_pb2.SubscribeResponse) -> Frame | None:
        pending, self._frame = self._frame, None
        assert pending is not None
        change = pending.change(self.schema, self._key_schema)
        before = self._table if self._table is not None else self.schema.empty_table()
        if change.upserts.num_rows + before.num_rows <= _INLINE_ROWS:
            table = frames.apply(before, change, self._key_schema.names)
        else:
            table = await asyncio.to_thread(frames.apply, before, change, self._key_schema.names)
        if table.num_rows != message.commit.row_count:
            await self._start_over(f"the result has {message.commit.row_count} rows, {table.num_rows} are here")
            return None
        self._table, self._wrong = table, 0
        self._request.resume_token = message.resume_token
        return pending.frame(table, change, message.commit)

    async def _start_over(self, why: str) -> None:
        """What is here cannot be trusted: the whole result is asked for again."""
        self._request.resume_token = b""
        self._wrong += 1
        if self._wrong > _MAX_WRONG_FRAMES:
            raise errors.Unexpected(f"the live result does not add up: {why}")
        await self._messages.interrupt(Unreachable(why))

    async def aclose(self) -> None:
        """Ends the subscription. Safe to repeat."""
        await self._messages.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Pending:
    """A frame whose commit has not come."""

    def __init__(self, begin: analysis_pb2.FrameBegin) -> None:
        self.replace = begin.kind != analysis_pb2.FRAME_KIND_DELTA
        self.reason = begin.reason
        self.upserts: list[pa.RecordBatch] = []
        self.deletes: list[pa.RecordBatch] = []

    def change(self, schema: pa.Schema, key_schema: pa.Schema) -> frames.Change:
        upserts = pa.Table.from_batches(self.upserts, schema)
        deletes = pa.Table.from_batches(self.deletes, key_schema) if self.deletes else None
        return frames.Change(self.replace, upserts, deletes)

    def frame(self, table: pa.Table, change: frames.Change, commit: analysis_pb2.FrameCommit) -> Frame:
        has_time, has_event_time = commit.HasField("commit_time"), commit.HasField("event_time_high")
        return Frame(
            table=table,
            versions=dict(commit.versions),
            commit_time=commit.commit_time.ToDatetime(dt.UTC) if has_time else None,
            event_time_high=commit.event_time_high.ToDatetime(dt.UTC) if has_event_time else None,
            changed_rows=change.upserts.num_rows,
            deleted_rows=change.deletes.num_rows if change.deletes is not None else 0,
            reason=self.reason,
            conflated_versions=commit.conflated_versions,
        )


def subscribe_request(
    question: analysis_pb2.SubscribeRequest, *, key_columns: Sequence[str] = (), min_interval_s: float | None = None
) -> analysis_pb2.SubscribeRequest:
    """`question` with its options set."""
    question.key_columns[:] = key_columns
    if min_interval_s is not None:
        question.min_interval.FromMicroseconds(round(min_interval_s * 1e6))
    return question
