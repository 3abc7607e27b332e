"""LookupRows: rows by primary key, at a version. Statistics say which files may hold a key, a file's key index says which rows do, and
only the ranges around those are read.

Where a table has several rows of one key (it was appended to), the row with the highest `sequence_column` is the answer; without such a
column, or between equal ones, the row that was committed last (`_ingested_at`), and of one commit the one that stands last.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millrace.errors import FieldInvalid, NoPrimaryKey, ResultTooLarge, VersionExpired
from svc_storage.domain.definition import DEAD_LETTERS, INGESTED_AT, TableDefinition
from svc_storage.domain.opened import Opened, OpenTable
from svc_storage.domain.reading.bounds import bounds_of
from svc_storage.domain.reading.keys import Keys, Mask, Rows, equal, key_schema, read_rows
from svc_storage.domain.reading.pinned import chosen_columns
from svc_storage.ports import SAME_ROWS, CommitKind, DataFile, KeyTableState, Snapshot, Version

MAX_KEYS = 1_000
AHEAD_TRIES = 3
FRESH_FILES = 64
"""Files that may have come since a derived table was whole; with more, the table's files are as quick."""
MAX_ANSWER_BYTES = 16 << 20
"""Of the found rows in memory; what does not fit a message is refused when it is encoded."""
PART_ROWS = 262_144
"""Rows of one file that are compared at a time where a key has several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupWish:
    """`version` and `as_of_us` None: the newest. `columns` empty: all but storage's own."""

    table: str
    table_uid: str = ""
    version: Version | None = None
    as_of_us: int | None = None
    columns: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A table pinned to a version, to look keys up in. `keys`: the columns that a key has, in order. `newest`: any newer one is as good."""

    newest: bool = False
    table: OpenTable
    snapshot: Snapshot
    definition: TableDefinition
    keys: pa.Schema
    schema: pa.Schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`rows`: of the keys that were found, in the order of the keys. `found`: for each key."""

    target: Target
    rows: pa.RecordBatch
    found: Sequence[bool]


class Lookups:
    """`pool`: bounded threads for reading files."""

    def __init__(self, opened: Opened, pool: Executor) -> None:
        self._opened, self._pool = opened, pool

    async def pin(self, wish: LookupWish) -> Target:
        """Raises NoPrimaryKey, TableNotFound, TableRecreated, FieldInvalid (columns), VersionExpired, VersionInFuture."""
        table = await self._opened.table(wish.table.removesuffix(DEAD_LETTERS), uid=wish.table_uid)
        definition = table.definition
        if wish.table.endswith(DEAD_LETTERS) or not definition.primary_key:
            raise NoPrimaryKey("the table has no primary key", field="table", hint="read it with a predicate")
        version = wish.version
        if version is None:
            await table.refresh()
        if version is None and wish.as_of_us is not None:
            version = table.version_at(wish.as_of_us)
        snapshot = await table.snapshot(version)
        if any(name not in snapshot.schema.names for name in definition.primary_key):
            raise VersionExpired(
                "the version is older than the key's columns", metadata={"oldest_version": str(table.oldest)}
            )
        columns = chosen_columns(wish.columns, snapshot.schema)
        return Target(
            newest=version is None,
            table=table,
            snapshot=snapshot,
            definition=definition,
            keys=key_schema(snapshot.schema, definition.primary_key),
            schema=pa.schema([snapshot.schema.field(name) for name in columns]),
        )

    async def find(self, target: Target, keys: pa.RecordBatch) -> Found:
        """`keys` of `target.keys`, 1 to 1,000. Raises FieldInvalid, ResultTooLarge, FileMissing, ChecksumMismatch."""
        if not 0 < keys.num_rows <= MAX_KEYS:
            raise FieldInvalid(f"1 to {MAX_KEYS:,} keys", field="keys")
        stop = threading.Event()
        run = asyncio.get_running_loop().run_in_executor
        try:
            for _ in range(AHEAD_TRIES):
                try:
                    return await run(self._pool, _answer, target, keys, _fresh(target), stop)
                except _Ahead as ahead:  # the derived table has rows of a version that came after this one was pinned
                    await target.table.wait_beyond(ahead.version - 1)
                    head = target.table.versions.head
                    if head.schema_id != target.snapshot.schema_id:
                        break
                    target = replace(target, snapshot=head)
            return await run(self._pool, _answer, replace(target, newest=False), keys, None, stop)
        finally:
            stop.set()  # the caller's time is up: nothing more is read


class _Ahead(Exception):
    """Rows of this version are there, and any version will do."""

    def __init__(self, version: Version) -> None:
        self.version = version


@dataclass(frozen=True, slots=True)
class _Fresh:
    """A derived table, and the files of rows that were appended since it was whole."""

    state: KeyTableState
    files: Sequence[DataFile]


