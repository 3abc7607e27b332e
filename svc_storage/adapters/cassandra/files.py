"""The files of one table as chunks, and its small records.

A file is noted in `paths`, its chunks are written, its index last: what has no index is not there. Writes and reads keep a bounded number
of bytes under way; a reader asks for the next row group while the current one is unpacked.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar, TypeVarTuple, Unpack

import pyarrow as pa

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.adapters.cassandra import chunks
from svc_storage.adapters.cassandra.chunks import Chunk, Group, Index
from svc_storage.adapters.cassandra.objects import PARTITION_BYTES, PIECE_BYTES, Objects, settle, split
from svc_storage.adapters.cassandra.paths import Listed, Paths
from svc_storage.adapters.cassandra.session import Pending, Session
from svc_storage.adapters.parquet_rows import BATCH_BYTES, MAX_BATCH_ROWS, in_schema
from svc_storage.domain.reading.statistics import StatisticsBuilder
from svc_storage.ports import DataFile, Direct, DirectUrl

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
RECORDS = "_millrace/"
INLINE_BYTES = 512 << 10
"""A record above this is kept as an object."""
REQUEST_BYTES = 4 << 20
"""What one request for chunks answers with at most."""
PARTS_AHEAD = 4
"""Partitions are noted so many at a time, before they are written."""
INDEXES = 256
INDEX_BYTES = PARTITION_BYTES

_CHUNKS = "SELECT grp, col, piece, body FROM chunks WHERE uid = ? AND file = ? AND part = ? AND grp = ? AND col IN ?"
_PUT_RECORD = "INSERT INTO records (uid, name, body, file) VALUES (?, ?, ?, ?)"
_GET_RECORD = "SELECT body, file FROM records WHERE uid = ? AND name = ?"
_DROP_RECORD = "DELETE FROM records WHERE uid = ? AND name = ?"
STATEMENTS = (_CHUNKS, _PUT_RECORD, _GET_RECORD, _DROP_RECORD)


class CassandraFiles:
    """Of the table `uid`. Work runs on `pool`."""

    direct = Direct.NONE
    widens_in_place = True

    def __init__(self, session: Session, uid: str, pool: Executor) -> None:
        self._session, self._uid, self._pool = session, uid, pool
        self._objects, self._paths = Objects(session, uid), Paths(session, uid)
        self._indexes: OrderedDict[str, Index] = OrderedDict()
        self._guard = threading.Lock()  # of the indexes

    async def write(
        self, path: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, level: int = 0
    ) -> DataFile:
        return await self._run(self._write, path, batches, schema, level)

    def batches(
        self, file: DataFile, schema: pa.Schema, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        index = self._index(file.path)
        if index.rows != file.row_count:
            raise errors.ChecksumMismatch(f"the table's file {file.path} has another number of rows than the log says")
        end = file.row_count if last is None else min(last, file.row_count)
        if index.whole:
            yield from _slices(_whole(file.path, index), schema, 0, first, end)
            return
        try:
            yield from self._from_groups(file.path, index, schema, first, end)
        except errors.ChecksumMismatch:
            self._forget([file.path])
            self._index(file.path)  # or was it removed while we read? Then FileMissing
            raise

    async def urls(self, paths: Sequence[str]) -> Sequence[DirectUrl]:
        raise errors.BackendCapability("tables in Cassandra have no files to open", hint="use ReadRows")

    async def put_record(self, name: str, content: bytes) -> None:
        await self._run(self._put_record, name, content)

    async def get_record(self, name: str) -> bytes | None:
        return await self._run(self._get_record, name)

    async def list_paths(self) -> Sequence[tuple[str, int]]:
        return await self._run(self._list)

    async def remove(self, paths: Sequence[str]) -> None:
        if paths:
            await self._run(self._remove, paths)

    async def drop(self) -> None:
        """All of it; the table is gone."""
        await self._run(self._drop)

    # -- writing; on a worker thread from here on
    def _write(self, path: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema, level: int) -> DataFile:
        statistics = StatisticsBuilder(schema)
        writer = _Writer(self._objects, self._paths, path, schema)
        try:
            for rows in chunks.row_groups(batches, schema):
                chunks.note(statistics, rows)
                writer.add(rows)
            failpoint("storage.after_parquet_write")
            size = writer.finish()
        except BaseException:
            writer.abandon()
            raise
        failpoint("storage.after_parquet_fsync")
        return DataFile(path, size, writer.rows, level, 0, time.time_ns() // 1_000_000, statistics.to_json())

    # -- reading
    def _index(self, path: str) -> Index:
        with self._guard:
            if found := self._indexes.get(path):
                self._indexes.move_to_end(path)
                return found
        try:
            index = Index.decode(self._objects.get(path))
        except ValueError as broken:
            raise errors.ChecksumMismatch(f"the index of the table's file {path} cannot be read") from broken
        if not index.whole:
            with self._guard:
                self._indexes[path] = index
                while len(self._indexes) > INDEXES:
                    self._indexes.popitem(last=False)
        return index

    def _forget(self, paths: Iterable[str]) -> None:
        with self._guard:
            for path in paths:
                self._indexes.pop(path, None)

    def _from_groups(
        self, path: str, index: Index, schema: pa.Schema, first: int, end: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        names = index.schema.names
        columns = [number for number, name in enumerate(names) if name in schema.names]
        wanted = list(_groups(index, first, end))
        asked: deque[_Asked] = deque()
        for number, row in wanted[:1]:
            asked.append(_Asked(self._session, self._uid, path, number, row, index.groups[number], columns))
        for at in range(len(wanted)):
            if at + 1 < len(wanted):
                number, row = wanted[at + 1]
                asked.append(_Asked(self._session, self._uid, path, number, row, index.groups[number], columns))
            found = asked.popleft()
            arrays = found.arrays()
            stored = pa.schema([index.schema.field(number) for number in columns])
            if columns:
                batch = pa.RecordBatch.from_arrays(arrays, schema=stored)
            else:  # nothing of it is asked for but how many rows there are
                batch = pa.RecordBatch.from_struct_array(pa.array([{}] * found.group.rows, pa.struct([])))
            yield from _slices(batch, schema, found.row, first, end)

    # -- records, listing, removal
    def _put_record(self, name: str, content: bytes) -> None:
        replaced = self._session.wait(_GET_RECORD, self._uid, name)
        _, noted = self._paths.note(RECORDS + name, 1)
        if len(content) <= INLINE_BYTES:
            self._session.wait(_PUT_RECORD, self._uid, name, content, "")
        else:
            file = f"{RECORDS}{name}@{uuid.uuid4().hex}"
            self._objects.put(file, content)
            self._session.wait(_PUT_RECORD, self._uid, name, b"", file)
        noted.rows()
        self._drop_objects(replaced)

    def _get_record(self, name: str) -> bytes | None:
        rows = self._session.wait(_GET_RECORD, self._uid, name)
        if not rows:
            return None
        body, file = rows[0]
        return self._objects.get(file) if file else body or b""

    def _remove_record(self, name: str) -> None:
        replaced = self._session.wait(_GET_RECORD, self._uid, name)
        self._session.wait(_DROP_RECORD, self._uid, name)
        self._drop_objects(replaced)

    def _drop_objects(self, rows: Sequence[tuple[bytes | None, str | None]]) -> None:
        for _, file in rows:
            if file:
                self._objects.remove(file)

    def _list(self) -> Sequence[tuple[str, int]]:
        found: dict[str, int] = {}
        for row in self._paths.list():
            if row.parts:
                found[row.path] = max(row.modified_us, found.get(row.path, 0))
        return sorted(found.items())

    def _remove(self, paths: Sequence[str]) -> None:
        doomed = frozenset(paths)
        rows = [row for row in self._paths.list() if row.path in doomed and row.parts]
        self._forget(doomed)
        self._remove_rows(rows)
        self._paths.mark_removed(rows)
        self._paths.tidy()

    def _remove_rows(self, rows: Iterable[Listed]) -> None:
        sent: list[Pending] = []
        for row in rows:
            if row.path.startswith(RECORDS) and not row.path.endswith(".parquet"):
                self._remove_record(row.path.removeprefix(RECORDS))
            else:
                sent.extend(self._objects.drop_parts(row.path, range(row.parts)))
        settle(sent)

    def _drop(self) -> None:
        self._remove_rows(row for row in self._paths.list() if row.parts)
        self._paths.drop()

    async def _run(self, work: Callable[[Unpack[Ts]], T], *values: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *values)


class _Writer:
    """One file on its way. The first row group waits: when it stays the only one and is small, the file is kept whole."""

    def __init__(self, objects: Objects, paths: Paths, path: str, schema: pa.Schema) -> None:
        self._objects, self._paths, self._path, self._schema = objects, paths, path, schema
        self.rows = 0
        self._first: pa.Table | None = None
        self._groups: list[Group] = []
        self._sent: deque[Pending] = deque()
        self._bucket = -1
        self._noted = 0
        self._part, self._filled, self._size = 1, 0, 0

    def add(self, rows: pa.Table) -> None:
        self.rows += rows.num_rows
        if self._first is None and not self._groups:
            self._first = rows
            return
        self._add_first()
        self._add_group(rows)

    def finish(self) -> int:
        """Durable when it returns; the file's size in bytes."""
        if self._first is not None and self._first.nbytes < chunks.WHOLE_BYTES:
            index = self._kept_whole(self._first)
        elif self._first is None and not self._groups:
            index = self._kept_whole(self._schema.empty_table())
        else:
            self._add_first()
            settle(self._sent)
            index = Index(self._schema, tuple(self._groups), self.rows)
        content = index.encode()
        if len(content) > INDEX_BYTES - PIECE_BYTES:
            raise errors.RowTooLarge("the file has more columns and row groups than its index can hold")
        self._note(1)
        self._objects.put(self._path, content)
        settle(self._sent)
        return self._size + len(content)

    def abandon(self) -> None:
        """Takes back what was written, as far as the store answers; the rest is found as garbage later."""
        if self._bucket < 0:
            return
        try:
            for one in self._sent:
                one.settle()
            settle(self._objects.drop_parts(self._path, range(self._noted)))
            self._paths.mark_removed([Listed(self._path, 0, self._noted, self._bucket)])
        except errors.MillraceError:
            return

    def _kept_whole(self, rows: pa.Table) -> Index:
        batch = pa.RecordBatch.from_arrays(
            [chunks.column_of(rows, number).column(0) for number in range(rows.num_columns)], schema=self._schema
        )
        packed, raw = chunks.pack(batch)
        return Index(self._schema, (), self.rows, raw, packed)

    def _add_first(self) -> None:
        if self._first is not None:
            rows, self._first = self._first, None
            self._add_group(rows)

    def _add_group(self, rows: pa.Table) -> None:
        number = len(self._groups)
        columns = (chunks.pack(chunks.column_of(rows, column)) for column in range(rows.num_columns))
        stored = tuple(self._send(number, column, packed, raw) for column, (packed, raw) in enumerate(columns))
        self._groups.append(Group(rows.num_rows, stored))
        while self._sent and self._sent[0].answered:
            self._sent.popleft().rows()  # raises as soon as one failed

    def _send(self, group: int, column: int, packed: bytes, raw: int) -> Chunk:
        if self._filled and self._filled + len(packed) > PARTITION_BYTES:
            self._part, self._filled = self._part + 1, 0
        self._note(self._part + 1)
        pieces = split(packed)
        for number, piece in enumerate(pieces):
            self._sent.append(self._objects.send(self._path, self._part, group, column, number, piece))
        self._filled += len(packed)
        self._size += len(packed)
        return Chunk(self._part, raw, len(packed), tuple(map(zlib.crc32, pieces)))

    def _note(self, parts: int) -> None:
        """Before the first byte of a partition is sent, the word that the file has it is."""
        if parts <= self._noted:
            return
        if self._bucket < 0:
            self._noted = parts if parts == 1 else parts + PARTS_AHEAD
            self._bucket, noted = self._paths.note(self._path, self._noted)
        else:
            self._noted = parts + PARTS_AHEAD
            noted = self._paths.note_again(self._path, self._bucket, self._noted)
        self._sent.append(noted)


