"""Do a file's statistics tell the truth? A bound that leaves out a value would hide its row from every filter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from millrace import errors
from svc_storage.domain.reading.bounds import bounds_of
from svc_storage.domain.reading.pruning import ColumnBounds
from svc_storage.domain.reading.statistics import rows_in
from svc_storage.ports import DataFile, TableFiles


def wrong_statistics(files: TableFiles, file: DataFile, schema: pa.Schema) -> Iterator[str]:
    """Blocking. What is wrong, a sentence each. Raises FileMissing, ChecksumMismatch, also when it has other rows than the log says."""
    names = frozenset(name for name in schema.names if not pa.types.is_nested(schema.field(name).type))
    bounds = bounds_of(file, schema, names).columns
    nulls, outside, rows = dict.fromkeys(bounds, 0), set[str](), 0
    for _, batch in files.batches(file, schema):
        rows += batch.num_rows
        for name, known in bounds.items():
            column = batch.column(name)
            nulls[name] += column.null_count
            if name not in outside and _outside(column, known):
                outside.add(name)
    if rows != file.row_count:
        raise errors.ChecksumMismatch(f"it has {rows} rows where the log says {file.row_count}")
    if (said := rows_in(file.stats_json)) and said != rows:
        yield f"its statistics say {said} rows, it has {rows}"
    for name in sorted(outside):
        yield f"column {name} has a value outside of its bounds"
    for name, known in bounds.items():
        if known.nulls is not None and known.nulls != nulls[name]:
            yield f"column {name} has {nulls[name]} NULLs, its statistics say {known.nulls}"


def _outside(column: pa.Array, known: ColumnBounds) -> bool:
    if known.low is None and known.high is None:
        return False
    if pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py():
        return True  # a column that holds NaN has no bounds
    found = pc.min_max(column)
    low, high = _as_py(found["min"]), _as_py(found["max"])
    return (low is not None and known.low is not None and low < known.low) or (
        high is not None and known.high is not None and high > known.high
    )


def _as_py(value: Any) -> Any:
    try:
        return value.as_py()
    except (OverflowError, ValueError):  # a time that Python cannot hold; no bound can, either
        return None
