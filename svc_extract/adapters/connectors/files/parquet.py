"""Reads one Parquet file once, whole, in row order. Blocking: on a worker thread."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from millrace.arrow.conform import conform
from millrace.arrow.types import canonical_schema
from millrace.errors import MillraceError, SchemaMismatch, SourceUnavailable, ValueNotRepresentable
from svc_extract.adapters.connectors.files.listing import Sight
from svc_extract.adapters.connectors.files.options import FilesOptions
from svc_extract.adapters.connectors.files.text import Step
from svc_extract.domain.parsing.columns import plan_for
from svc_extract.domain.parsing.parsed import Parsed, letter

BATCH_ROWS = 16_384


def parquet_schema(sight: Sight) -> pa.Schema:
    """Raises SourceUnavailable when it is not whole (yet) or no Parquet."""
    return _opened(sight).schema_arrow


def parquet_steps(sight: Sight, offset: int, options: FilesOptions, schema: pa.Schema) -> Iterator[Step]:
    """Rows from `offset` on; offsets count rows. Raises SchemaMismatch, SourceUnavailable."""
    file = _opened(sight)
    plan = plan_for(file.schema_arrow.names, options.naming, schema, where=sight.name)
    names = [file.schema_arrow.names[index] for index in plan.sources.values()]
    targets = [schema.names[index] for index in plan.sources]
    at = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=names):
        if at + batch.num_rows > offset:
            rows = batch.slice(max(0, offset - at)).select(names).rename_columns(targets)
            first = at + batch.num_rows - rows.num_rows
            parsed = rows_of(rows, schema)
            end = at + batch.num_rows
            yield Step(parsed, range(first + 1, end + 1), end, False)
        at += batch.num_rows


def rows_of(rows: pa.RecordBatch, schema: pa.Schema) -> Parsed:
    """`rows` in the table's schema; those with a value that it cannot hold are dead letters with the row as JSON.

    Raises SchemaMismatch and UnsupportedType: then no row would fit."""
    bad: dict[int, str] = {}
    parts = _conformed(rows, schema, 0, bad)
    whole = pa.Table.from_batches(parts, schema=schema).combine_chunks().to_batches()
    kept = whole[0] if whole else pa.RecordBatch.from_pylist([], schema=schema)
    letters = tuple(letter(index, "TYPE", bad[index], _json(rows.slice(index, 1))) for index in sorted(bad))
    return Parsed(kept, letters)


def _conformed(rows: pa.RecordBatch, schema: pa.Schema, first: int, bad: dict[int, str]) -> list[pa.RecordBatch]:
    try:
        return [conform(rows, schema)]
    except ValueNotRepresentable as error:
        if rows.num_rows == 1:
            bad[first] = error.field
            return []
    half = rows.num_rows // 2
    return [
        *_conformed(rows.slice(0, half), schema, first, bad),
        *_conformed(rows.slice(half), schema, first + half, bad),
    ]


def _json(row: pa.RecordBatch) -> bytes:
    return json.dumps(row.to_pylist()[0], default=str, ensure_ascii=False).encode("utf-8", "replace")


def _opened(sight: Sight) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(sight.path)
        canonical_schema(file.schema_arrow)
    except MillraceError as error:
        raise SchemaMismatch(f"`{sight.name}`: {error.message}", field=error.field) from error
    except (pa.ArrowException, OSError) as error:
        raise SourceUnavailable(f"`{sight.name}` is no Parquet file, or not whole yet") from error
    return file
