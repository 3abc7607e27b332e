"""The tables that are open: by name, opened on first use, each with its view for readers and its committer for writers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import pyarrow as pa

from millrace import errors
from svc_storage.domain.control.leadership import Fleet
from svc_storage.domain.definition import DEAD_LETTERS, TableDefinition
from svc_storage.domain.reading.keys import KeyIndex, KeyIndexes
from svc_storage.domain.reading.plans import Plans
from svc_storage.domain.versions import LogView
from svc_storage.domain.writing import dead_letters
from svc_storage.domain.writing.committer import Committer
from svc_storage.domain.writing.following import Following
from svc_storage.domain.writing.landing import Landing
from svc_storage.ports import (
    MERGED,
    Backend,
    Catalog,
    Clock,
    Commit,
    CommitKind,
    CommitLog,
    Committed,
    DataFile,
    KeyTable,
    KeyTableState,
    LeaseCheck,
    Snapshot,
    TableFiles,
    TableRow,
    TableView,
    Version,
)

_OF_ROWS = (CommitKind.MERGE, CommitKind.RESTORE)
"""Kinds that take rows away, and no dead letters by that."""


class OpenTable:
    """A `TableView`, and what the write half needs beside it. Made by `Tables`, ended by `close`."""

    def __init__(
        self,
        row: TableRow,
        log: CommitLog,
        files: TableFiles,
        view: LogView,
        *,
        leases: LeaseCheck,
        clock: Clock,
        fleet: Fleet,
        shared: bool,
        indexes: KeyIndexes,
        key_table: KeyTable | None = None,
    ) -> None:
        self.row = row
        self.key_table = key_table
        self.key_state: KeyTableState | None = None  # as far as this replica knows
        self._indexes = indexes
        self.shared = shared
        self.leader = fleet.leader
        self.files = files
        self.log = log
        self.versions = view
        self.plans = Plans(files, clock, fleet.replica)
        self.deleted = False
        self._beyond = asyncio.Event()
        self.following = Following(log, view, self._notify, shared=shared)
        self.committer = Committer(
            landing=Landing(
                log=log,
                view=view,
                following=self.following,
                leader=fleet.leader,
                route=fleet.route if shared else None,
                row=lambda: self.row,
                clock=clock,
            ),
            following=self.following,
            files=files,
            view=view,
            definition=TableDefinition.from_json(row.body),
            leases=leases,
            clock=clock,
            index_of=self.index_of,
        )
        self.committer.start()
        self.used_s = time.monotonic()

    @property
    def definition(self) -> TableDefinition:
        return self.committer.definition

    def index_of(self, file: DataFile, keys: pa.Schema) -> KeyIndex:
        """Blocking. Where the keys of one of its files stand."""
        return self._indexes.get(self.row.uid, self.files, file, keys)

    def known_index(self, file: DataFile, keys: pa.Schema) -> KeyIndex | None:
        """The same, when it is in memory."""
        return self._indexes.known(self.row.uid, file, keys)

    def redefine(self, row: TableRow) -> None:
        """A new definition rules the next batch."""
        self.row = row
        self.committer.definition = TableDefinition.from_json(row.body)

    @property
    def event_time_column(self) -> str:
        return self.definition.event_time_column

    @property
    def head(self) -> Version:
        return self.versions.head.version

    @property
    def oldest(self) -> Version:
        return self.versions.oldest

    async def refresh(self) -> None:
        await self.following.refresh()

    async def wait_beyond(self, version: Version) -> Version:
        with self.following.watched():
            while not self.deleted and self.head <= version:
                await self._beyond.wait()
        if self.deleted:
            raise _gone(self.row.name)
        return self.head

    async def snapshot(self, version: Version | None = None) -> Snapshot:
        if version is None:
            return self.versions.head
        if version > self.head:
            await self.refresh()
        try:
            return self.versions.at(version)
        except errors.VersionExpired:
            if version < self.versions.erased_below:
                raise
            if self.plans.under_way(version, version) and (known := self.versions.known(version)):
                return known
            if kept := await self.plans.load(version, self.versions.head):
                return kept
            raise

    def commits_in(self, after: Version, through: Version) -> Sequence[Committed]:
        return self.versions.commits_in(after, through)

    def version_at(self, time_us: int) -> Version:
        return self.versions.version_at(time_us)

    def note_planned(self, version: Version) -> None:
        self.plans.note(version)

    async def close(self, reason: errors.MillraceError, *, commit_rest: bool = True) -> None:
        await self.committer.close(reason, commit_rest=commit_rest)
        await self.following.close()
        await self.log.close()

    async def end_deleted(self) -> None:
        """The catalog has forgotten it: streams and watchers hear so."""
        self.deleted = True
        self._notify()
        await self.close(_gone(self.row.name), commit_rest=False)

    def _notify(self) -> None:
        self._beyond.set()
        self._beyond = asyncio.Event()


class DeadLetterTable:
    """`T$dead_letters`: the dead-letter files of T's versions, seen as a table."""

    def __init__(self, of: OpenTable) -> None:
        self._of = of
        row = of.row
        self.row = TableRow(
            name=row.name + DEAD_LETTERS,
            uid=row.uid,
            etag=row.etag,
            created_us=row.created_us,
            updated_us=row.updated_us,
            owner=row.owner,
            body="",
        )
        self.event_time_column = dead_letters.EVENT_TIME

    @property
    def files(self) -> TableFiles:
        return self._of.files

    @property
    def head(self) -> Version:
        return self._of.head

    @property
    def oldest(self) -> Version:
        return self._of.oldest

    @property
    def deleted(self) -> bool:
        return self._of.deleted

    async def refresh(self) -> None:
        await self._of.refresh()

    async def wait_beyond(self, version: Version) -> Version:
        return await self._of.wait_beyond(version)

    async def snapshot(self, version: Version | None = None) -> Snapshot:
        table = await self._of.snapshot(version)
        files = {
            file.path: _as_data(file.path, file.size_bytes, file.row_count, file.added_in)
            for file in table.dead_letters
        }
        return Snapshot(
            version=table.version,
            time_us=table.time_us,
            schema=dead_letters.SCHEMA,
            files=files,
            event_time_high_us=table.time_us,
        )

    def commits_in(self, after: Version, through: Version) -> Sequence[Committed]:
        return [Committed(found.version, _dead_part(found)) for found in self._of.commits_in(after, through)]

    def version_at(self, time_us: int) -> Version:
        return self._of.version_at(time_us)

    def note_planned(self, version: Version) -> None:
        self._of.note_planned(version)


