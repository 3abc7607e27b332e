"""What extract's domain needs from the outside, in small Protocols, and the values that cross them.

Times are `int` microseconds since 1970 UTC (`…_us`). Names are full resource names. A connector's own options are opaque
here: what a `SourceSpec` carries as `options` only its connector looks into.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol

import pyarrow as pa

NOTHING: Mapping[str, str] = MappingProxyType({})


# -- rows on their way ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Position:
    """The source's own place: part -> where it stands, in the connector's format. `event_time_high_us`: None when unknown."""

    parts: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    event_time_high_us: int | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not become a row. `row_index`: its place among the n = rows + dead letters of its chunk.

    `reason`: UNPARSEABLE, FIELD_COUNT, ENCODING, TYPE, ROW_TOO_LARGE. `raw`: its bytes, cut to 64 KiB. `field` may be empty."""

    row_index: int
    reason: str
    field: str
    raw: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What a connector read in one go: good rows in the table's schema, dead letters, and the position after all of them.

    Small enough for one message of storage (`MAX_CHUNK_BYTES`). Without rows and dead letters it only moves the position (when
    set) or says that the source is idle (`activity`). `fraction`: done share of what is there now, 0 when unknown.
    `replay_time_us`: the event time that a replay stands at. `lag_us`: how far the source's newest row is ahead, in event time."""

    rows: pa.RecordBatch | None = None
    dead_letters: tuple[DeadLetter, ...] = ()
    position: Position | None = None
    source_bytes: int = 0
    fraction: float = 0.0
    activity: str = ""
    replay_time_us: int | None = None
    lag_us: int | None = None

    @property
    def records(self) -> int:
        return (self.rows.num_rows if self.rows is not None else 0) + len(self.dead_letters)


MAX_CHUNK_BYTES = 2_500_000
"""Rows and dead letters of a chunk: with their frame they fit the 3.5 MiB of a message."""


@dataclass(frozen=True, slots=True)
class TableInfo:
    """The table that rows go to. `event_time_column` "": it has none."""

    name: str
    uid: str
    schema: pa.Schema
    event_time_column: str = ""


# -- sources ----------------------------------------------------------------------------------------------------------
class OnBadRow(StrEnum):
    FAIL = "FAIL"
    DEAD_LETTER = "DEAD_LETTER"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """What to read, and where to. `options`: the connector's own message. `commit_interval_ms` None: adaptive."""

    table: str
    connector: str
    options: Any
    continuous: bool = False
    on_bad_row: OnBadRow = OnBadRow.DEAD_LETTER
    commit_interval_ms: int | None = None
    description: str = ""
    paused: bool = False


class WorkState(StrEnum):
    IDLE = "IDLE"
    RUNNING = "RUNNING"
    BACKING_OFF = "BACKING_OFF"
    PAUSED = "PAUSED"
    FINISHED = "FINISHED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Totals; never fall within one run. `lag_us` None: unknown. `version`: of the last commit."""

    rows_read: int = 0
    rows_written: int = 0
    rows_dead_lettered: int = 0
    source_bytes: int = 0
    position: Position | None = None
    version: int = 0
    lag_us: int | None = None
    fraction: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    """How a source is, as its worker says at most once a second. `cause`: why it is PAUSED or BACKING_OFF."""

    state: WorkState = WorkState.IDLE
    cause: str = ""
    progress: Progress = field(default_factory=Progress)
    rows_per_second: float = 0.0
    commit_time_us: int | None = None
    next_attempt_us: int | None = None
    worker: str = ""
    epoch: int = 0
    observed_generation: int = 0
    activity: str = ""
    replay_time_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A stored source. `generation` rises with each change of the spec; `owner` is whom it acts for."""

    name: str
    spec: SourceSpec
    uid: str = ""
    etag: str = ""
    generation: int = 0
    status: SourceStatus = field(default_factory=SourceStatus)
    owner: str = ""


# -- runs -------------------------------------------------------------------------------------------------------------
class RunMode(StrEnum):
    ONCE = "ONCE"
    UNTIL_CAUGHT_UP = "UNTIL_CAUGHT_UP"


class Until(StrEnum):
    """When a reading ends: at the end of what there is now, when nothing is left, or never by itself."""

    END = "END"
    CAUGHT_UP = "CAUGHT_UP"
    STOPPED = "STOPPED"


class RunState(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed, as people and programs may see it: reason and sentence; no row values, no secrets."""

    reason: str
    message: str
    field: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What a run is asked to do. `start_override` None: start at the committed position."""

    source: str
    mode: RunMode = RunMode.ONCE
    start_override: Position | None = None
    cancel_requested: bool = False
    requested_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A stored run. `last_sequence`: of its newest event. `foreign`: the stored form when the run is not one of a source."""

    name: str
    spec: RunSpec
    state: RunState = RunState.PENDING
    uid: str = ""
    etag: str = ""
    create_us: int = 0
    start_us: int | None = None
    end_us: int | None = None
    progress: Progress = field(default_factory=Progress)
    error: Failure | None = None
    last_sequence: int = 0
    foreign: Any = None