def _fresh(target: Target) -> _Fresh | None:
    """None when the derived table cannot help, or is too far behind."""
    state, version = target.table.key_state, target.snapshot.version
    if state is None or target.table.key_table is None or not target.definition.native_lookup:
        return None
    if state.through >= version:
        return _Fresh(state, ())
    files: list[DataFile] = []
    try:
        for committed in target.table.commits_in(state.through, version):
            commit = committed.commit
            if commit.kind in SAME_ROWS:
                continue
            if commit.removes or commit.kind in (CommitKind.MERGE, CommitKind.RESTORE):
                return None
            files.extend(commit.adds)
    except VersionExpired:
        return None
    return _Fresh(state, files) if len(files) <= FRESH_FILES else None


def _answer(target: Target, batch: pa.RecordBatch, fresh: _Fresh | None, stop: threading.Event) -> Found:
    """Blocking."""
    keys = Keys.of(batch)
    parts: list[_Hits] = []
    open_keys = np.arange(batch.num_rows)
    if fresh is not None:
        parts = list(_natively(target, keys, fresh, stop))
        known = np.concatenate([part.keys for part in parts]) if parts else np.zeros(0, np.int64)
        open_keys = np.setdiff1d(open_keys, known)
    if len(open_keys):
        rest = _Lookup(target, list(target.snapshot.files.values()), keys.take(open_keys), stop).run()
        parts.append(_Hits(open_keys[rest.keys], rest.rows))
    return _found(target, batch.num_rows, parts)


@dataclass(frozen=True, slots=True)
class _Hits:
    """`keys`: indices of keys whose answer is known, those with a row first, in the order of `rows`; the others are not there."""

    keys: Rows
    rows: pa.RecordBatch


def _natively(target: Target, keys: Keys, fresh: _Fresh, stop: threading.Event) -> Iterator[_Hits]:
    """What the derived table surely knows, and what came after it."""
    assert target.table.key_table is not None
    told = target.table.key_table.find(fresh.state, keys.batch, target.schema)
    if told is None:
        return
    newer = np.zeros(0, np.int64)
    if fresh.files:
        hits = _Lookup(target, fresh.files, keys, stop).run()
        newer = hits.keys
        yield hits
    found, since = np.asarray(told.found, np.bool_), np.asarray(told.since, np.int64)
    place = np.cumsum(found) - 1
    version = target.snapshot.version
    ahead = np.setdiff1d(np.flatnonzero(found & (since > version)), newer)
    if target.newest and len(ahead) and target.snapshot.schema_id == target.table.versions.head.schema_id:
        raise _Ahead(int(since[ahead].max()))
    usable = np.setdiff1d(np.flatnonzero(found & (since <= version)), newer)
    absent = np.setdiff1d(np.flatnonzero(~found), newer) if fresh.state.through <= version else np.zeros(0, np.int64)
    yield _Hits(np.concatenate([usable, absent]), told.rows.take(pa.array(place[usable])))


def _found(target: Target, count: int, parts: Sequence[_Hits]) -> Found:
    owners = np.concatenate([part.keys[: part.rows.num_rows] for part in parts])
    found = np.zeros(count, np.bool_)
    found[owners] = True
    rows = pa.concat_batches([part.rows for part in parts]).take(pa.array(np.argsort(owners)))
    return Found(
        target=target, rows=pa.RecordBatch.from_arrays(rows.columns, schema=target.schema), found=found.tolist()
    )


