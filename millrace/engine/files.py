"""Pinned tables from storage: its own files where they may be opened, else the rows, streamed into a local file.

Storage judges each `pin` with the caller's rights (PlanRead); what a version consists of never changes, so only that is remembered.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from millrace.client.channel import CRUD_DEADLINE_S, Connection, call
from millrace.client.read import plan, read_split
from millrace.client.resume import Resumed
from millrace.engine.names import DEAD_LETTERS, TableRef
from millrace.engine.pinned import PinnedTable
from millrace.errors import FieldInvalid
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.wire.clock import micros_of
from millrace.wire.schema import schema_from_proto

STORAGE_COLUMNS = ("_ingested_at",)
"""What `T$all` has beyond `T`."""
_REMEMBERED = 512
_Key = tuple[str, int, int | None, bool]


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
    files: tuple[str, ...]
    row_count: int
    size_bytes: int


class StorageFiles:
    """`data_root`: storage's data folder when it is on this machine, else None. `spool`: a folder of this process's own."""

    def __init__(
        self, connection: Connection, *, data_root: Path | None, spool: Path, spool_limit_bytes: int = 8 << 30
    ) -> None:
        self._plain, self._data_root = connection, data_root
        self._spool = Spool(spool, spool_limit_bytes)
        self._listed: OrderedDict[_Key, _Listed] = OrderedDict()
        self._listing: dict[_Key, asyncio.Lock] = {}

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
        key = (planned.table_uid + name, planned.version, after_version, storage_columns)
        schema = schema_from_proto(planned.schema)
        listed = await self._once(key, lambda: self._list(connection, key, name, planned, schema))
        return PinnedTable(
            name=name,
            uid=planned.table_uid,
            version=planned.version,
            schema=schema,
            files=listed.files,
            after_version=after_version,
            row_count=listed.row_count,
            size_bytes=listed.size_bytes,
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

    async def _once(self, key: _Key, make: Callable[[], Awaitable[_Listed]]) -> _Listed:
        """One listing per version, however many ask at once; again when a spooled file is gone."""
        lock = self._listing.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                found = self._listed.get(key)
                if found is None or not self._spool.holds(found.files):
                    found = self._listed[key] = await make()
                self._listed.move_to_end(key)
                while len(self._listed) > _REMEMBERED:
                    self._listed.popitem(last=False)
                return found
        finally:
            if not lock.locked():
                self._listing.pop(key, None)

    async def _list(
        self,
        connection: Connection,
        key: _Key,
        name: str,
        planned: storage_pb2.PlanReadResponse,
        schema: pa.Schema,
    ) -> _Listed:
        splits = list(planned.splits)
        rows = planned.estimated_rows
        if not splits:
            return _Listed((), 0, 0)
        if self._data_root is not None and all(storage_pb2.ACCESS_MODE_DIRECT in split.access for split in splits):
            root = self._data_root.resolve()
            found = [await _direct(connection, name, split.split_token, root) for split in splits]
            if (direct := _joined(found)) is not None:
                return _Listed(direct, rows, planned.estimated_bytes)
        path = await self._spool.fill(key, lambda: _batches(connection, name, splits, schema), schema)
        return _Listed((str(path),), rows, path.stat().st_size)


def _joined(parts: list[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    files: list[str] = []
    for part in parts:
        if part is None:
            return None
        files.extend(part)
    return tuple(files)


async def _direct(connection: Connection, name: str, token: bytes, root: Path) -> tuple[str, ...] | None:
    """The split's files below `root`; None when one lies elsewhere or rows would still have to be filtered: then stream."""
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    request = storage_pb2.ListSplitFilesRequest(split_token=token)
    found: list[str] = []
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
            path = inside(message.url, root)
            usable = usable and path is not None and not message.HasField("residual")
            found.append(path or "")
    return tuple(found) if usable else None


def inside(url: str, root: Path) -> str | None:
    """The file a `file://` url means, links resolved, when it lies below `root` (resolved); else None."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        return None
    path = Path(unquote(parts.path)).resolve()
    return str(path) if path.is_relative_to(root) and path.is_file() else None


async def _batches(connection: Connection, name: str, splits: list[storage_pb2.Split], schema: pa.Schema) -> Any:
    for split in splits:
        rows = read_split(connection, split.split_token, schema, table=name)
        async with aclosing(rows):
            async for batch in rows:
                yield batch


class Spool:
    """Local Parquet files of versions that could not be opened in place. The least recently used go when there is too much."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes
        self._sizes: OrderedDict[Path, int] = OrderedDict()

    def holds(self, files: tuple[str, ...]) -> bool:
        """False when one of the files was ours and is gone."""
        for name in files:
            path = Path(name)
            if path.parent != self._folder:
                continue
            if path not in self._sizes:
                return False
            self._sizes.move_to_end(path)
        return True

    async def fill(self, key: _Key, batches: Callable[[], Any], schema: pa.Schema) -> Path:
        """Writes the rows of `batches`; the file appears whole or not at all."""
        path = self._folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.parquet"
        partial = path.with_suffix(".partial")
        writer = await asyncio.to_thread(pq.ParquetWriter, partial, schema, compression="lz4")
        try:
            async for batch in batches():
                await asyncio.to_thread(writer.write_batch, batch)
        except BaseException:
            writer.close()
            partial.unlink(missing_ok=True)
            raise
        await asyncio.to_thread(writer.close)
        os.replace(partial, path)
        self._sizes[path] = path.stat().st_size
        self._shrink(keep=path)
        return path

    def _shrink(self, keep: Path) -> None:
        while sum(self._sizes.values()) > self._limit and len(self._sizes) > 1:
            path, _ = self._sizes.popitem(last=False)
            if path == keep:
                self._sizes[path] = path.stat().st_size
                continue
            path.unlink(missing_ok=True)