@dataclass(frozen=True, slots=True)
class Started:
    worker: str
    position: Position | None


@dataclass(frozen=True, slots=True)
class Warned:
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Finished:
    state: RunState
    progress: Progress
    error: Failure | None = None


Happening = Started | Progress | Warned | Finished


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One stored event of a run. `sequence` rises by 1 from 1."""

    sequence: int
    time_us: int
    what: Happening


# -- findings ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. `fatal`: the source cannot run with this spec. `reason`: a reason of contracts.md section 5."""

    fatal: bool
    reason: str
    field: str
    message: str


class Guarantee(StrEnum):
    REPLAYABLE = "REPLAYABLE"
    DEDUPLICATED_BY_KEY = "DEDUPLICATED_BY_KEY"
    AT_LEAST_ONCE = "AT_LEAST_ONCE"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """`schema`: the columns that the source has, as far as a sample tells; None when it could not be looked at."""

    findings: tuple[Finding, ...]
    schema: pa.Schema | None
    guarantee: Guarantee

    @property
    def ok(self) -> bool:
        return not any(found.fatal for found in self.findings)


# -- ports ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorInfo:
    """What a connector is and can do. Every capability defaults to the least."""

    name: str
    description: str
    guarantee: Guarantee = Guarantee.AT_LEAST_ONCE
    continuous: bool = False
    formats: tuple[str, ...] = ()
    pushed: bool = False
    """Rows come through Ingest; there is nothing to run."""


class Connector(Protocol):
    """One kind of source. Holds no state between calls; everything it needs to go on is in the position."""

    info: ConnectorInfo

    def validate(self, spec: SourceSpec) -> None:
        """Refuses options that can never work, without looking outside. Raises FixRequest, `field` proto style (`files.path`)."""

    async def check(self, spec: SourceSpec, table: TableInfo) -> CheckReport:
        """Looks at the source (reachable, readable, columns against the table) and reads no more than a sample.

        Raises nothing of its own: what is wrong is a finding. A source that cannot be reached now is SOURCE_UNAVAILABLE, not fatal."""

    def read(self, spec: SourceSpec, table: TableInfo, start: Position | None, until: Until) -> AsyncGenerator[Chunk]:
        """Chunks from `start` (None: the beginning) on. Reading again from a chunk's position gives exactly what came after it, if the
        guarantee is REPLAYABLE. Idle sources give a chunk without records at least every 5 s, so that the reader can be stopped there.

        The caller closes it. Raises SourceUnavailable (back off), SourcePaused (a person must act; metadata `cause`), FixRequest."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendTarget:
    """Who appends to what. `lease` and `epoch` go together: storage checks them in each commit."""

    table: str
    writer_id: str
    table_uid: str = ""
    epoch: int = 0
    lease: str = ""
    dead_letter: bool = True
    commit_interval_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SinkOpened:
    """`position`: the source's place after the last stored row; None when none was ever stored."""

    epoch: int
    next_offset: int
    position: Position | None
    schema: pa.Schema
    table_uid: str


@dataclass(frozen=True, slots=True)
class Committed:
    """Stored durably since the acknowledgement before. `position` None: it did not move."""

    next_offset: int
    version: int
    time_us: int
    rows_written: int
    rows_dead_lettered: int
    position: Position | None


class Appender(Protocol):
    """An open writer. One task uses it. Any call raises what ended the writer: WriterFenced and LeaseLost (stop), Reload (open again)."""

    opened: SinkOpened

    async def append(self, rows: pa.RecordBatch, dead_letters: Sequence[DeadLetter], position: Position | None) -> None:
        """Takes one batch, kept until storage has it; waits while too much is not acknowledged."""

    async def flush(self) -> None:
        """Returns when all that was appended is committed."""

    async def finish(self) -> None:
        """Commits the rest and ends the writer."""


class Sink(Protocol):
    def open(
        self, target: AppendTarget, on_commit: Callable[[Committed], None]
    ) -> AbstractAsyncContextManager[Appender]:
        """Leaving the block without `finish` drops what is not committed."""
        ...


class HeldLease(Protocol):
    """A lease that is held and renewed by itself."""

    name: str
    epoch: int

    async def lost(self) -> None:
        """Returns when it is no longer certain that the lease is held (two thirds of its ttl without a renewal, or LEASE_LOST)."""


