"""Conditions against the columns they name: known, of the value's kind, not too many."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal

import pyarrow as pa

from millrace.errors import FieldInvalid
from svc_analysis.ports import AllOf, AnyOf, Compare, Condition, IsNull, Not, OneOf, Scalar

Columns = Mapping[str, pa.DataType]

MAX_DEPTH, MAX_CONDITIONS = 16, 1_000


def check_condition(condition: Condition, columns: Columns, field: str) -> None:
    """Raises FieldInvalid, naming the place."""
    count = _check(condition, columns, field, 0)
    if count > MAX_CONDITIONS:
        raise FieldInvalid(f"{count} conditions are more than {MAX_CONDITIONS:,}", field=field)


def columns_of(condition: Condition) -> set[str]:
    """Every column that the condition names."""
    if isinstance(condition, AllOf | AnyOf):
        return set().union(*map(columns_of, condition.inner))
    return columns_of(condition.inner) if isinstance(condition, Not) else {condition.column}


def _check(condition: Condition, columns: Columns, field: str, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise FieldInvalid(f"conditions are nested more than {MAX_DEPTH} deep", field=field)
    if isinstance(condition, AllOf | AnyOf):
        name = "all_of" if isinstance(condition, AllOf) else "any_of"
        inner = enumerate(condition.inner)
        return 1 + sum(_check(c, columns, f"{field}.{name}.predicates[{i}]", depth + 1) for i, c in inner)
    if isinstance(condition, Not):
        return 1 + _check(condition.inner, columns, f"{field}.negation", depth + 1)
    if isinstance(condition, IsNull):
        _kind(columns, condition.column, f"{field}.is_null")
    elif isinstance(condition, Compare):
        kind = _kind(columns, condition.column, f"{field}.compare.column")
        _comparable(condition.value, kind, f"{field}.compare.value")
    elif isinstance(condition, OneOf):
        kind = _kind(columns, condition.column, f"{field}.one_of.column")
        if not 1 <= len(condition.values) <= MAX_CONDITIONS:
            raise FieldInvalid(f"1 to {MAX_CONDITIONS:,} values are expected", field=f"{field}.one_of.values")
        for index, value in enumerate(condition.values):
            _comparable(value, kind, f"{field}.one_of.values[{index}]")
    return 1


def _kind(columns: Columns, column: str, field: str) -> pa.DataType:
    if column not in columns:
        raise FieldInvalid(f"the table has no column `{column}`", field=field)
    return columns[column]


def _comparable(value: Scalar, kind: pa.DataType, field: str) -> None:
    if not _fits(value, kind):
        raise FieldInvalid(f"the column is {kind}; a value of its type is expected", field=field)


def _fits(value: Scalar, kind: pa.DataType) -> bool:
    types = pa.types
    if isinstance(value, bool):
        return bool(types.is_boolean(kind))
    if isinstance(value, int | float | Decimal):
        return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))
    if isinstance(value, str):
        return bool(types.is_string(kind))
    if isinstance(value, bytes):
        return bool(types.is_binary(kind))
    if isinstance(value, dt.datetime):
        return bool(types.is_timestamp(kind) and bool(kind.tz) == (value.tzinfo is not None))
    if isinstance(value, dt.date):
        return bool(types.is_date(kind))
    if isinstance(value, dt.time):
        return bool(types.is_time(kind))
    return bool(types.is_duration(kind))
