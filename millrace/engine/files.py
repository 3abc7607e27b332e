"""Pinned tables from storage: its own files where they may be opened or fetched, else the rows, streamed into local files.

Storage judges each `pin` with the caller's rights (PlanRead); what a version consists of never changes, so only that is remembered.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from millrace.client.channel import CRUD_DEADLINE_S, Connection, call
from millrace.client.read import plan, read_split
from millrace.client.resume import Resumed
from millrace.engine.fetch import Fetcher, Remote
from millrace.engine.names import DEAD_LETTERS, TableRef
from millrace.engine.pinned import PinnedTable
from millrace.engine.shelf import Shelf
from millrace.engine.spool import Plan, Spool, Spooled
from millrace.engine.turns import Turns
from millrace.errors import FieldInvalid
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.wire.clock import micros_of
from millrace.wire.schema import schema_from_proto

STORAGE_COLUMNS = ("_ingested_at",)
"""What `T$all` has beyond `T`."""
_REMEMBERED = 128
_LARGE_BYTES = 32 << 20
"""What is larger is streamed in parallel."""
_MOST_SPLITS = 16


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table as it is now. `event_time_high_us`: microseconds since 1970; None when it has no event time or no rows."""

    name: str
    uid: str
    version: int
    schema: pa.Schema
    event_time_column: str = ""
    event_time_high_us: int | None = None
    commit_time_us: int | None = None


class Files(Protocol):
    """Where pinned tables come from. Calls carry the rights of whoever is asking."""

    async def describe(self, name: str) -> TableInfo:
        """Raises TableNotFound, NotAllowed."""

    async def pin(
        self,
        name: str,
        *,
        version: int | None = None,
        uid: str = "",
        after_version: int | None = None,
        storage_columns: bool = False,
    ) -> PinnedTable:
        """The rows at `version` (None: the newest), or those added in (after_version, version].

        Raises TableNotFound, VersionExpired, VersionInFuture, TableRecreated, ChangesNotAppendOnly, NotAllowed."""


async def pin_all(
    files: Files, refs: Iterable[TableRef], namespace: str, versions: Mapping[str, int]
) -> dict[TableRef, PinnedTable]:
    """Every table of a parsed text, each table at one version: `versions` (by full name), else the newest.

    `T` and `T$all` of one text show the same version. Raises FieldInvalid for a version of a table that the text does not name."""
    names = {ref: ref.full_name(namespace) for ref in sorted(refs)}
    if unknown := sorted(set(versions) - set(names.values())):
        raise FieldInvalid(f"the question does not read `{unknown[0]}`", field="versions")

    async def one(name: str) -> dict[TableRef, PinnedTable]:
        mine = [ref for ref, full in names.items() if full == name]
        found: dict[TableRef, PinnedTable] = {}
        version, uid = versions.get(name), ""
        for ref in mine:
            found[ref] = await files.pin(name, version=version, uid=uid, storage_columns=ref.with_storage_columns)
            version, uid = found[ref].version, found[ref].uid
        return found

    pinned = await asyncio.gather(*(one(name) for name in dict.fromkeys(names.values())))
    return {ref: table for part in pinned for ref, table in part.items()}


@dataclass(frozen=True, slots=True)
class _Listed:
    """Where a version's rows are: `remote` files to fetch, or `local` ones; neither: the rows have to be streamed."""

    local: tuple[str, ...] | None = None
    remote: tuple[Remote, ...] | None = None


_Key = tuple[str, str, int, int | None]


