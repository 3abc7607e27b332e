"""The typed question, as people ask it: nothing here knows SQL or protobuf. `domain/resolve.py` checks it against a table."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import TypeAlias

Scalar: TypeAlias = bool | int | float | str | bytes | Decimal | dt.date | dt.time | dt.datetime | dt.timedelta
"""A value that is not NULL. Aware datetimes are instants, naive ones wall-clock times."""


class Unit(Enum):
    SECOND, MINUTE, HOUR, DAY, WEEK, MONTH, YEAR = range(7)


class Part(Enum):
    HOUR_OF_DAY, DAY_OF_WEEK, DAY_OF_MONTH, MONTH, MINUTE = range(5)


class Fill(Enum):
    NONE, ZERO, GAP, LAST = range(4)


class Aggregate(Enum):
    COUNT, COUNT_DISTINCT, SUM, AVG, MIN, MAX, QUANTILE, STDDEV, SHARE = range(9)


class Op(Enum):
    EQ, NE, LT, LE, GT, GE = "=", "<>", "<", "<=", ">", ">="


# -- conditions ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Compare:
    column: str
    op: Op
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    column: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class IsNull:
    column: str


@dataclass(frozen=True, slots=True)
class Not:
    inner: Condition


@dataclass(frozen=True, slots=True)
class AllOf:
    """True when all are; empty is true."""

    inner: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """True when any is; empty is false."""

    inner: tuple[Condition, ...]


Condition: TypeAlias = Compare | OneOf | IsNull | Not | AllOf | AnyOf


# -- dimensions ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Column:
    column: str


@dataclass(frozen=True, slots=True)
class TimeBucket:
    """`column` empty: the table's event-time column. `zone` empty: UTC."""

    column: str
    unit: Unit
    count: int = 1
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Bins:
    column: str
    width: float
    clamp_low: float | None = None
    clamp_high: float | None = None


@dataclass(frozen=True, slots=True)
class TimePart:
    """`column` empty: the table's event-time column. `zone` empty: UTC."""

    column: str
    part: Part
    zone: str = ""


Expression: TypeAlias = Column | TimeBucket | Bins | TimePart


@dataclass(frozen=True, slots=True)
class Dimension:
    """`name` empty: the column's."""

    name: str
    expression: Expression


@dataclass(frozen=True, slots=True)
class Measure:
    """`column` empty: rows. `quantile`: 0 to 1, for QUANTILE."""

    name: str
    aggregate: Aggregate
    column: str = ""
    where: Condition | None = None
    quantile: float | None = None


@dataclass(frozen=True, slots=True)
class OrderKey:
    column: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Half-open, microseconds since 1970; None is no bound."""

    start_us: int | None = None
    end_us: int | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """`table`: full name. `time_column` empty: the table's event-time column. `limit` 0: none."""

    table: str
    dimensions: tuple[Dimension, ...] = ()
    measures: tuple[Measure, ...] = ()
    where: Condition | None = None
    time_range: TimeRange = TimeRange()
    time_column: str = ""
    last_seconds: float = 0.0
    previous_period: bool = False
    fill: Fill = Fill.NONE
    order: tuple[OrderKey, ...] = ()
    limit: int = 0