class LeaseKeeping(Protocol):
    def hold(self, name: str) -> AbstractAsyncContextManager[HeldLease]:
        """Raises LeaseHeld while another holder has it. Released when the block ends."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """Something stored changed. `there` False: it was deleted. `caught_up`: all that there was has been told."""

    source: Source | None = None
    run: Run | None = None
    there: bool = True
    caught_up: bool = False


class Catalog(Protocol):
    """Sources and runs, stored. Raises StoreUnavailable-like RetryLater when the store does not answer."""

    async def put_source(
        self, source: Source, *, request_id: str, owner: str, status: SourceStatus | None = None
    ) -> Source:
        """Creates or replaces; `source.etag` set must match (EtagMismatch). `status`: only at creation."""
        ...

    async def source(self, name: str) -> Source:
        """Raises SourceNotFound."""
        ...

    async def sources(self, namespace: str, *, limit: int, page_token: str) -> tuple[Sequence[Source], str]: ...

    async def delete_source(self, name: str, *, etag: str, request_id: str) -> None:
        """Raises SourceNotFound, EtagMismatch."""

    async def create_run(self, run: Run, *, owner: str) -> tuple[Run, bool]:
        """The stored run, and whether it is new. One of that name exists: that one, whatever it was asked to do."""
        ...

    async def run(self, name: str) -> Run:
        """Raises RunNotFound."""
        ...

    async def ask_to_cancel(self, run: Run, *, request_id: str) -> Run:
        """Sets `cancel_requested`, with the stored spec otherwise unchanged. Raises EtagMismatch when it changed meanwhile."""
        ...

    async def save(
        self,
        *,
        source: Source | None = None,
        status: SourceStatus | None = None,
        run: Run | None = None,
        events: Sequence[Happening] = (),
        lease: str = "",
        epoch: int = 0,
    ) -> None:
        """Stores a source's status and, or, a run's state with its events. Raises LeaseLost when the lease has another epoch."""

    def events(self, run: str, *, after_sequence: int) -> AsyncGenerator[RunEvent]:
        """The run's events in order, as they come, from any replica's worker; without end. The caller closes it. Raises RunNotFound."""
        ...

    def watch(self) -> AsyncGenerator[Change]:
        """All sources and source runs, then `caught_up`, then changes, for ever. Newest state counts."""
        ...


class Tables(Protocol):
    async def table(self, name: str, *, as_caller: bool) -> TableInfo:
        """Raises TableNotFound. `as_caller`: with the rights of who asked (inside a request), else with extract's own."""
        ...


# -- push -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class PushOpen:
    """As AppendOpen. `validate_only`: check everything, commit nothing."""

    table: str
    writer_id: str
    epoch: int = 0
    on_bad_row: OnBadRow = OnBadRow.DEAD_LETTER
    validate_only: bool = False
    commit_interval_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOpened:
    epoch: int
    next_offset: int
    position: Position | None
    schema: pa.Schema
    max_unacked_bytes: int
    max_unacked_batches: int
    max_message_bytes: int
    ack_timeout_ms: int


@dataclass(frozen=True, slots=True)
class RowFault:
    """Why a row became a dead letter."""

    row_index: int
    field: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PushCommitted:
    next_offset: int
    version: int
    time_us: int
    rows_written: int
    rows_dead_lettered: int
    rows_duplicate: int
    sample: tuple[RowFault, ...] = ()


@dataclass(frozen=True, slots=True)
class PushDone:
    next_offset: int
    version: int


class PushChannel(Protocol):
    """One stream into storage with the caller's own rights. Sending waits while storage reads nothing: that is the back-pressure."""

    opened: PushOpened

    async def send(
        self,
        offset: int | None,
        rows: pa.RecordBatch | None,
        payload: Any,
        dead_letters: Sequence[DeadLetter],
        position: Position | None,
    ) -> None:
        """One batch at the caller's offset. `payload`: a batch as it came, passed on unread; else `rows`."""

    async def flush(self) -> None: ...

    async def finish(self) -> None: ...

    def answers(self) -> AsyncIterator[PushCommitted | PushDone]:
        """In order; ends after PushDone. Raises what storage refused, with its reason and metadata."""
        ...


class PushGate(Protocol):
    def open(self, request: PushOpen) -> AbstractAsyncContextManager[PushChannel]:
        """Leaving the block without `finish` drops what is not committed."""
        ...


class Clock(Protocol):
    def now_us(self) -> int: ...

    def monotonic_s(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class Secrets(Protocol):
    def reveal(self, reference: str, *, field: str) -> str:
        """The secret that `env:NAME` or `file:PATH` names. Raises FieldInvalid without ever showing it."""
        ...
