"""JSON values to typed columns: which values do not fit is known one by one."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa

from millrace.arrow.types import check_values
from millrace.errors import MillraceError

_WRONG = (ValueError, TypeError, OverflowError, InvalidOperation, pa.ArrowException, MillraceError, binascii.Error)


class Number(str):
    """A JSON number with a point or an exponent, as written: a decimal keeps its digits, a float its value."""

    __slots__ = ()


def column_of(values: Sequence[Any], kind: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """`values` (as `json.loads` gives them) as `kind`, and the indexes of those that are none; these are NULL in the array.

    Strict: a number is not text and text is a number only where JSON has no other way (decimals, 64-bit integers, NaN)."""
    convert = _converter(kind)
    found: list[Any] = []
    bad: list[int] = []
    for index, value in enumerate(values):
        try:
            found.append(None if value is None else convert(value))
        except _WRONG:
            found.append(None)
            bad.append(index)
    try:
        return _built(found, kind), np.array(bad, np.int64)
    except _WRONG:
        return _one_by_one(found, kind, bad)


def _built(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    column = pa.array(values, kind)
    check_values(column)
    return column


def _one_by_one(values: list[Any], kind: pa.DataType, bad: list[int]) -> tuple[pa.Array, np.ndarray]:
    """The same, where a value has the right form and does not fit (an overflow)."""
    for index, value in enumerate(values):
        try:
            _built([value], kind)
        except _WRONG:
            values[index] = None
            bad.append(index)
    return _built(values, kind), np.array(sorted(bad), np.int64)


def _converter(kind: pa.DataType) -> Callable[[Any], Any]:
    types = pa.types
    if types.is_list(kind):
        item = _nullable(_converter(kind.value_type))
        return lambda value: [item(one) for one in _of(value, list)]
    if types.is_struct(kind):
        return _struct(kind)
    if types.is_map(kind):
        key, item = _converter(kind.key_type), _nullable(_converter(kind.item_type))
        return lambda value: [(key(name), item(one)) for name, one in _of(value, dict).items()]
    if types.is_decimal(kind):
        return lambda value: _decimal(value, kind)
    return next(convert for matches, convert in _PLAIN if matches(kind))


def _struct(kind: pa.DataType) -> Callable[[Any], Any]:
    fields = {field.name: _nullable(_converter(field.type)) for field in kind.fields}

    def convert(value: Any) -> dict[str, Any]:
        if extra := set(_of(value, dict)) - set(fields):
            raise ValueError(f"{len(extra)} unknown fields")
        return {name: one(value.get(name)) for name, one in fields.items()}

    return convert


def _nullable(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


def _of(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"not a {kind.__name__}")
    return value


def _integer(value: Any) -> int:
    if type(value) is int:
        return value
    if type(value) is str:
        return int(Decimal(value)) if value.lstrip("-").isdigit() else int("none")
    number = float(_of(value, Number))
    if not number.is_integer() or abs(number) > 2**53:
        raise ValueError("not whole")
    return int(number)


def _float(value: Any) -> float:
    if type(value) in (int, Number, str):
        number = float(value)
        if number in (float("inf"), float("-inf")) and "inf" not in str(value).lower():
            raise ValueError("too large")
        return number
    return float(_of(value, float))


def _decimal(value: Any, kind: pa.DataType) -> Decimal:
    if type(value) not in (int, str, Number):
        raise TypeError("not a number")
    number = Decimal(value)
    if not number.is_finite() or number != round(number, kind.scale):
        raise ValueError("does not fit")
    return number


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("not text")
    value.encode()  # a lone surrogate is no text
    return value


def _instant(value: Any) -> datetime:
    found = datetime.fromisoformat(_text(value))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _wall_clock(value: Any) -> datetime:
    found = datetime.fromisoformat(_text(value))
    if found.tzinfo:
        raise ValueError("a wall-clock time has no zone")
    return found


_PLAIN: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Any]], ...] = (
    (pa.types.is_boolean, lambda value: _of(value, bool)),
    (pa.types.is_integer, _integer),
    (pa.types.is_floating, _float),
    (pa.types.is_string, _text),
    (pa.types.is_binary, lambda value: base64.b64decode(_text(value), validate=True)),
    (pa.types.is_date, lambda value: date.fromisoformat(_text(value))),
    (pa.types.is_time, lambda value: time.fromisoformat(_text(value))),
    (lambda kind: pa.types.is_timestamp(kind) and bool(kind.tz), _instant),
    (pa.types.is_timestamp, _wall_clock),
    (pa.types.is_duration, lambda value: timedelta(microseconds=_integer(value))),
)
