"""Rows [first, last) of one Parquet file in the table's types, a bounded batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from millrace.errors import ChecksumMismatch
from svc_storage.ports import DataFile

BATCH_BYTES = 1 << 20
MAX_BATCH_ROWS = 32_768
READ_BUFFER_BYTES = 128 << 10
"""Per column; without it Arrow loads whole column chunks."""


def batches_of(
    opening: Callable[[str], pa.NativeFile], file: DataFile, schema: pa.Schema, first: int, last: int | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """What `TableFiles.batches` promises, for a file of Parquet that `opening` (which raises FileMissing) gives by its path."""
    with opening(file.path) as source:
        try:
            yield from _batches(source, file, schema, first, file.row_count if last is None else last)
        except (pa.ArrowInvalid, OSError) as broken:
            raise ChecksumMismatch(f"the file {file.path} of the table cannot be read") from broken


def _batches(
    source: pa.NativeFile, file: DataFile, schema: pa.Schema, first: int, last: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    with pq.ParquetFile(
        source, buffer_size=READ_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
    ) as parquet:
        if parquet.metadata.num_rows != file.row_count:
            raise ChecksumMismatch(f"the file {file.path} of the table has another number of rows than the log says")
        groups, row = _groups(parquet.metadata, first, last)
        present = [name for name in schema.names if name in parquet.schema_arrow.names]
        size = _batch_rows(parquet.metadata, groups)
        for batch in parquet.iter_batches(size, row_groups=groups, columns=present, use_threads=False):
            skipped = max(0, first - row)
            wanted = batch.slice(skipped, max(0, last - row - skipped))
            if wanted.num_rows:
                yield row + skipped, in_schema(wanted, schema)
            row += batch.num_rows
            if row >= last:
                return


def _groups(metadata: pq.FileMetaData, first: int, last: int) -> tuple[list[int], int]:
    """The row groups that hold rows of [first, last), and the first row of the first of them."""
    found: list[int] = []
    row, start = 0, 0
    for number in range(metadata.num_row_groups):
        after = row + metadata.row_group(number).num_rows
        if row < last and after > first:
            start = start if found else row
            found.append(number)
        row = after
    return found, start


def _batch_rows(metadata: pq.FileMetaData, groups: list[int]) -> int:
    """Rows that take about a mebibyte, by the largest of the groups; encoded sizes, so texts that repeat take more."""
    sizes = [metadata.row_group(number) for number in groups]
    per_row = max((group.total_byte_size / max(1, group.num_rows) for group in sizes), default=1.0)
    return max(1, min(MAX_BATCH_ROWS, int(BATCH_BYTES / max(1.0, per_row))))


def in_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The columns of `schema`, in its order: one that is lacking is NULL, one of a narrower type is widened."""
    columns = []
    for field in schema:
        at = batch.schema.get_field_index(field.name)
        column = pa.nulls(batch.num_rows, field.type) if at < 0 else batch.column(at)
        columns.append(column if column.type == field.type else column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
