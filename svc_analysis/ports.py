"""The words of a question, and what the domain needs from outside: tables, an engine, and two languages. Adapters implement these;
`memory` ones always exist."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]


# -- the typed question, as people ask it ------------------------------------------------------------------------------
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


# -- and as it fits its table ------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Window:
    """Which part of the time counts: `[start_us, end_us)` of `column`. `empty`: no row can match."""

    column: str
    start_us: int | None
    end_us: int | None
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Resolved:
    """A spec that fits its table. Every dimension and measure has its name, every time expression its column and zone.

    `order` ends with all dimensions, so that the order of groups is total. `columns`: the table's, by name."""

    dimensions: tuple[Dimension, ...]
    measures: tuple[Measure, ...]
    where: Condition | None
    window: Window | None
    fill: Fill
    order: tuple[OrderKey, ...]
    limit: int
    columns: dict[str, pa.DataType]

    @property
    def grouped(self) -> bool:
        return bool(self.measures)

    @property
    def names(self) -> tuple[str, ...]:
        return (*(d.name for d in self.dimensions), *(m.name for m in self.measures))


# -- ports -------------------------------------------------------------------------------------------------------------


class Ref(Hashable, Protocol):
    """A table as a text writes it (`T`, `T$all`, `ns.T`); a key of the tables that the engine is given."""

    @property
    def with_storage_columns(self) -> bool: ...


class Pinned(Protocol):
    """Rows of one table at one version. Immutable; holds nothing that needs closing."""

    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def schema(self) -> pa.Schema: ...
    @property
    def row_count(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """A table as it is now. `event_time_column` empty: it has none. Times are microseconds since 1970, None: unknown."""

    name: str
    uid: str
    version: int
    event_time_column: str = ""
    event_time_high_us: int | None = None
    commit_time_us: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """The table's newest version. `uid` differs from the one before when the table was made again. `landed`: versions that changed rows
    since the change before. Times are microseconds since 1970, None: unknown. `trace_context`: of what wrote it, "" when unknown."""

    uid: str
    version: int
    landed: int = 1
    commit_time_us: int | None = None
    event_time_high_us: int | None = None
    trace_context: str = ""


class Spans(Protocol):
    """Traces of work that no request waits for."""

    def caused(self, what: str, causes: Iterable[str]) -> AbstractContextManager[object]:
        """Around the work; `causes`: trace contexts of the versions that it answers."""


class Tables(Protocol):
    """Storage's tables. Inside a request with the caller's rights, outside of one with this service's."""

    async def facts(self, name: str) -> Facts:
        """Raises TableNotFound, NotAllowed."""

    async def pin(
        self, name: str, *, version: int | None = None, uid: str = "", storage_columns: bool = False
    ) -> Pinned:
        """`version` None: the newest. Raises TableNotFound, VersionExpired, VersionInFuture, TableRecreated."""

    def watch(self, name: str) -> AsyncIterator[Change]:
        """The newest version first, then every later one that changed rows; a slow reader misses the ones between.

        Survives breaks. Raises TableNotFound when the table is or gets deleted. Close it."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One SELECT and the Python values of its `$name`s."""

    sql: str
    params: Mapping[str, Any] = field(default_factory=dict)


class Result(Protocol):
    """An open result; canonical types. One reader."""

    @property
    def schema(self) -> pa.Schema: ...

    def __aiter__(self) -> AsyncIterator[pa.RecordBatch]: ...


class Engine(Protocol):
    """Runs SELECTs that passed `Language.parse` or came from `Language.compile`."""

    def open(
        self,
        statement: Statement,
        tables: Mapping[Ref, Pinned],
        *,
        deadline_s: float | None = None,
        deterministic: bool = False,
    ) -> AbstractAsyncContextManager[Result]:
        """The block reads at its own pace. `deterministic`: same data, same bits, same order for the same text.

        Raises SqlInvalid, MemoryLimit, DeadlineTooShort, TooManyStreams, FileMissing, UnsupportedType; reading does too."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text that was accepted. `tables`: full name per reference; `volatile`: why it depends on more than them."""

    tables: Mapping[Ref, str]
    parameters: frozenset[str]
    volatile: frozenset[str]


class Language(Protocol):
    """SQL in, SQL out."""

    def parse(self, sql: str, namespace: str) -> Text:
        """Raises SqlInvalid naming what is refused."""

    def total_order(self, sql: str, columns: int) -> str:
        """An accepted text with ties broken by all its `columns`, after the order it asks for itself."""

    def compile(self, spec: Resolved, table: str, *, storage_columns: bool, total_order: bool) -> tuple[Statement, Ref]:
        """A SELECT over the table with this full name, and how it writes that table."""

    def columns(self, sql: str) -> str:
        """A text with the same columns and no rows."""

    def arranged(self, sql: str, columns: Sequence[str], order: Sequence[str]) -> str:
        """Only `columns` of a text's result, ordered by `order`."""

    def highest(self, column: str, table: str, *, storage_columns: bool) -> tuple[str, Ref]:
        """A SELECT of the highest `column` in microseconds since 1970, as `high`."""


# -- statistics ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class LeastSquares:
    """Ordinary least squares; arrays by column of the design, `residuals` and `leverage` by row. NaN where there is no number."""

    coefficients: Floats
    standard_errors: Floats
    ci_low: Floats
    ci_high: Floats
    t: Floats
    p: Floats
    residuals: Floats
    leverage: Floats
    rss: float
    f: float
    f_p: float
    breusch_pagan_p: float


class Statistics(Protocol):
    """The library behind the methods. Blocking, CPU: call it off the loop."""

    version: str
    """Of the library: "statsmodels 0.15.0"."""

    def least_squares(self, response: Floats, design: Floats, intercept: bool, confidence: float) -> LeastSquares:
        """`design` has full column rank and no fewer rows than columns; its first column is the constant if `intercept`."""

    def theta(
        self, values: Floats, *, season: int, horizon: int, levels: Sequence[float]
    ) -> tuple[Floats, list[tuple[Floats, Floats]]]:
        """Mean and, per level, bounds of the next `horizon` steps. Raises ValueError when it cannot be fitted."""

    def normal_interval(self, level: float) -> float:
        """Half-width in standard deviations that covers `level`."""
