"""Which rows a reader wants: a small expression tree, bound to a schema before anything is read.

Logic is SQL's, with three values: a comparison with NULL is unknown, and a row is kept only when the whole is true.
Floats follow the order of PostgreSQL and DuckDB, so that a filter moved from an engine into storage keeps its meaning:
NaN equals itself and is greater than every number.
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import pyarrow as pa

from millrace.errors import FieldInvalid

Literal = bool | int | float | str | bytes | decimal.Decimal | dt.datetime | dt.date | dt.time | dt.timedelta
MAX_DEPTH = 16
MAX_CONDITIONS = 1_000


class Op(Enum):
    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"


@dataclass(frozen=True, slots=True)
class Compare:
    column: str
    op: Op
    value: Literal


@dataclass(frozen=True, slots=True)
class In:
    column: str
    values: tuple[Literal, ...]


@dataclass(frozen=True, slots=True)
class IsNull:
    column: str


@dataclass(frozen=True, slots=True)
class Not:
    operand: Predicate


@dataclass(frozen=True, slots=True)
class And:
    """Empty: true."""

    operands: tuple[Predicate, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Empty: false."""

    operands: tuple[Predicate, ...]


Predicate = Compare | In | IsNull | Not | And | Or


def columns_of(predicate: Predicate) -> Iterator[str]:
    """Every column it names, in order of appearance, repeats included."""
    match predicate:
        case Compare(column=column) | In(column=column) | IsNull(column=column):
            yield column
        case Not(operand=operand):
            yield from columns_of(operand)
        case And(operands=operands) | Or(operands=operands):
            for operand in operands:
                yield from columns_of(operand)


def bind(predicate: Predicate, schema: pa.Schema, *, field: str = "predicate") -> Predicate:
    """The same tree with each literal turned into its column's own kind of value, exactly.

    Raises FieldInvalid naming the place, in the proto's words: an unknown column, a literal that the column's type cannot
    hold, a nested column compared, an empty list of values, a tree deeper than 16 or larger than 1,000 conditions."""
    return _Binder(schema).walk(predicate, field, 1)


class _Binder:
    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._nodes = 0

    def walk(self, node: Predicate, field: str, depth: int) -> Predicate:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_CONDITIONS:
            raise FieldInvalid(f"deeper than {MAX_DEPTH} or more than {MAX_CONDITIONS} conditions", field=field)
        match node:
            case Compare(column, op, value):
                kind = self._comparable(column, f"{field}.compare")
                return Compare(column, op, coerce(value, kind, field=f"{field}.compare.value"))
            case In(column, values):
                field = f"{field}.one_of"
                kind = self._comparable(column, field)
                if not values:
                    raise FieldInvalid("the list is empty: no row could match", field=f"{field}.values")
                return In(column, tuple(coerce(v, kind, field=f"{field}.values[{i}]") for i, v in enumerate(values)))
            case IsNull(column):
                self._type(column, f"{field}.is_null")
                return node
            case Not(operand):
                return Not(self.walk(operand, f"{field}.negation", depth + 1))
            case And(operands):
                return And(self._all(operands, f"{field}.all_of", depth))
            case Or(operands):
                return Or(self._all(operands, f"{field}.any_of", depth))

    def _all(self, operands: tuple[Predicate, ...], field: str, depth: int) -> tuple[Predicate, ...]:
        return tuple(self.walk(o, f"{field}.predicates[{i}]", depth + 1) for i, o in enumerate(operands))

    def _type(self, column: str, field: str) -> pa.DataType:
        if (index := self._schema.get_field_index(column)) < 0:
            raise FieldInvalid(f"the table has no column `{column}`", field=field)
        return self._schema.field(index).type

    def _comparable(self, column: str, field: str) -> pa.DataType:
        kind = self._type(column, f"{field}.column")
        if pa.types.is_nested(kind):
            raise FieldInvalid(f"`{column}` is {kind}: only is_null can test it", field=f"{field}.column")
        return kind


def coerce(value: Literal, kind: pa.DataType, *, field: str) -> Literal:
    """`value` as a value of the Arrow type `kind`, or FieldInvalid: nothing is rounded, cut or guessed."""
    result = _coerced(value, kind)
    if result is None:
        raise FieldInvalid(f"this {type(value).__name__} is no exact value of the column's type {kind}", field=field)
    return result


def _coerced(value: Literal, kind: pa.DataType) -> Literal | None:
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    if pa.types.is_integer(kind):
        return _integer(value, kind)
    if pa.types.is_floating(kind):
        return _floating(value, kind)
    if pa.types.is_decimal(kind):
        return _decimal(value, kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return value if isinstance(value, str) else None
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return value if isinstance(value, bytes) else None
    return _temporal(value, kind)


def _integer(value: Literal, kind: pa.DataType) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, decimal.Decimal)):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    whole = int(value)
    low, high = (
        (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1)
        if pa.types.is_signed_integer(kind)
        else (0, 2**kind.bit_width - 1)
    )
    return whole if whole == value and low <= whole <= high else None


def _floating(value: Literal, kind: pa.DataType) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    if number != value and not math.isnan(number):
        return None
    if kind.bit_width < 64 and math.isfinite(number) and pa.scalar(number, kind).as_py() != number:
        # 0.1 has no float32 of its own; people mean the column's 0.1, so the nearest one is the value they compare with.
        return float(pa.scalar(number, kind).as_py())
    return number


def _decimal(value: Literal, kind: pa.DataType) -> decimal.Decimal | None:
    if isinstance(value, bool) or not isinstance(value, (int, decimal.Decimal)):
        return None
    try:
        exact = pa.scalar(decimal.Decimal(value), kind).as_py()
    except (pa.ArrowInvalid, ArithmeticError):
        return None
    return exact if isinstance(exact, decimal.Decimal) and exact == value else None


def _temporal(value: Literal, kind: pa.DataType) -> Literal | None:
    if pa.types.is_timestamp(kind):
        if isinstance(value, dt.datetime) and (value.tzinfo is None) == (kind.tz is None):
            return value.astimezone(dt.UTC) if value.tzinfo else value
        return None
    if pa.types.is_date(kind):
        return value if isinstance(value, dt.date) and not isinstance(value, dt.datetime) else None
    if pa.types.is_time(kind):
        return value if isinstance(value, dt.time) else None
    if pa.types.is_duration(kind):
        return value if isinstance(value, dt.timedelta) else None
    return None
