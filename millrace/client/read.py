"""Reads a table at one version: planned once, each split resumed row by row where it broke, and counted at its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from millrace import errors
from millrace.client.buffer import ByteQueue
from millrace.client.channel import PLAN_DEADLINE_S, Connection, call
from millrace.client.resume import Resumed
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.types.v1 import types_pb2
from millrace.wire.batch import read_batch
from millrace.wire.schema import schema_from_proto

BUFFER_BYTES = 16 * 1024 * 1024


async def plan(connection: Connection, request: storage_pb2.PlanReadRequest) -> storage_pb2.PlanReadResponse:
    """A pinned version and its splits. Raises TableNotFound, VersionExpired, VersionInFuture, TableRecreated, ChangesNotAppendOnly."""
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    return await call(
        connection,
        stub.PlanRead,
        request,
        resource=request.table,
        deadline_s=PLAN_DEADLINE_S,
        answer=storage_pb2.PlanReadResponse,
    )


async def read_split(
    connection: Connection,
    split_token: bytes,
    schema: pa.Schema,
    *,
    table: str = "",
    compression: int = types_pb2.COMPRESSION_UNSPECIFIED,
    max_message_bytes: int = 0,
) -> AsyncGenerator[pa.RecordBatch, None]:
    """The split's rows in their order, each exactly once however often the stream breaks. Close it (`aclosing`) when left early.

    Raises what storage refuses; `Unexpected` when rows are missing or doubled at the end."""
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    request = storage_pb2.ReadRowsRequest(
        split_token=split_token,
        encoding=types_pb2.ENCODING_ARROW,
        compression=types_pb2.Compression.ValueType(compression),
        max_message_bytes=max_message_bytes,
    )
    messages: Resumed[storage_pb2.ReadRowsResponse] = Resumed(
        lambda: stub.ReadRows(request, metadata=connection.metadata(table))
    )
    rows = 0
    try:
        async for message in messages:
            match message.WhichOneof("message"):
                case "batch":
                    if not message.resume_token:
                        raise errors.Unexpected("storage sent rows without a resume token")
                    batch = await decoded(message.batch, schema, compression)
                    rows += batch.num_rows
                    request.resume_token = message.resume_token
                    yield batch
                case "end":
                    if message.end.row_count != rows:
                        raise errors.Unexpected(f"the split has {message.end.row_count} rows, {rows} came")
                    messages.finish()
    finally:
        await messages.aclose()


async def decoded(batch: types_pb2.Batch, schema: pa.Schema, compression: int) -> pa.RecordBatch:
    """Rows of our own server; decompression happens off the loop."""
    if compression in (types_pb2.COMPRESSION_LZ4, types_pb2.COMPRESSION_ZSTD) or batch.HasField("rows"):
        return await asyncio.to_thread(read_batch, batch, schema)
    return read_batch(batch, schema)


class TableRead:
    """One read of a table: `async with` it, iterate its batches. `parallel` splits are read at a time (their batches interleave);
    1 keeps the order of the plan. Memory: about BUFFER_BYTES beyond what the consumer holds."""

    def __init__(
        self,
        connection: Connection,
        request: storage_pb2.PlanReadRequest,
        *,
        parallel: int = 1,
        compression: int = types_pb2.COMPRESSION_UNSPECIFIED,
    ) -> None:
        self._connection, self._request, self._compression = connection, request, compression
        self._parallel = max(1, parallel)
        self._plan: storage_pb2.PlanReadResponse | None = None
        self._schema: pa.Schema | None = None
        self._queue: ByteQueue[pa.RecordBatch] = ByteQueue(BUFFER_BYTES)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def planned(self) -> storage_pb2.PlanReadResponse:
        """The plan; raises RuntimeError before the read was entered."""
        if self._plan is None:
            raise RuntimeError("the read was not entered")
        return self._plan

    @property
    def schema(self) -> pa.Schema:
        if self._schema is None:
            raise RuntimeError("the read was not entered")
        return self._schema

    @property
    def version(self) -> int:
        return self.planned.version

    async def __aenter__(self) -> Self:
        if self._parallel > 1 and not self._request.preferred_min_splits:
            self._request.preferred_min_splits = self._parallel
        self._plan = await plan(self._connection, self._request)
        self._schema = schema_from_proto(self._plan.schema)
        shares: list[Sequence[storage_pb2.Split]] = [
            splits for at in range(self._parallel) if (splits := self._plan.splits[at :: self._parallel])
        ]
        self._queue.producers(len(shares))
        self._tasks = [asyncio.create_task(self._fill(splits), name=f"read {self._request.table}") for splits in shares]
        return self

    async def _fill(self, splits: Sequence[storage_pb2.Split]) -> None:
        try:
            for split in splits:
                batches = read_split(
                    self._connection,
                    split.split_token,
                    self.schema,
                    table=self._request.table,
                    compression=self._compression,
                )
                async with contextlib.aclosing(batches):
                    async for batch in batches:
                        await self._queue.put(batch, batch.nbytes)
        except Exception as error:
            self._queue.fail(error)
        else:
            self._queue.finished()

    def __aiter__(self) -> AsyncIterator[pa.RecordBatch]:
        return self._queue

    async def aclose(self) -> None:
        """Cancels what is still read. Safe to repeat."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def to_arrow(self) -> pa.Table:
        """All rows; memory is the caller's."""
        batches: list[Any] = [batch async for batch in self]
        return await asyncio.to_thread(pa.Table.from_batches, batches, self.schema)
