"""A batch against its table's contract, the one place where rows are checked. delta-rs would cast silently (storage.md 1.6).

Columns that do not fit are the batch's fault (SchemaMismatch); values that do not fit are their row's (a BadRow each).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from millrace import errors
from millrace.arrow.types import MAX_MICROS, MICROS_PER_DAY, MIN_MICROS, canonical, cast_exactly, check_values
from millrace.arrow.widening import widens
from svc_storage.domain.definition import ColumnRule, TableDefinition

RAW_LIMIT = 64 * 1024
CUT_MARK = b"...cut"


@dataclass(frozen=True, slots=True)
class BadRow:
    """`index` in the batch; `message` holds no row value; `raw` is the row as JSON, at most 64 KiB."""

    index: int
    field: str
    reason: str
    message: str
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Checked:
    """`rows` fit the table, in order, in the table's columns and types; `bad` are the others, by index."""

    rows: pa.RecordBatch
    bad: tuple[BadRow, ...] = ()


def check(batch: pa.RecordBatch, definition: TableDefinition) -> Checked:
    """CPU-bound. Raises SchemaMismatch, UnsupportedType, ValueNotRepresentable (inside nested values)."""
    shaped = conform(batch, definition.schema)
    faults: dict[int, tuple[str, str, str]] = {}
    for column in definition.schema:
        values = shaped.column(column.name)
        for mask, reason, message in _broken(values, column, definition.rules.get(column.name)):
            for index in pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist():
                faults.setdefault(index, (column.name, reason, message))
    if not faults:
        return Checked(_with_nullability(shaped, definition.schema))
    bad = tuple(
        BadRow(index, name, reason, message, raw_of(batch, index))
        for index, (name, reason, message) in sorted(faults.items())
    )
    keep = pa.array([index not in faults for index in range(shaped.num_rows)], pa.bool_())
    return Checked(_with_nullability(shaped.filter(keep), definition.schema), bad)


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The table's columns in order, exactly converted, every one nullable for now. Raises SchemaMismatch, UnsupportedType."""
    names = batch.schema.names
    if own := [name for name in names if name.startswith("_")]:
        raise errors.SchemaMismatch(f"column `{own[0]}`: names that begin with `_` are storage's", field="batch.batch")
    if extra := [name for name in names if name not in schema.names]:
        raise errors.SchemaMismatch(f"the table has no column `{extra[0][:80]}`", field="batch.batch")
    if len(set(names)) != len(names):
        raise errors.SchemaMismatch("a column comes twice", field="batch.batch")
    if missing := [field.name for field in schema if field.name not in names and not field.nullable]:
        raise errors.SchemaMismatch(f"column `{missing[0]}` is NOT NULL and missing", field="batch.batch")
    columns = [
        _convert(batch.column(field.name), field) if field.name in names else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema([field.with_nullable(True) for field in schema]))


def raw_of(batch: pa.RecordBatch, index: int) -> bytes:
    """One row as JSON, cut and marked beyond 64 KiB."""
    row = {name: _python(batch.column(name), index) for name in batch.schema.names}
    return cut(json.dumps(row, default=_text, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def cut(raw: bytes) -> bytes:
    """At most 64 KiB; what was longer ends in `...cut`."""
    return raw if len(raw) <= RAW_LIMIT else raw[: RAW_LIMIT - len(CUT_MARK)] + CUT_MARK


def _python(values: pa.Array, index: int) -> Any:
    try:
        return values[index].as_py()
    except (OverflowError, ValueError):  # a time that Python cannot hold
        return str(values.slice(index, 1).view(pa.int64() if values.type.bit_width == 64 else pa.int32())[0])


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _convert(values: pa.Array, field: pa.Field) -> pa.Array:
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), field.type)
    travelling = canonical(values.type, where=field.name)
    values = cast_exactly(values, travelling, where=field.name)
    if not widens(travelling, field.type):
        raise errors.SchemaMismatch(
            f"column `{field.name}` is {field.type}, the batch has {travelling}",
            field="batch.batch",
            hint="cast it before sending",
        )
    if pa.types.is_nested(field.type):
        check_values(values, where=field.name)
    return cast_exactly(values, field.type, where=field.name)


def _broken(values: pa.Array, column: pa.Field, rule: ColumnRule | None) -> Iterator[tuple[pa.Array, str, str]]:
    """Masks of rows that break the contract; nothing is yielded for a column without fault (the fast path)."""
    if not column.nullable and values.null_count:
        yield pc.is_null(values), "NOT_NULL", "NULL in a NOT NULL column"
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        yield from _outside_calendar(values)
    if rule is None or values.null_count == len(values):
        return
    if rule.minimum is not None or rule.maximum is not None:
        yield from _outside_range(values, rule, column.type)
    if rule.allowed:
        known = pc.is_in(values, value_set=pa.array(rule.allowed, column.type))
        mask = pc.and_(pc.invert(known), pc.is_valid(values))
        if pc.any(mask).as_py():
            yield mask, "ENUM", "not one of the allowed values"


def _outside_calendar(values: pa.Array) -> Iterator[tuple[pa.Array, str, str]]:
    wide = pa.types.is_timestamp(values.type)
    numbers = values.view(pa.int64() if wide else pa.int32())
    low, high = (MIN_MICROS, MAX_MICROS) if wide else (MIN_MICROS // MICROS_PER_DAY, MAX_MICROS // MICROS_PER_DAY)
    bounds = pc.min_max(numbers).as_py()
    if bounds["min"] is not None and (bounds["min"] < low or bounds["max"] > high):
        yield pc.or_(pc.less(numbers, low), pc.greater(numbers, high)), "RANGE", "outside the years 1 to 9999"


def _outside_range(values: pa.Array, rule: ColumnRule, kind: pa.DataType) -> Iterator[tuple[pa.Array, str, str]]:
    masks = []
    if rule.minimum is not None:
        masks.append(pc.less(values, pa.scalar(rule.minimum, kind)))
    if rule.maximum is not None:
        masks.append(pc.greater(values, pa.scalar(rule.maximum, kind)))
    if pa.types.is_floating(kind):
        masks.append(pc.is_nan(values))
    mask = masks[0]
    for other in masks[1:]:
        mask = pc.or_(mask, other)
    if pc.any(mask).as_py():
        yield mask, "RANGE", "outside the column's bounds"


def _with_nullability(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)
