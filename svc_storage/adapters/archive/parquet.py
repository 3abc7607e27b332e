"""Parquet for archives: row groups are cut by rows alone, so equal rows give equal bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from millrace.errors import ChecksumMismatch
from svc_storage.adapters.parquet import DICTIONARY_BYTES, ROW_GROUP_ROWS, row_groups

_BATCH_ROWS = 32_768
_CHUNK = 1 << 20


def write_rows(sink: Any, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Blocking. The rows written."""
    rows = 0
    with pq.ParquetWriter(
        sink, schema, compression="zstd", version="2.6", store_schema=False, dictionary_pagesize_limit=DICTIONARY_BYTES
    ) as writer:
        for table in row_groups(batches, schema):
            rows += table.num_rows
            # As one piece: how the rows came must not show in the bytes.
            writer.write_table(table.combine_chunks(), row_group_size=ROW_GROUP_ROWS)
    return rows


def read_rows(source: pa.NativeFile, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Blocking. Batches of exactly `schema`. Raises ChecksumMismatch when the file holds something else."""
    try:
        with pq.ParquetFile(source) as parquet:
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=schema.names, use_threads=False):
                columns = [batch.column(field.name).cast(field.type) for field in schema]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
    except (pa.ArrowInvalid, KeyError) as broken:
        raise ChecksumMismatch(f"{name} of the archive cannot be read") from broken


def sha256(path: Path) -> str:
    """Blocking. Of a file's bytes, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