class _Asked:
    """Chunks of one row group on their way to us. `row`: of its first row in the file."""

    def __init__(
        self, session: Session, uid: str, path: str, number: int, row: int, group: Group, columns: Sequence[int]
    ) -> None:
        self.group, self.row, self._path, self._number, self._columns = group, row, path, number, columns
        self._answers: list[Pending] = []
        for part, some, size in _requests(group, columns):
            session.reads.take(size)
            try:
                answer = session.start(_CHUNKS, uid, path, part, number, some)
            except BaseException:
                session.reads.give(size)
                raise
            answer.when_answered(partial(session.reads.give, size))
            self._answers.append(answer)

    def arrays(self) -> list[pa.Array]:
        """The columns asked for, in their order. Raises ChecksumMismatch naming the chunk, StoreUnavailable."""
        pieces: dict[tuple[int, int], bytes] = {}
        for answer in self._answers:
            pieces.update({(column, piece): body for _, column, piece, body in answer.rows()})
        return [self._array(column, pieces) for column in self._columns]

    def _array(self, column: int, pieces: dict[tuple[int, int], bytes]) -> pa.Array:
        chunk = self.group.chunks[column]
        own = [pieces.get((column, piece)) for piece in range(len(chunk.checks))]
        return chunks.checked(self._path, self._number, column, chunk, own)


