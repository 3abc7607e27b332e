"""What the storage domain needs from the outside, in small Protocols, and the values that cross them.

Times are `int` microseconds since 1970 UTC (`…_us`). Paths are relative to the table's folder and use `/`. A `Version`
is the number of a commit. Everything `async` may be awaited on the event loop; everything that is not is either free of
I/O or says "blocking" and belongs on a worker thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import pyarrow as pa

T = TypeVar("T")
Version = int

NOTHING: Mapping[str, Any] = MappingProxyType({})


class CommitKind(StrEnum):
    """What a version is, as WatchTable names it. The version a table is created with is SCHEMA."""

    APPEND = "APPEND"
    MERGE = "MERGE"
    COMPACT = "COMPACT"
    RESTORE = "RESTORE"
    SCHEMA = "SCHEMA"
    FENCE = "FENCE"


SAME_ROWS = (CommitKind.COMPACT, CommitKind.SCHEMA)
"""Kinds whose `adds` hold the rows of their `removes`, no more and no fewer."""


MERGED = "millrace.merge"
"""A table that was ever merged into has a writer of this name. It counts the merges; its positions say what the newest one did:
`inserted`, `updated`, `deleted`, in rows; `upserts`, the path of the file that has what was inserted and updated."""


# -- values -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ColumnStatistics:
    """Bounds of one top-level column of one file. `minimum`, `maximum`: Delta's JSON form (numbers, strings, ISO times), None when unknown.

    `null_count` is None when unknown. A float column holding NaN or an infinity has no bounds.
    """

    minimum: Any = None
    maximum: Any = None
    null_count: int | None = None


@dataclass(frozen=True, slots=True)
class DataFile:
    """An immutable file of a table. `level`: 0 as committed, 1 and 2 after compaction. `added_in`: the version that added it.

    `added_in` is an upper bound for a file that comes from a checkpoint. `statistics` is parsed lazily from `stats_json`
    by `svc_storage.domain.reading.statistics`.
    """

    path: str
    size_bytes: int
    row_count: int
    level: int = 0
    added_in: Version = 0
    modified_ms: int = 0
    stats_json: str = "{}"


@dataclass(frozen=True, slots=True)
class DeadLetterFile:
    """A file of dead letters under `_millrace/dead_letters/`. Visible only because a commit names it."""

    path: str
    size_bytes: int
    row_count: int
    added_in: Version = 0


@dataclass(frozen=True, slots=True)
class BatchMark:
    """One accepted batch: first row's offset, its n (rows + dead letters), CRC-32 of the payload bytes as sent."""

    offset: int
    rows: int
    crc32: int


@dataclass(frozen=True, slots=True)
class WriterState:
    """How far a writer got, as of a version. `marks`: its last 64 batches, oldest first. `event_time_high_us`: None = unknown."""

    epoch: int
    next_offset: int = 0
    positions: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    event_time_high_us: int | None = None
    marks: tuple[BatchMark, ...] = ()
    owner: str = ""
    lease: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One atomic change of a table. `id` is unique and tells our commit from another's after an ambiguous answer.

    `writers` holds the new record of each writer that the commit moves; their `marks` are only the batches of this commit.
    `removes` of a COMPACT or SCHEMA hold the same rows as its `adds`. `schema` is set when the commit changes it; `schema_id` is its
    number then, else that of the columns which `adds` were written in (0: not said).
    """

    id: str
    kind: CommitKind
    time_us: int
    adds: tuple[DataFile, ...] = ()
    removes: tuple[DataFile, ...] = ()
    writers: Mapping[str, WriterState] = field(default_factory=lambda: NOTHING)
    dead_letters: tuple[DeadLetterFile, ...] = ()
    schema: pa.Schema | None = None
    schema_id: int = 0
    event_time_high_us: int | None = None
    trace_context: str = ""
    dead_letters_removed: tuple[DeadLetterFile, ...] = ()
    """Files of dead letters that an erasure takes out; what stays of them is in `dead_letters`."""
    expire_below: Version = 0
    """Versions below it are not served any more, whatever retention says. 0: nothing expires."""
    gone_us: int = 0
    """Not 0: every file that has left the table by now goes after this time, whatever retention says; and no plan under way keeps the
    versions of `expire_below` (an erasure)."""

    @property
    def rows_added(self) -> int:
        """Rows that readers gain; a compaction and a change of columns add none. A merge counts its own, not those it copied."""
        if self.kind is CommitKind.MERGE and (merged := self.writers.get(MERGED)):
            return int(merged.positions.get("inserted", 0)) + int(merged.positions.get("updated", 0))
        return 0 if self.kind in SAME_ROWS else sum(file.row_count for file in self.adds)

    @property
    def rows_removed(self) -> int:
        """Rows that readers lose; a compaction and a change of columns remove none. A merge counts those it replaced or deleted."""
        if self.kind is CommitKind.MERGE and (merged := self.writers.get(MERGED)):
            return int(merged.positions.get("updated", 0)) + int(merged.positions.get("deleted", 0))
        return 0 if self.kind in SAME_ROWS else sum(file.row_count for file in self.removes)


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit with the number it got."""

    version: Version
    commit: Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A table at one version. `files` in commit order, keyed by path. `schema` includes storage's `_` columns."""

    version: Version
    time_us: int
    schema: pa.Schema
    schema_id: int = 1
    files: Mapping[str, DataFile] = field(default_factory=lambda: NOTHING)
    writers: Mapping[str, WriterState] = field(default_factory=lambda: NOTHING)
    dead_letters: tuple[DeadLetterFile, ...] = ()
    event_time_high_us: int | None = None

    @property
    def row_count(self) -> int:
        return sum(file.row_count for file in self.files.values())

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())