class _Lookup:
    """Keys in some files, on a worker thread."""

    def __init__(self, target: Target, files: Sequence[DataFile], keys: Keys, stop: threading.Event) -> None:
        self._target, self._files, self._keys, self._stop = target, files, keys, stop
        sequence = target.definition.sequence_column
        stored = target.snapshot.schema
        self._order = [name for name in (sequence, INGESTED_AT) if name and name in stored.names]

    def run(self) -> _Hits:
        where, several = self._candidates()
        if several.any():
            self._settle(where, several)
        return self._read(where)

    def _candidates(self) -> tuple[Rows, Mask]:
        """For each key a (file, row) or (-1, 0), and which keys have more than one."""
        where = np.full((self._keys.batch.num_rows, 2), -1, np.int64)
        several = np.zeros(len(where), np.bool_)
        for number in range(len(self._files)):
            which, rows = self._matches(number)
            several[which[where[which, 0] >= 0]] = True
            repeated = which[1:][which[1:] == which[:-1]]
            several[repeated] = True
            where[which, 0], where[which, 1] = number, rows
        return where, several

    def _matches(self, number: int, among: Mask | None = None) -> tuple[Rows, Rows]:
        """(key, row) of the possible matches in one file, by key."""
        file, table = self._files[number], self._target.table
        index = table.known_index(file, self._target.keys)
        wanted = np.flatnonzero(self._keys.valid) if index is not None else self._keys.within(file)
        if among is not None:
            wanted = wanted[among[wanted]]
        if not len(wanted):
            return wanted, wanted
        self._check()
        if index is None:
            index = table.index_of(file, self._target.keys)
        which, rows = index.find(self._keys.hashes[wanted])
        return wanted[which], rows

    def _settle(self, where: Rows, several: Mask) -> None:
        """The newest row of each key that has several. Files with the newest rows first; a key is done when no file can hold a newer."""
        where[several] = (-1, 0)
        best: dict[int, tuple[object, ...]] = {}
        by = self._order[0] if self._order else ""
        ranked = sorted(
            ((self._high(file, by), number) for number, file in enumerate(self._files)), key=_rank, reverse=True
        )
        for high, number in ranked:
            open_keys = several.copy()
            for key, known in best.items():
                open_keys[key] = high is None or not known[0][0] or not known[0][1] > high  # type: ignore[index]
            which, rows = self._matches(number, open_keys)
            for start in range(0, len(which), PART_ROWS):
                part = slice(start, start + PART_ROWS)
                for key, row, rank in self._ranks(number, which[part], rows[part]):
                    if key not in best or rank > best[key]:
                        best[key] = rank
                        where[key] = (number, row)

    def _ranks(self, number: int, which: Rows, rows: Rows) -> Iterator[tuple[int, int, tuple[object, ...]]]:
        """(key, row, what orders it): of each key the newest of those that are matches indeed."""
        key_names = self._target.keys.names
        names = [*key_names, *(name for name in self._order if name not in key_names)]
        stored = self._target.snapshot.schema
        batch, at = self._rows_at(number, rows, pa.schema([stored.field(name) for name in names]))
        true = self._equal(batch, at, which)
        which, rows, batch = which[true], rows[true], batch.take(pa.array(at[true]))
        columns = {
            "key": pa.array(which),
            **{f"by {name}": batch.column(name) for name in self._order},
            "row": pa.array(rows),
        }
        table = pa.table(columns)
        order = pc.sort_indices(table, sort_keys=[(name, "ascending", "at_start") for name in columns])
        sorted_keys = which[order.to_numpy()]
        newest = (
            order.to_numpy()[np.flatnonzero(np.append(sorted_keys[1:] != sorted_keys[:-1], True))] if len(which) else []
        )
        for line in table.take(pa.array(newest, pa.int64())).to_pylist():
            rank = tuple((line[f"by {name}"] is not None, line[f"by {name}"]) for name in self._order)
            yield line["key"], line["row"], (*rank, number, line["row"])

    def _equal(self, batch: pa.RecordBatch, at: Rows, which: Rows) -> Mask:
        """Whether row `at` of `batch` has the key `which`, one by one."""
        mine = [batch.column(name).take(pa.array(at)) for name in self._target.keys.names]
        return equal(mine, self._keys.batch.take(pa.array(which)).columns)

    def _high(self, file: DataFile, column: str) -> object:
        """The highest value that the column can have in a file; None: unknown."""
        known = (
            bounds_of(file, self._target.snapshot.schema, frozenset((column,))).columns.get(column) if column else None
        )
        return known.high if known else None

    def _read(self, where: Rows) -> _Hits:
        """The rows, checked to be the keys' indeed."""
        schema = self._target.schema
        stored = self._target.snapshot.schema
        names = list(dict.fromkeys((*schema.names, *self._target.keys.names)))
        wide = pa.schema([stored.field(name) for name in names])
        parts: list[pa.RecordBatch] = []
        owners: list[Rows] = []
        size = 0
        for number in np.unique(where[:, 0][where[:, 0] >= 0]).tolist():
            own = np.flatnonzero(where[:, 0] == number)
            batch, at = self._rows_at(number, where[own, 1], wide)
            true = self._equal(batch, at, own)
            batch = batch.take(pa.array(at[true])).select(schema.names)
            size += batch.nbytes
            if size > MAX_ANSWER_BYTES:
                raise too_large()
            parts.append(batch)
            owners.append(own[true])
        if not parts:
            return _Hits(np.zeros(0, np.int64), pa.RecordBatch.from_pylist([], schema=schema))
        rows = pa.concat_batches(parts)
        return _Hits(np.concatenate(owners), pa.RecordBatch.from_arrays(rows.columns, schema=schema))

    def _rows_at(self, number: int, rows: Rows, schema: pa.Schema) -> tuple[pa.RecordBatch, Rows]:
        return read_rows(self._target.table.files, self._files[number], rows, schema, check=self._check)

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Stopped


class _Stopped(Exception):
    """Nobody waits for the answer any more."""


def _rank(file: tuple[object, int]) -> tuple[object, ...]:
    """Unknown bounds are looked into first."""
    high, number = file
    return (True, number) if high is None else (False, high, number)


def too_large() -> ResultTooLarge:
    return ResultTooLarge("the rows do not fit one answer", field="keys", hint="ask for fewer keys or columns")