def _requests(group: Group, columns: Sequence[int]) -> Iterator[tuple[int, list[int], int]]:
    """(partition, columns, bytes): what can be asked for at once."""
    some: list[int] = []
    size = 0
    for column in columns:
        chunk = group.chunks[column]
        if some and (group.chunks[some[0]].part != chunk.part or size + chunk.size > REQUEST_BYTES):
            yield group.chunks[some[0]].part, some, size
            some, size = [], 0
        some.append(column)
        size += chunk.size
    if some:
        yield group.chunks[some[0]].part, some, size


def _groups(index: Index, first: int, end: int) -> Iterator[tuple[int, int]]:
    """(number, first row) of the groups that hold rows of [first, end)."""
    row = 0
    for number, group in enumerate(index.groups):
        if row < end and row + group.rows > first:
            yield number, row
        row += group.rows


def _whole(path: str, index: Index) -> pa.RecordBatch:
    try:
        return chunks.unpack(index.whole, index.whole_raw)
    except (ValueError, pa.ArrowException) as broken:
        raise errors.ChecksumMismatch(f"the table's file {path} cannot be read") from broken


def _slices(
    batch: pa.RecordBatch, schema: pa.Schema, row: int, first: int, end: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Rows [first, end) of the file, of those in `batch`, which begins at `row`; about a mebibyte at a time."""
    start, stop = max(0, first - row), min(batch.num_rows, end - row)
    if start >= stop:
        return
    found = in_schema(batch, schema)
    per_row = max(1.0, found.nbytes / found.num_rows)
    step = max(1, min(MAX_BATCH_ROWS, int(BATCH_BYTES / per_row)))
    for at in range(start, stop, step):
        yield row + at, found.slice(at, min(step, stop - at))
