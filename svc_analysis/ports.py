"""What the domain needs from outside: tables, an engine, and two languages. Adapters implement these; `memory` ones always exist."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from svc_analysis.domain.resolve import Resolved

Floats = npt.NDArray[np.float64]


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
    since the change before. Times are microseconds since 1970, None: unknown."""

    uid: str
    version: int
    landed: int = 1
    commit_time_us: int | None = None
    event_time_high_us: int | None = None


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

    def compile(self, spec: Resolved, table: str, *, storage_columns: bool, total_order: bool) -> tuple[str, Ref]:
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