class StorageFiles:
    """Files are opened in place where they are on this disk, fetched where storage signs URLs for them, else their rows are streamed."""

    def __init__(
        self,
        connection: Connection,
        *,
        data_root: Path | None,
        spool: Path,
        spool_limit_bytes: int = 8 << 30,
        endpoints: Collection[str] = (),
    ) -> None:
        """`data_root`: storage's data folder when it is on this machine, else None. `spool`: an empty folder of this process's own, for
        files that are not. `endpoints`: the object store, as `http(s)://host[:port]`; nothing is fetched from anywhere else."""
        self._plain, self._data_root = connection, data_root
        self._shelf = Shelf(spool, spool_limit_bytes)
        self._spool = Spool(self._shelf)
        self._fetcher = Fetcher(self._shelf, endpoints)
        self._listed: OrderedDict[_Key, _Listed] = OrderedDict()
        self._turns: Turns[_Key] = Turns()

    def counters(self) -> dict[str, int]:
        """What was brought here: for GetStatus and tests."""
        return {
            "files_fetched": self._fetcher.fetched,
            "bytes_fetched": self._fetcher.fetched_bytes,
            "rows_streamed": self._spool.streamed_rows,
            "full_reads": self._spool.full_reads,
            "local_bytes": self._shelf.size_bytes,
        }

    async def close(self) -> None:
        """Ends work in the background; fetches under way end with their callers."""
        await self._spool.close()
        self._fetcher.close()

    async def describe(self, name: str) -> TableInfo:
        stub = storage_pb2_grpc.StorageServiceStub(self._plain.channel)
        request = storage_pb2.GetTableRequest(name=name)
        answer = await call(
            self._plain,
            stub.GetTable,
            request,
            resource=name,
            deadline_s=CRUD_DEADLINE_S,
            answer=storage_pb2.GetTableResponse,
        )
        table = answer.table
        return TableInfo(
            name=table.name,
            uid=table.uid,
            version=table.version,
            schema=schema_from_proto(table.schema),
            event_time_column=table.event_time_column,
            event_time_high_us=micros_of(table.event_time_high, "event_time_high")
            if table.HasField("event_time_high")
            else None,
            commit_time_us=micros_of(table.commit_time, "commit_time") if table.HasField("commit_time") else None,
        )

    async def pin(
        self,
        name: str,
        *,
        version: int | None = None,
        uid: str = "",
        after_version: int | None = None,
        storage_columns: bool = False,
    ) -> PinnedTable:
        request = storage_pb2.PlanReadRequest(table=name, table_uid=uid, after_version=after_version, max_splits=1)
        if version is not None:
            request.version = version
        connection = self._connection()
        planned = await plan(connection, request)
        if storage_columns and not name.endswith(DEAD_LETTERS):
            request.version, request.table_uid = planned.version, planned.table_uid
            request.columns[:] = [*(field.name for field in planned.schema.fields), *STORAGE_COLUMNS]
            planned = await plan(connection, request)
        table = _Table(connection, name, planned.table_uid, schema_from_proto(planned.schema), planned.estimated_bytes)
        found = await self._bring(table, planned, after_version)
        return PinnedTable(
            name=name,
            uid=planned.table_uid,
            version=planned.version,
            schema=table.schema,
            files=found.files,
            after_version=after_version,
            row_count=found.rows,
            size_bytes=found.size_bytes,
            hold=found.hold,
        )

    def _connection(self) -> Connection:
        """With the data folder's id, read anew each time: a store that was made again has another."""
        if self._data_root is None:
            return self._plain
        try:
            store_id = (self._data_root / "store-id").read_text().strip()
        except OSError:
            return self._plain
        return replace(self._plain, store_id=store_id)

    async def _bring(self, table: _Table, planned: storage_pb2.PlanReadResponse, after: int | None) -> Spooled:
        """The version's files on this machine."""
        rows, size = planned.estimated_rows, planned.estimated_bytes
        if not planned.splits:
            return Spooled((), 0, 0)
        listed = await self._list(table, planned, after)
        if listed.local is not None:
            return Spooled(listed.local, rows, size)
        if listed.remote is not None:
            paths, hold = await self._fetcher.fetch(table.uid, listed.remote, lambda: table.remote(planned.splits))
            return Spooled(paths, rows, size, hold)
        if after is None:
            return await self._spool.version(table, planned.version, table.schema)
        return await self._spool.added(table, after, planned.version, table.schema)

    async def _list(self, table: _Table, planned: storage_pb2.PlanReadResponse, after: int | None) -> _Listed:
        """One listing per version, however many ask at once."""
        if not all(storage_pb2.ACCESS_MODE_DIRECT in split.access for split in planned.splits):
            return _Listed()
        key = (table.name, table.uid, planned.version, after)
        async with self._turns.of(key):
            found = self._listed.get(key)
            if found is None:
                found = self._listed[key] = self._usable(await table.list(planned.splits))
            self._listed.move_to_end(key)
            while len(self._listed) > _REMEMBERED:
                self._listed.popitem(last=False)
            return found

    def _usable(self, files: tuple[Remote, ...] | None) -> _Listed:
        if files is None:
            return _Listed()
        if all(self._fetcher.accepts(file.url) for file in files):
            return _Listed(remote=files)
        root = None if self._data_root is None else self._data_root.resolve()
        paths = [root and inside(file.url, root) for file in files]
        return _Listed(local=tuple(path for path in paths if path)) if all(paths) else _Listed()


