"""One query: header, rows, end. Goes on where it broke when its order is total; else starts anew only while no row was handed on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from millrace import errors
from millrace.analysis.v1 import analysis_pb2, analysis_pb2_grpc, query_pb2
from millrace.client.channel import QUERY_DEADLINE_S, Connection
from millrace.client.read import decoded
from millrace.client.resume import Resumed, resumable
from millrace.wire.schema import schema_from_proto
from millrace.wire.values import value_to_proto


def sql_query(text: str, params: Mapping[str, Any] | None = None) -> query_pb2.SqlQuery:
    """`params`: Python values for `$name` in `text`. Raises FieldInvalid for a value of no type."""
    return query_pb2.SqlQuery(text=text, params={name: value_to_proto(value) for name, value in (params or {}).items()})


class QueryRead:
    """One running query: `async with` it (waits for its header), iterate its batches; `end` is there after the last.

    Raises SqlInvalid, TableNotFound, ResultTooLarge, MemoryLimit and the like at entry or while iterating."""

    def __init__(
        self, connection: Connection, request: analysis_pb2.QueryRequest, *, deadline_s: float | None = QUERY_DEADLINE_S
    ) -> None:
        self._request = request
        self._rows = 0
        self._schema: pa.Schema | None = None
        self._header: analysis_pb2.QueryHeader | None = None
        self._end: analysis_pb2.QueryEnd | None = None
        stub = analysis_pb2_grpc.AnalysisServiceStub(connection.channel)
        self._messages: Resumed[analysis_pb2.QueryResponse] = Resumed(
            lambda: stub.Query(self._request, metadata=connection.metadata(), timeout=deadline_s), retries=self._retries
        )

    def _retries(self, error: errors.MillraceError) -> bool:
        return resumable(error) and (not self._rows or bool(self._request.resume_token))

    @property
    def schema(self) -> pa.Schema:
        if self._schema is None:
            raise RuntimeError("the query was not entered")
        return self._schema

    @property
    def header(self) -> analysis_pb2.QueryHeader:
        """Query id and the versions read; raises RuntimeError before the query was entered."""
        if self._header is None:
            raise RuntimeError("the query was not entered")
        return self._header

    @property
    def end(self) -> analysis_pb2.QueryEnd:
        """Row count, `truncated`, bytes scanned, time; raises RuntimeError before the last row was read."""
        if self._end is None:
            raise RuntimeError("the query was not read to its end")
        return self._end

    async def __aenter__(self) -> Self:
        try:
            while self._header is None:
                self._take_header(await anext(self._messages))
        except BaseException:
            await self.aclose()
            raise
        return self

    def _take_header(self, message: analysis_pb2.QueryResponse) -> None:
        if message.WhichOneof("message") == "header":
            self._header = message.header
            self._schema = schema_from_proto(message.header.schema)

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows, once. The types are the schema's."""
        async for message in self._messages:
            match message.WhichOneof("message"):
                case "header":
                    self._take_header(message)
                case "batch":
                    batch = await decoded(message.batch, self.schema, self._request.compression)
                    self._rows += batch.num_rows
                    self._request.resume_token = message.resume_token
                    yield batch
                case "end":
                    if message.end.row_count != self._rows:
                        raise errors.Unexpected(f"the result has {message.end.row_count} rows, {self._rows} came")
                    self._end = message.end
                    self._messages.finish()

    def __aiter__(self) -> AsyncIterator[pa.RecordBatch]:
        return self.batches()

    async def aclose(self) -> None:
        """Cancels the query if it still runs. Safe to repeat."""
        await self._messages.aclose()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
