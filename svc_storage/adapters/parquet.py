"""Parquet as every backend writes it: row groups that DuckDB likes, statistics beside the bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from svc_storage.domain.reading.statistics import StatisticsBuilder

ROW_GROUP_ROWS = 122_880
"""DuckDB's unit of parallel work."""
DICTIONARY_BYTES = 64 * 1024
"""Columns of many distinct values give up their dictionary early: a third of the time, and smaller files."""


def write_parquet(sink: Any, batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, level: int) -> tuple[int, str]:
    """Blocking. Writes one file to a path or a binary sink; returns its rows and statistics (Delta's JSON). Holds one row group.

    Fresh files (level 0) are compressed for speed, compacted ones for size."""
    statistics = StatisticsBuilder(schema)
    rows = 0
    codec = "snappy" if level == 0 else "zstd"
    footers: list[pq.FileMetaData] = []
    with pq.ParquetWriter(
        sink,
        schema,
        compression=codec,
        version="2.6",
        store_schema=False,
        dictionary_pagesize_limit=DICTIONARY_BYTES,
        write_page_checksum=True,  # 5 % of the time; without it a flipped bit may be another number
        metadata_collector=footers,
    ) as writer:
        for table in row_groups(batches, schema):
            rows += table.num_rows
            statistics.add(table)
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
    for footer in footers:
        _take_text_bounds(footer, statistics)
    return rows, statistics.to_json()


def _take_text_bounds(footer: pq.FileMetaData, statistics: StatisticsBuilder) -> None:
    """Parquet has compared the texts already; for us it would be half of the statistics' time."""
    for group in range(footer.num_row_groups):
        row_group = footer.row_group(group)
        for index in range(row_group.num_columns):
            column = row_group.column(index)
            found = column.statistics
            if column.path_in_schema not in statistics.texts:
                continue
            if found is not None and found.has_min_max:
                statistics.add_text(column.path_in_schema, (found.min, found.max))
            elif found is None or found.null_count != column.num_values:
                statistics.add_text(column.path_in_schema, None)


def row_groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The batches' rows, regrouped: tables of ROW_GROUP_ROWS rows, the last one smaller."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            part = batch.slice(start, ROW_GROUP_ROWS - rows)
            held.append(part)
            start += part.num_rows
            rows += part.num_rows
            if rows == ROW_GROUP_ROWS:
                yield pa.Table.from_batches(held, schema)
                held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held, schema)