@dataclass(frozen=True, slots=True)
class _Table:
    """One table as whoever asks for it sees it: the spool's Source. `schema`: of the columns asked for."""

    connection: Connection
    name: str
    uid: str
    schema: pa.Schema
    estimated_bytes: int

    @property
    def key(self) -> str:
        return f"{self.name}@{self.uid} {'+'.join(n for n in self.schema.names if n in STORAGE_COLUMNS)}".rstrip()

    async def plan(self, version: int, *, after: int | None, parallel: int) -> Plan:
        request = storage_pb2.PlanReadRequest(
            table=self.name, table_uid=self.uid, version=version, after_version=after, columns=self.schema.names
        )
        if parallel > 1 and after is None and self.estimated_bytes > _LARGE_BYTES:
            request.preferred_min_splits, request.max_splits = parallel, _MOST_SPLITS
        else:
            request.max_splits = 1
        planned = await plan(self.connection, request)
        return Plan([split.split_token for split in planned.splits], planned.estimated_rows)

    def rows(self, split: bytes) -> AsyncIterator[pa.RecordBatch]:
        return read_split(self.connection, split, self.schema, table=self.name)

    async def list(self, splits: Iterable[storage_pb2.Split]) -> tuple[Remote, ...] | None:
        """The splits' files; None when there are rows in them that do not belong to the answer."""
        found = [await _listed(self.connection, self.name, split.split_token) for split in splits]
        whole = [files for files in found if files is not None]
        return tuple(file for files in whole for file in files) if len(whole) == len(found) else None

    async def remote(self, splits: Iterable[storage_pb2.Split]) -> tuple[Remote, ...]:
        """The same list once more, with fresh URLs."""
        return await self.list(splits) or ()


async def _listed(connection: Connection, name: str, token: bytes) -> list[Remote] | None:
    """The split's files; None when rows would still have to be filtered."""
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    request = storage_pb2.ListSplitFilesRequest(split_token=token)
    found: list[Remote] = []
    usable = True

    def listing() -> object:
        found.clear()  # a broken listing starts from its beginning
        return stub.ListSplitFiles(request, metadata=connection.metadata(name))

    messages: Resumed[storage_pb2.ListSplitFilesResponse] = Resumed(listing)
    async with messages:
        async for message in messages:
            if message.HasField("end"):
                usable = usable and message.end.file_count == len(found)
                messages.finish()
                continue
            usable = usable and not message.HasField("residual")
            found.append(Remote(message.file_id, message.url, message.size_bytes))
    return found if usable else None


def inside(url: str, root: Path) -> str | None:
    """The file a `file://` url means, links resolved, when it lies below `root` (resolved); else None."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        return None
    path = Path(unquote(parts.path)).resolve()
    return str(path) if path.is_relative_to(root) and path.is_file() else None
