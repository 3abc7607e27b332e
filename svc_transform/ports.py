"""What a transform needs from the outside. Names are full resource names; times are seconds since 1970 where not said otherwise."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

Positions = Mapping[str, str]


# -- values ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What PutTransform stored. `generation` rises with each change, `uid` differs for each creation."""

    name: str
    uid: str
    generation: int
    sql: str
    output: str
    driving_table: str = ""
    event_time_column: str = ""
    fail_on_bad_row: bool = False
    max_delay_ms: int = 200
    paused: bool = False
    owner: str = ""

    @property
    def namespace(self) -> str:
        return self.name.split("/")[1]

    @property
    def short_name(self) -> str:
        return self.name.rsplit("/", 1)[1]

    @property
    def lease(self) -> str:
        """Lease and writer of the output: `transforms/<namespace>/<name>`."""
        return f"transforms/{self.namespace}/{self.short_name}"

    @property
    def fingerprint(self) -> str:
        """Changes where the output would: another SELECT, another driving table."""
        return hashlib.sha256(json.dumps([self.sql, self.driving_table]).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Incrementality:
    """Whether new rows of the driving table alone make the new rows of the output; if not, why (a word) and where (a sentence)."""

    append_safe: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class InputTable:
    """One input as it stands: `version` is its newest."""

    name: str
    uid: str
    version: int


@dataclass(frozen=True, slots=True)
class InputRange:
    """Rows added in (after_version, version], or all rows at `version` when `after_version` is None."""

    table: str
    uid: str
    version: int
    after_version: int | None = None

    @property
    def key(self) -> str:
        return f"{self.table}@{self.uid}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read and where the output then stands. `skip`: rows of the result that an interrupted run has committed already."""

    inputs: tuple[InputRange, ...]
    full_refresh: bool = False
    replaces_output: bool = False
    reason: str = ""
    skip: int = 0
    position: dict[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Nothing is new."""
        return not self.inputs

    def started(self, offset: int, before: Positions) -> dict[str, str]:
        """The position to write before the first rows: what `before` said, and what is under way from `offset` on."""
        kept = {key: value for key, value in before.items() if not key.startswith("next:") and key != "offset"}
        return (
            kept
            | {f"next:{key}": value for key, value in self.position.items() if "@" in key}
            | {
                "spec": self.position["spec"],
                "offset": str(offset),
            }
        )


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table as it stands. `schema` lacks storage's own columns."""

    name: str
    uid: str
    version: int
    schema: pa.Schema
    event_time_column: str = ""
    owner: str = ""

    @property
    def as_input(self) -> InputTable:
        return InputTable(self.name, self.uid, self.version)


@dataclass(frozen=True, slots=True)
class Landed:
    """A version of a table. `trace_context`: of what wrote it, "" when unknown."""

    version: int
    trace_context: str = ""


class Spans(Protocol):
    """Traces of work that no request waits for."""

    def caused(self, what: str, causes: Iterable[str]) -> AbstractContextManager[object]:
        """Around the work; `causes`: trace contexts of the versions that it answers."""


class Tables(Protocol):
    """Storage's tables, as the calling principal sees them."""

    async def get(self, name: str) -> TableFacts:
        """Raises TableNotFound."""

    async def create(self, name: str, schema: pa.Schema, *, event_time_column: str, description: str) -> TableFacts:
        """Raises ResourceExists, UnsupportedType."""

    async def grow(self, table: TableFacts, columns: pa.Schema) -> TableFacts:
        """The table with these columns: all that it has, some of a wider type, and new nullable ones behind them.

        Raises EtagMismatch, SchemaConflict (somebody else changed it), UnsupportedType."""

    async def empty(self, table: TableFacts, *, owner: str) -> TableFacts:
        """The table without its rows: deleted and made again with the same definition, under another uid.

        `owner`: the transform that fills it. Raises TableHasDependents when anything else uses it."""

    def changes(self, table: TableFacts, *, after_version: int, reader: str) -> AsyncIterator[Landed]:
        """Newest versions that changed rows, as they land; ends when the table is deleted. Raises TableRecreated, VersionExpired.

        `reader`: the named reader whose position retention respects."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """A SELECT that the engine accepts. `inputs`: full names; `written`: each as the SQL spells it. `tree`: the engine's syntax tree."""

    inputs: tuple[str, ...]
    tree: Mapping[str, Any]
    written: Mapping[str, str]


class Engine(Protocol):
    """Runs a SELECT over pinned tables."""

    def inspect(self, sql: str, namespace: str) -> Inspection:
        """Parses, runs nothing. Raises SqlInvalid naming what is refused."""

    async def columns(self, sql: str, namespace: str, inputs: Sequence[TableFacts]) -> pa.Schema:
        """Columns of the result, canonical. Raises SqlInvalid, UnsupportedType."""

    def run(
        self, sql: str, namespace: str, inputs: Sequence[InputRange]
    ) -> AbstractAsyncContextManager[AsyncIterator[pa.RecordBatch]]:
        """The result over `inputs`, in an order that depends on the rows alone: the same inputs give the same rows in the same order.

        Raises VersionExpired, TableRecreated, ChangesNotAppendOnly where an input cannot be read any more: refresh in full."""


@dataclass(frozen=True, slots=True)
class Written:
    """Totals of an output since it was opened. `version`: of the last commit, 0 when there was none."""

    rows: int = 0
    dead_lettered: int = 0
    version: int = 0


class Output(Protocol):
    """The output table, open for this transform alone; one task writes."""

    uid: str
    position: Mapping[str, str]  # as committed when it was opened
    next_offset: int  # rows that were committed when it was opened

    @property
    def written(self) -> Written:
        """What is durable so far."""

    async def write(self, rows: pa.RecordBatch, position: Mapping[str, str] | None = None) -> None:
        """Takes rows; with `position` they are one commit with it (at most 3.5 MiB), without they may be cut and committed in parts.

        Raises WriterFenced and LeaseLost: stop."""

    async def commit(self) -> Written:
        """Waits until all is durable; the output takes no more rows."""

    async def close(self) -> None:
        """Drops what is not committed. Safe to repeat."""


class Outputs(Protocol):
    """Opens output tables."""

    async def open(self, table: TableFacts, recipe: Recipe, epoch: int) -> Output:
        """`epoch`: of the lease `recipe.lease`. Raises WriterFenced, LeaseLost, TableRecreated."""


class Observer(Protocol):
    """Hears how a run goes. Raises LeaseLost when another process has taken over."""

    async def planned(self, step: Plan) -> None: ...

    async def progress(self, rows_read: int, written: Written) -> None: ...


class RunLog(Observer, Protocol):
    """An Observer that writes a Run which somebody asked for."""

    full_refresh: bool

    @property
    def cancelled(self) -> bool:
        """True once CancelRun was called: end after the commit at hand."""

    async def started(self) -> None: ...

    async def finished(self, error: BaseException | None, *, cancelled: bool = False) -> None:
        """CANCELLED when it stopped for that (`cancelled`), or failed after it was asked to; FAILED with `error`; else SUCCEEDED."""


class Runs(Protocol):
    """Runs that somebody asked for."""

    def requested(self, recipe: Recipe, epoch: int) -> AsyncIterator[RunLog]:
        """Runs of `recipe` that have not ended, oldest first, then new ones as they come; never ends."""


class Held(Protocol):
    """A lease that this process holds. `lost` resolves when it must stop."""

    epoch: int
    lost: asyncio.Future[None]


class Leases(Protocol):
    """One worker per transform in the whole fleet."""

    def hold(self, name: str) -> AbstractAsyncContextManager[Held]:
        """Waits until the lease is free, keeps it while the block runs, gives it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A transform's state for people. `state`: IDLE, RUNNING, BACKING_OFF or PAUSED; `pause_s` until the next try when BACKING_OFF."""

    state: str
    cause: str = ""
    pause_s: float = 0.0
    epoch: int = 0
    step: Plan | None = None
    judged: Incrementality | None = None


class Reports(Protocol):
    """Where transforms' states are shown. Totals of rows are kept by the adapter, from what `observer` hears."""

    def observer(self, recipe: Recipe, epoch: int) -> Observer: ...

    async def report(self, recipe: Recipe, report: Report) -> None:
        """Best effort and at most one a second; the last state of a quiet transform always arrives. Raises LeaseLost."""


class Recipes(Protocol):
    """The stored transforms."""

    def watch(self) -> AsyncIterator[tuple[str, Recipe | None]]:
        """Every transform, then each change: (name, recipe), None for one that was deleted. Status changes do not count. Never ends."""