@dataclass(frozen=True, slots=True)
class LogTail:
    """What a log holds: `base`, the oldest state that can still be opened, and every commit after it, ascending, without a gap.

    `removed_us`: files that left the newest version before `base`, with the time they did; they are kept for pinned readers.
    Negative: they go after this time (its amount), whatever retention says.
    """

    base: Snapshot
    commits: tuple[Committed, ...]
    removed_us: Mapping[str, int] = field(default_factory=lambda: NOTHING)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """A table in the catalog. `name`: `namespaces/{n}/tables/{t}`. `etag` changes with every put. `body`: the definition, JSON
    that only `svc_storage.domain.definition` reads. `owner`: the principal who created it."""

    name: str
    uid: str
    etag: str
    created_us: int
    updated_us: int
    owner: str
    body: str


@dataclass(frozen=True, slots=True)
class RequestMark:
    """A caller's request: `id` (its request_id), `principal`, and a fingerprint of everything else in it (hex). `ends_s`: nothing may
    be done for it any more after this time of `time.monotonic`; None: no deadline."""

    id: str
    principal: str
    fingerprint: str
    ends_s: float | None = None


# -- the log and the files of one table -------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class CommitCapabilities:
    """What a log can do beyond appending. The zero value is the least capable backend."""

    conditional: bool = False
    """Two processes racing for one number: one of them gets VersionTaken. Else one process must own the store."""
    checkpoints: bool = False
    trim: bool = False


class VersionTaken(Exception):
    """Another commit got the number: `CommitLog.read_after`, decide anew."""


class LogTrimmed(Exception):
    """The log does not hold the version after the asked one any more: `CommitLog.recover` reads what it holds."""


class CommitLog(Protocol):
    """Decides which version comes next. One winner per number; a reader sees a commit whole or not at all."""

    capabilities: CommitCapabilities

    async def recover(self) -> LogTail:
        """Makes what is there durable and consistent (contracts.md W4 a–c), then reads it. Called once, before anything else.

        Raises ChecksumMismatch (DATA_LOSS) when the log is damaged in the middle."""

    async def append(self, commit: Commit, *, after: Version) -> Version:
        """Makes `commit` the successor of `after`; durable when it returns, safe to repeat with the same commit id.

        Raises VersionTaken (another commit won) and OutcomeUnknown (the store did not say: `read_after(after)` before
        anything else)."""

    async def read_after(self, version: Version) -> Sequence[Committed]:
        """Every commit after `version`, freshly read, made durable, ascending. Where others commit too it is asked several times a
        second. A gap after `version`, or LogTrimmed, says that the log was cut above it."""

    async def checkpoint(self, snapshot: Snapshot, removed_us: Mapping[str, int]) -> None:
        """Makes `snapshot` (the newest version) a base from which the log can be opened; durable when it returns."""

    async def checkpoints(self) -> Sequence[Version]:
        """The versions that can serve as a base, ascending."""

    async def drop_checkpoints(self, versions: Sequence[Version]) -> None:
        """These are no bases any more; the oldest and the newest one are never among them. Repeating it is no error."""

    async def trim(self, floor: Version) -> None:
        """Forgets every commit at or below `floor`, a base; afterwards `recover` starts there."""

    async def close(self) -> None:
        """Lets go of handles. Nothing is written."""


