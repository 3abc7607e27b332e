"""Runs one query and hands its rows on as they come."""

from __future__ import annotations

import pyarrow as pa

from millrace.analysis.v1 import analysis_pb2
from millrace.cli.grid import counted, span
from millrace.cli.kinds import short_name
from millrace.cli.session import Session
from millrace.cli.terminal import note
from millrace.cli.writers import RowWriter
from millrace.client.channel import QUERY_DEADLINE_S
from millrace.client.query import QueryRead
from millrace.types.v1 import types_pb2


def readable(batch: pa.RecordBatch, column: str) -> pa.RecordBatch:
    """`batch` with a column of bytes as the text that they are; what is no UTF-8 is spelled `\\xff`."""
    at = batch.schema.get_field_index(column)
    texts = [None if raw is None else raw.decode("utf-8", "backslashreplace") for raw in batch.column(at).to_pylist()]
    return batch.set_column(at, column, pa.array(texts, pa.string()))


async def ask(
    session: Session, request: analysis_pb2.QueryRequest, writer: RowWriter, *, text_column: str = ""
) -> None:
    """Rows to `writer`, one line about them to stderr. Raises what analysis refuses; the output then has no end.

    `text_column`: a column of bytes that is shown as text."""
    request.encoding = types_pb2.ENCODING_ARROW
    request.namespace = session.settings.namespace
    deadline_s = session.settings.timeout_s or QUERY_DEADLINE_S
    async with QueryRead(session.connection("analysis"), request, deadline_s=deadline_s) as query:
        schema = query.schema
        if text_column:
            schema = schema.set(schema.get_field_index(text_column), pa.field(text_column, pa.string()))
        writer.begin(schema)
        async for batch in query:
            writer.write(readable(batch, text_column) if text_column else batch)
        writer.end()
        end, versions = query.end, query.header.versions
    read = ", ".join(f"{short_name(table)}@{version}" for table, version in sorted(versions.items()))
    said = [counted(end.row_count, "rows"), *([read] if read else []), span(end.elapsed.ToNanoseconds() / 1e9)]
    note(" · ".join(said), "dim")
    if end.truncated:
        note("the result goes on: it was cut here, --max-rows takes more", "yellow")
