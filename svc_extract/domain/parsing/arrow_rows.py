"""Rows that come typed, from Parquet or a database, to the table's schema."""

from __future__ import annotations

import json

import pyarrow as pa

from millrace.arrow.conform import conform
from millrace.errors import ValueNotRepresentable
from svc_extract.domain.parsing.parsed import Parsed, letter


def rows_of(rows: pa.RecordBatch, schema: pa.Schema) -> Parsed:
    """`rows` in the table's schema; those with a value that it cannot hold are dead letters with the row as JSON.

    Raises SchemaMismatch and UnsupportedType: then no row would fit."""
    bad: dict[int, str] = {}
    parts = _conformed(rows, schema, 0, bad)
    whole = pa.Table.from_batches(parts, schema=schema).combine_chunks().to_batches()
    kept = whole[0] if whole else pa.RecordBatch.from_pylist([], schema=schema)
    letters = tuple(letter(index, "TYPE", bad[index], json_of(rows.slice(index, 1))) for index in sorted(bad))
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


def json_of(row: pa.RecordBatch) -> bytes:
    """One row as a dead letter keeps it."""
    return json.dumps(row.to_pylist()[0], default=str, ensure_ascii=False).encode("utf-8", "replace")