class Direct(StrEnum):
    """How a reader may get at the bytes of files without this service."""

    NONE = "NONE"
    SAME_DISK = "SAME_DISK"
    """`file://`: whoever shows the data folder's id sees the same disk."""
    PRESIGNED = "PRESIGNED"
    """`http(s)://`, signed, for a limited time: whoever may read the table."""


@dataclass(frozen=True, slots=True)
class DirectUrl:
    """`expire_us`: until when it holds, None = as long as the file is there."""

    url: str
    expire_us: int | None = None


class TableFiles(Protocol):
    """The files of one table. A file is written once, whole, durable, and never changed. What a file is made of (Parquet, column
    chunks) is the backend's."""

    direct: Direct
    widens_in_place: bool
    """A file may stay when a column of the table gets a wider type: whoever else opens the table's files can do so too. Else such a
    change writes the files anew."""

    async def write(
        self, path: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, level: int = 0
    ) -> DataFile:
        """Writes one file with its statistics; durable (file and folder) when it returns. `batches` is consumed on a
        worker thread. Raises DiskFull, StoreUnavailable; then nothing of it is visible."""

    def batches(
        self, file: DataFile, schema: pa.Schema, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Blocking. Rows [first, last) of a file (None: to its end) as (row in the file, batch of about a mebibyte of `schema`'s
        columns), in order; only those columns are fetched. One that the file lacks is NULL, one of a narrower type is widened.

        Raises FileMissing, ChecksumMismatch when the file is not what the log says. Close it when it is not read to its end."""

    async def urls(self, paths: Sequence[str]) -> Sequence[DirectUrl]:
        """Where a DIRECT reader opens the files; called only where `direct` is not NONE. Raises StoreUnavailable."""

    async def put_record(self, name: str, content: bytes) -> None:
        """Stores a small record under `_millrace/` (`plans/17.json`), replacing an older one; durable when it returns."""

    async def get_record(self, name: str) -> bytes | None:
        """What was put under `name`, None when nothing was."""

    async def list_paths(self) -> Sequence[tuple[str, int]]:
        """(path, modified_us) of every file that is not the log's own, records and dead letters included."""

    async def remove(self, paths: Sequence[str]) -> None:
        """Removes files; a missing one is no error."""


@dataclass(frozen=True, slots=True)
class ArchivePart:
    """A file of rows in an archive. `sha256`: of its bytes, hex. The same rows under the same schema give the same bytes."""

    name: str
    row_count: int
    size_bytes: int
    sha256: str


class Archive(Protocol):
    """A folder outside of the store that holds exported tables. Names are relative and use `/`; the caller has checked them.

    All of it blocks: it belongs on a worker thread. Raises StoreUnavailable, DiskFull."""

    def put(self, name: str, content: bytes) -> None:
        """Replaces a small file, whole or not at all; durable when it returns."""

    def get(self, name: str) -> bytes | None:
        """None when there is none."""

    def write_rows(self, name: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> ArchivePart:
        """Writes rows as one file of an open format, replacing an older one; durable when it returns."""

    def read_rows(self, part: ArchivePart, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Its rows in order, of exactly `schema`. Raises FileMissing, ChecksumMismatch before the first row when it is not that file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTableState:
    """A derived table as it is now. `name`: in the store. `columns`: its columns with their types, as text. `through`: it holds every
    version up to this one, whole; -1: it is being filled. `last_us`: the highest time that a row was written with."""

    name: str
    columns: str
    buckets: int
    through: Version
    last_us: int = 0


@dataclass(frozen=True, slots=True)
class KeyRows:
    """For each key: was it found, and up to which version is its row surely as it was then (`since`). `rows`: of those found, in order."""

    found: Sequence[bool]
    since: Sequence[Version]
    rows: pa.RecordBatch


class KeyTable(Protocol):
    """A table's rows by primary key in a form of the store's own: derived from the files, so that all of it may be lost and filled again.

    Its writes may be repeated, and overlap with those of another replica, as long as `time_us` rises with the version."""

    async def state(self) -> KeyTableState | None:
        """None when there is none, or none is whole yet."""

    def columns(self, schema: pa.Schema, key: Sequence[str]) -> str:
        """What `KeyTableState.columns` says of a table that fits these."""

    def can_hold(self, schema: pa.Schema, key: Sequence[str]) -> str:
        """Why it cannot have rows of this key; "": it can. Columns that it cannot hold it leaves out."""

    async def begin(self, schema: pa.Schema, key: Sequence[str], *, size_bytes: int) -> KeyTableState:
        """A new, empty one, which is nobody's yet. `size_bytes`: of the rows that will be in it, about."""

    async def put(
        self, state: KeyTableState, version: Version, batches: Iterable[tuple[pa.RecordBatch, pa.Array]]
    ) -> int:
        """Rows of a version, each with its time in µs (int64): of several of one key the one with the highest time stays. The rows written.
        Durable when it returns; `batches` is consumed on a worker thread."""

    async def remove(self, state: KeyTableState, keys: pa.RecordBatch, time_us: int) -> None: ...

    async def complete(self, state: KeyTableState) -> None:
        """`state.through` holds from now on; whatever was there before under another name goes."""

    def find(self, state: KeyTableState, keys: pa.RecordBatch, schema: pa.Schema) -> KeyRows | None:
        """Blocking. None when it does not have these columns, or is not there any more."""

    async def drop(self) -> None: ...


class Backend(Protocol):
    """Where the tables live."""

    name: str

    shared: bool
    """Several processes may use the store at once: replicas. Else one owns it, and nobody else's commits need looking for."""

    async def create(self, uid: str, schema: pa.Schema, *, time_us: int) -> None:
        """Makes the table's folder and version 0; durable when it returns; repeating it with the same uid is no error."""

    def open(self, uid: str) -> tuple[CommitLog, TableFiles]:
        """The two halves of a table that exists. Nothing is read yet."""

    async def drop(self, uid: str) -> None:
        """Removes the folder; a missing one is no error."""

    async def list_uids(self) -> Sequence[str]:
        """Every folder there is, in the catalog or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A place that holds a whole Millrace: tables, and the catalog, resources and leases beside them. `id` is the place's own, made
    with it: on a disk it proves to a DIRECT reader that it sees the same one. `close` is called once, after the last use."""

    backend: Backend
    control: ControlStore
    id: str
    close: Callable[[], Awaitable[None]]
    key_tables: Callable[[str], KeyTable] | None = None
    """The derived table of a table's uid (`native_lookup`); None: the store cannot have any."""


# -- catalog, leases, readers, time -----------------------------------------------------------------------------------
class Catalog(Protocol):
    """The tables' rows; the truth about which tables exist. A change and its request's outcome are one transaction.

    A request that was answered in the last 24 h is answered again with the stored row and changes nothing; the same id
    (of the same principal) with another fingerprint raises RequestIdReused."""

    async def create_table(self, row: TableRow, request: RequestMark) -> TableRow:
        """Raises ResourceExists when the name is taken."""

    async def update_table(self, row: TableRow, *, expected_etag: str, request: RequestMark) -> TableRow:
        """Replaces the row of `row.uid`. Raises TableNotFound, EtagMismatch (also when `expected_etag` is of an older row)."""

    async def delete_table(self, name: str, *, expected_etag: str, request: RequestMark) -> TableRow:
        """Removes and returns the row; `expected_etag` "" = any. Raises TableNotFound, EtagMismatch."""

    async def outcome(self, request: RequestMark) -> TableRow | None:
        """The row this request was answered with, None when it was not. Raises RequestIdReused."""

    async def get_table(self, name: str) -> TableRow | None: ...

    async def list_tables(self, namespace: str, *, after_name: str, limit: int) -> Sequence[TableRow]:
        """Rows of a namespace ("" = all) with a name above `after_name`, by name."""


class LeaseCheck(Protocol):
    """What the committer asks about leases. Names are lease names as LeaseService knows them."""

    async def current_epoch(self, lease: str) -> int:
        """The newest epoch ever granted, 0 when none was. Time does not matter here: only a later Acquire invalidates."""

    async def raise_floor(self, lease: str, epoch: int) -> None:
        """Durably makes the next Acquire start above `epoch` (a writer bound to the lease has taken it)."""


@dataclass(frozen=True, slots=True)
class WriterPlace:
    """Where a writer stands, as a commit was decided on. A writer that never wrote is at (0, 0)."""

    epoch: int = 0
    next_offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A commit that one replica decided and another one appends. `after`: the version it was decided on, `schema_id` that version's.
    `places`: of the writers that it moves, before."""

    commit: Commit
    after: Version
    schema_id: int
    places: Mapping[str, WriterPlace] = field(default_factory=lambda: NOTHING)


class CommitRoute(Protocol):
    """The way to the replica that commits to a table."""

    async def send(self, holder: str, table: TableRow, proposal: Proposal) -> Version:
        """The version that the commit got, now or when it came before. `holder`: "host:port".

        Raises CommitConflict and WriterFenced (it does not follow the newest version: decide anew), LeaseLost (not the holder any
        more), FieldInvalid (too large to be sent), and OutcomeUnknown or RetryLater kinds when nothing is known: read the log."""


class ReaderMarks(Protocol):
    """Named durable readers, for retention."""

    async def slowest(self, table_uid: str) -> Version | None:
        """The lowest version a live reader (moved in the last 24 h) has got through; None when there is none."""

    async def of_table(self, table_uid: str) -> Sequence[tuple[str, Version]]:
        """(full name, version it has got through) of each live reader."""


class Dependents(Protocol):
    """Who would be left without its input."""

    async def of(self, table: str) -> Sequence[str]:
        """Full names of resources that read or write the table of this name; empty: none."""


@dataclass(frozen=True, slots=True)
class Derived:
    """A transform and the table it makes; full names."""

    transform: str
    output: str


class Lineage(Protocol):
    """What is made from a table."""

    async def derived(self, table: str) -> Sequence[Derived]:
        """Of transforms that read the table of this name."""

    async def ask_refresh(self, transform: str, run_id: str, principal: str) -> str:
        """Asks the transform to make its output anew; the run's full name. A second time with the same id is no error."""


class Clock(Protocol):
    def now_us(self) -> int:
        """Wall clock."""

    def monotonic_s(self) -> float: ...


# -- what the write half offers the read half -------------------------------------------------------------------------
class TableView(Protocol):
    """An open table as readers see it: published versions only, all of them durable.

    `T$dead_letters` is one of these too: its files are the dead letters, its versions the table's."""

    @property
    def row(self) -> TableRow: ...

    @property
    def files(self) -> TableFiles: ...

    @property
    def event_time_column(self) -> str:
        """ "" when the table has none."""

    @property
    def head(self) -> Version:
        """The newest published version."""

    @property
    def oldest(self) -> Version:
        """The oldest version that can be opened; commits are known for every version above it (and for 0)."""

    @property
    def deleted(self) -> bool: ...

    async def refresh(self) -> None:
        """What was acknowledged anywhere before this call is published afterwards. Raises StoreUnavailable."""

    async def wait_beyond(self, version: Version) -> Version:
        """Returns the head once it is above `version`. Raises TableNotFound when the table is deleted meanwhile."""

    async def snapshot(self, version: Version | None = None) -> Snapshot:
        """The table at a version (None: the head). Raises VersionExpired (metadata oldest_version), VersionInFuture."""

    def commits_in(self, after: Version, through: Version) -> Sequence[Committed]:
        """The commits of (after, through], ascending. Raises VersionExpired (metadata oldest_version), VersionInFuture."""

    def version_at(self, time_us: int) -> Version:
        """The newest version committed at or before a time. Raises VersionExpired when that is before `oldest`."""

    def note_planned(self, version: Version) -> None:
        """A read of `version` was handed out: its file list is kept for 6 h even when the log is cut."""


class OpenTables(Protocol):
    """The tables by name, opened on first use. Opening recovers the log first, so it may take a moment."""

    async def view(self, name: str, *, uid: str = "") -> TableView:
        """`name` may end in `$dead_letters`. Raises TableNotFound, and TableRecreated when `uid` is given and is another's."""

    def opened(self) -> AsyncIterator[TableView]:
        """The tables that are open now (for statistics and probes); never opens one."""


# -- resources and leases ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Packed:
    """A message that storage keeps without reading it (`google.protobuf.Any`)."""

    type_url: str
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """`revision`: of the last change of spec, status or events. `generation`: counts changes of the spec. `etag` follows the spec."""

    name: str
    uid: str
    revision: int
    generation: int
    spec: Packed | None
    status: Packed | None
    created_us: int
    updated_us: int
    owner: str
    last_event: int = 0

    @property
    def collection(self) -> str:
        return self.name.split("/", 3)[2]

    @property
    def namespace(self) -> str:
        return self.name.split("/", 2)[1]

    @property
    def etag(self) -> str:
        return f"{self.uid[:8]}.{self.generation}"


@dataclass(frozen=True, slots=True)
class ResourceEvent:
    """Appended once, never changed. `sequence` counts from 1 in its resource."""

    sequence: int
    time_us: int
    event: Packed


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """`epoch`: of the last acquisition. `renewals`: since then. `holder` "": released. `floor`: highest epoch of any writer bound to it."""

    name: str
    holder: str = ""
    epoch: int = 0
    renewals: int = 0
    ttl_ms: int = 0
    floor: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered with: the fingerprint of the request and the answer, as its rule encoded it."""

    fingerprint: str
    body: bytes


class ControlTransaction(Protocol):
    """The rows of tables, resources, leases and answers inside one transaction. Blocking; used only by the work that got it."""

    def table(self, name: str) -> TableRow | None: ...

    def table_by_uid(self, uid: str) -> TableRow | None: ...

    def tables(self, namespace: str, *, after_name: str, limit: int) -> Sequence[TableRow]:
        """By name, above `after_name`. `namespace` "": all."""

    def put_table(self, row: TableRow) -> None:
        """Replaces the row of that name."""

    def remove_table(self, name: str) -> None: ...

    def revision(self) -> int:
        """The newest revision, 0 in an empty store."""

    def horizon(self) -> int:
        """Deletions at or below this revision are forgotten."""

    def resource(self, name: str) -> Resource | None: ...

    def resources(self, collection: str, namespace: str, *, after_name: str, limit: int) -> Sequence[Resource]:
        """By name, above `after_name`. `namespace` "": all."""

    def changed_after(self, revision: int, limit: int) -> Sequence[tuple[bool, Resource]]:
        """(is there, resource) by rising revision: what there is at its last change, what was deleted at its deletion."""

    def put_resource(self, resource: Resource) -> None:
        """Its `revision` becomes the store's. The caller took `revision() + 1`."""

    def remove_resource(self, last: Resource, *, keep: int) -> None:
        """Deletes it and its events; `last.revision` is the deletion's. The newest `keep` deletions stay known."""

    def append_events(self, uid: str, events: Sequence[ResourceEvent], *, keep: int) -> None:
        """Keeps the newest `keep` of the resource."""

    def events(self, uid: str, *, after: int, limit: int) -> Sequence[ResourceEvent]:
        """Oldest first."""

    def lease(self, name: str) -> LeaseRow | None: ...

    def put_lease(self, lease: LeaseRow) -> None: ...

    def leases(self) -> Sequence[LeaseRow]: ...

    def answer(self, principal: str, request_id: str, *, since_us: int) -> Answer | None:
        """An older one is as good as none."""

    def put_answer(self, principal: str, request_id: str, answer: Answer, *, now_us: int, since_us: int) -> None:
        """Forgets those older than `since_us`, now or a little later."""

    def scan(self, fingerprint: bytes) -> bytes | None:
        """A read request that was too large for its token."""

    def put_scan(self, fingerprint: bytes, scan: bytes, *, now_us: int, since_us: int) -> None:
        """Keeps it; forgets those put before `since_us`."""


@dataclass(frozen=True, slots=True)
class ControlNews:
    """What became durable: `changes` of resources as (is there, resource) up to `revision`, in order. None: not known one by one,
    ask the store (`revision` 0: not even that is known). `leases`: rows that changed."""

    revision: int
    changes: tuple[tuple[bool, Resource], ...] | None = ()
    leases: tuple[LeaseRow, ...] = ()


class ControlStore(Protocol):
    """Runs a piece of work in one serialisable transaction, also among the processes that share the store."""

    async def run(self, work: Callable[[ControlTransaction], T]) -> T:
        """All that `work` wrote is durable when this returns, and none of it when `work` raises. `work` may run on another
        thread, and again after a conflict: no effects outside. Once begun, it is finished even when the caller is
        cancelled. Raises DiskFull, StoreUnavailable (nothing happened), OutcomeUnknown, CommitConflict."""

    def tell(self, listener: Callable[[ControlNews], None]) -> None:
        """`listener` hears of every change, whoever made it, in order, on the event loop, before `run` returns to whoever made it
        here. Changes of other processes: when this one meets them."""

    def watched(self) -> AbstractContextManager[None]:
        """While it is entered, changes of other processes are met within a quarter of a second by themselves."""

    async def close(self) -> None: ...