class Opened:
    """`OpenTables`, and the write half's way to an open table. One opening per table at a time; a failed one is tried anew."""

    def __init__(
        self,
        catalog: Catalog,
        backend: Backend,
        leases: LeaseCheck,
        clock: Clock,
        fleet: Fleet | None = None,
        *,
        key_tables: Callable[[str], KeyTable] | None = None,
    ) -> None:
        self._catalog, self._backend, self._leases, self._clock = catalog, backend, leases, clock
        self._fleet = fleet or Fleet()
        self._indexes = KeyIndexes()
        self.key_tables = key_tables
        self._open: dict[str, OpenTable] = {}  # by uid
        self._opening: dict[str, asyncio.Task[OpenTable]] = {}
        self._closed = False

    async def view(self, name: str, *, uid: str = "") -> TableView:
        table = await self.table(name.removesuffix(DEAD_LETTERS), uid=uid)
        return DeadLetterTable(table) if name.endswith(DEAD_LETTERS) else table

    async def table(self, name: str, *, uid: str = "") -> OpenTable:
        """Raises TableNotFound, TableRecreated; ChecksumMismatch when its log is damaged."""
        row = await self._catalog.get_table(name)
        if row is None:
            raise _gone(name)
        if uid and row.uid != uid:
            raise errors.TableRecreated(
                f"`{name}` is another table now", metadata={"table_uid": row.uid}, hint="read it anew"
            )
        if found := self._open.get(row.uid):
            found.used_s = time.monotonic()
            if found.row.etag != row.etag and self._backend.shared:
                found.redefine(row)  # another replica updated it
            return found
        if self._closed:
            raise errors.StreamDraining("storage is draining", retry_after_ms=0)
        task = self._opening.get(row.uid)
        if task is None:
            task = self._opening[row.uid] = asyncio.create_task(self._recover(row), name=f"open {name}")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    async def fresh(self, name: str) -> OpenTable:
        """With everything that any replica acknowledged before this call."""
        found = await self.table(name)
        await found.refresh()
        return found

    def now_open(self) -> Sequence[OpenTable]:
        return list(self._open.values())

    async def opened(self) -> AsyncIterator[TableView]:
        for table in self.now_open():
            yield table

    def counters(self) -> Mapping[str, float]:
        """For GetStatus."""
        tables = self.now_open()
        return {
            "tables_open": len(tables),
            "append_streams": sum(table.committer.stream_count for table in tables),
            "commits": sum(table.committer.commits for table in tables),
            "rows_committed": sum(table.committer.rows for table in tables),
            "data_files": sum(len(table.versions.head.files) for table in tables),
        }

    def find(self, uid: str) -> OpenTable | None:
        return self._open.get(uid)

    async def check_rows(self) -> None:
        """What other replicas did to the tables that are open here: new definitions rule, deleted ones end.

        Asked together: the catalog looks at its log once for all of them."""
        tables = self.now_open() if self._backend.shared else ()
        rows = await asyncio.gather(*(self._catalog.get_table(table.row.name) for table in tables))
        for table, row in zip(tables, rows, strict=True):
            if row is None or row.uid != table.row.uid:
                await self.forget(table.row.uid)
            elif row.etag != table.row.etag:
                table.redefine(row)

    async def forget(self, uid: str) -> None:
        """The table is deleted."""
        if table := self._open.pop(uid, None):
            await table.end_deleted()

    async def close(self) -> None:
        """Commits what waits everywhere, then ends every stream with StreamDraining."""
        self._closed = True
        reason = errors.StreamDraining("storage is draining", hint="open again at once", retry_after_ms=0)
        await asyncio.gather(*(table.close(reason) for table in self._open.values()))
        self._open.clear()

    async def _recover(self, row: TableRow) -> OpenTable:
        try:
            log, files = self._backend.open(row.uid)
            tail = await log.recover()
            table = OpenTable(
                row,
                log,
                files,
                LogView(tail),
                leases=self._leases,
                clock=self._clock,
                fleet=self._fleet,
                shared=self._backend.shared,
                indexes=self._indexes,
                key_table=self.key_tables(row.uid) if self.key_tables else None,
            )
            await table.plans.start()
            self._open[row.uid] = table
            return table
        finally:
            self._opening.pop(row.uid, None)


def _gone(name: str) -> errors.TableNotFound:
    return errors.TableNotFound(f"`{name}` does not exist", hint="list the tables")


def _as_data(path: str, size_bytes: int, row_count: int, added_in: Version) -> DataFile:
    return DataFile(path, size_bytes, row_count, 0, added_in, 0, f'{{"numRecords":{row_count}}}')


def _dead_part(found: Committed) -> Commit:
    """What a commit did to the letters, whatever it did to the rows: an erasure of letters is no append, a merge of rows is one."""
    commit = found.commit
    gone = commit.dead_letters_removed
    return Commit(
        id=commit.id,
        kind=CommitKind.MERGE if gone else CommitKind.APPEND if commit.kind in _OF_ROWS else commit.kind,
        time_us=commit.time_us,
        adds=tuple(_as_data(file.path, file.size_bytes, file.row_count, found.version) for file in commit.dead_letters),
        removes=tuple(_as_data(file.path, file.size_bytes, file.row_count, file.added_in) for file in gone),
        writers={name: state for name, state in commit.writers.items() if name != MERGED},
        event_time_high_us=commit.time_us,
        trace_context=commit.trace_context,
    )
