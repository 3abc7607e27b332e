"""A table as programs use it: read, append, watch; and the tables of a namespace."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

import pyarrow as pa

from millrace import errors
from millrace.arrow.conform import conform
from millrace.arrow.names import parse_type
from millrace.client.append import Appender, AppendOptions, Opened, Totals
from millrace.client.channel import Connection, call
from millrace.client.evolve import without_nothing
from millrace.client.lookup import Found, KeyColumns, Keys, key_columns, lookup
from millrace.client.maintenance import TableMaintenance
from millrace.client.read import TableRead
from millrace.client.resources import new_request_id
from millrace.client.rows import Result, Rows, batches_of, raw_batches_of
from millrace.client.watch import watch_table
from millrace.client.where import Where, predicate
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.types.v1 import types_pb2
from millrace.wire.schema import schema_from_proto, schema_to_proto

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

Columns: TypeAlias = "pa.Schema | Mapping[str, str]"
"""An Arrow schema, or column name -> type name ("int64", "timestamp[UTC]", "string?")."""

_DEFAULT_READ_PARALLEL = 2


def schema_of(columns: Columns) -> pa.Schema:
    """Raises FieldInvalid for a type name that is none."""
    if isinstance(columns, pa.Schema):
        return columns
    return pa.schema([pa.field(name, *parse_type(kind)) for name, kind in columns.items()])


@dataclass(frozen=True, slots=True)
class Version:
    """Versions [first, number] of a table landed. `kind`: APPEND, MERGE, COMPACT, RESTORE, SCHEMA or FENCE."""

    number: int
    first: int
    kind: str
    rows_added: int
    rows_removed: int
    commit_time: dt.datetime


class Read:
    """A read that begins when its rows are asked for; each asking reads anew."""

    def __init__(self, connection: Connection, request: storage_pb2.PlanReadRequest, parallel: int) -> None:
        self._connection, self._request, self._parallel = connection, request, parallel

    def open(self) -> TableRead:
        """To iterate batches: `async with read.open() as batches: async for batch in batches`."""
        return TableRead(self._connection, self._request, parallel=self._parallel)

    async def result(self) -> Result:
        """All rows, with the version they are of."""
        async with self.open() as read:
            table = await read.to_arrow()
            return Result(table, {self._request.table: read.version})

    async def batches(self) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows as they come. Close it (`aclosing`) when left early."""
        async with self.open() as read:
            async for batch in read:
                yield batch

    async def to_arrow(self) -> pa.Table:
        return (await self.result()).table

    async def to_pandas(self) -> pd.DataFrame:
        return await asyncio.to_thread((await self.result()).to_pandas)

    async def to_polars(self) -> pl.DataFrame:
        return await asyncio.to_thread((await self.result()).to_polars)


class Writer:
    """An open writer of a table. `async with table.writer("my-id") as writer:`; leaving the block normally commits everything."""

    def __init__(self, appender: Appender, *, evolve: bool = False) -> None:
        self._appender, self._evolve = appender, evolve

    @property
    def opened(self) -> Opened:
        """Epoch, offset and the source's position where this writer stood when it opened."""
        return self._appender.opened

    async def append(self, rows: Rows, *, position: Mapping[str, str] | None = None) -> int:
        """Takes all of `rows` and returns this writer's offset after them; not yet committed (`flush`).

        `position`: your source's place after these rows, committed with them: then they must fit one message of 3.5 MiB."""
        if self._evolve:
            return await self._append_evolving(rows, position)
        batches = batches_of(rows, self._appender.schema)
        if position is not None:
            whole = await asyncio.to_thread(_one_batch, list(batches), self._appender.schema)
            return await self._appender.append(whole, position=types_pb2.Position(positions=position))
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            await self._appender.append(batch)
        return self._appender.next_offset

    async def change_schema(
        self,
        *,
        add: Columns | None = None,
        widen: Columns | None = None,
        relax: Sequence[str] = (),
    ) -> pa.Schema:
        """Changes the table's columns for every writer, after the rows appended so far, and returns them all: `add` new nullable ones,
        `widen` types so that every value stays exact, `relax` NOT NULL. What is so already is no error.

        Raises SchemaMismatch (a column is there with another type), FieldInvalid, UnsupportedType."""
        return await self._appender.change_schema(
            additions=[column.with_nullable(True) for column in schema_of(add or {})],
            widenings={column.name: column.type for column in schema_of(widen or {})},
            relaxations=relax,
        )

    async def _append_evolving(self, rows: Rows, position: Mapping[str, str] | None) -> int:
        held: list[pa.RecordBatch] = []
        batches = raw_batches_of(rows, self._appender.schema)
        while (raw := await asyncio.to_thread(next, batches, None)) is not None:
            await self._appender.adopt(raw.schema)
            known = self._appender.schema
            batch = conform(without_nothing(raw, known), known)
            if position is None:
                await self._appender.append(batch)
            else:
                held.append(batch)
        if position is None:
            return self._appender.next_offset
        known = self._appender.schema  # earlier ones may lack what a later one brought
        whole = _one_batch([conform(batch, known) for batch in held], known)
        return await self._appender.append(whole, position=types_pb2.Position(positions=position))

    async def flush(self) -> None:
        """Returns when everything appended so far is durable."""
        await self._appender.flush()

    async def finish(self) -> Totals:
        """Commits everything and ends the writer."""
        return await self._appender.finish()

    async def aclose(self) -> None:
        """Ends the writer; what is not committed is dropped. Safe to repeat."""
        await self._appender.aclose()

    async def __aenter__(self) -> Self:
        await self._appender.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._appender.__aexit__(kind, error, trace)


def _one_batch(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    found = pa.Table.from_batches(batches, schema).combine_chunks().to_batches()
    return (
        found[0] if found else pa.RecordBatch.from_arrays([pa.array([], kind) for kind in schema.types], schema=schema)
    )


class Table:
    """One table, by full name. Making it asks nothing of the server."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._key: KeyColumns | None = None  # asked for once
        self.name = name

    def read(
        self,
        *,
        columns: Sequence[str] = (),
        where: Where | None = None,
        version: int | None = None,
        as_of: dt.datetime | None = None,
        start: dt.datetime | None = None,
        end: dt.datetime | None = None,
        limit: int = 0,
        after_version: int | None = None,
        parallel: int = _DEFAULT_READ_PARALLEL,
    ) -> Read:
        """Rows at one version: the newest, `version`, or that of `as_of`. `start`, `end`: event time, half-open.
        `after_version`: only what was appended after it. `parallel` splits are read at a time; 1 keeps the stored order."""
        request = storage_pb2.PlanReadRequest(
            table=self.name,
            columns=columns,
            predicate=predicate(where),
            limit=limit,
            after_version=after_version,
        )
        if version is not None:
            request.version = version
        if as_of is not None:
            request.as_of.FromDatetime(as_of)
        if start is not None:
            request.time_range.start.FromDatetime(start)
        if end is not None:
            request.time_range.end.FromDatetime(end)
        return Read(self._connection, request, parallel)

    def writer(
        self,
        writer_id: str = "",
        *,
        dead_letter: bool = False,
        commit_interval_s: float | None = None,
        tries: int = 10,
        evolve: bool = False,
    ) -> Writer:
        """A writer under `writer_id` (empty: a fresh one). An older process with the same id is fenced. `dead_letter`: rows that
        break the table's contract are kept aside instead of ending the writer. `evolve`: columns that the table lacks are added to it."""
        options = AppendOptions(
            table=self.name,
            writer_id=writer_id or f"client/{uuid.uuid4().hex}",
            dead_letter=dead_letter,
            commit_interval_s=commit_interval_s,
            tries=tries,
        )
        return Writer(Appender(self._connection, options), evolve=evolve)

    async def append(
        self, rows: Rows, *, writer_id: str = "", dead_letter: bool = False, evolve: bool = False
    ) -> Totals:
        """Appends all of `rows` exactly once, across breaks and restarts of the server; returns when they are durable.

        `evolve`: columns that the table lacks are added to it, nullable; else they are SchemaMismatch."""
        async with self.writer(writer_id, dead_letter=dead_letter, evolve=evolve) as writer:
            await writer.append(rows)
            return await writer.finish()

    def merger(
        self,
        writer_id: str = "",
        *,
        op_column: str = "",
        dead_letter: bool = False,
        commit_interval_s: float | None = None,
        tries: int = 10,
    ) -> Writer:
        """A writer whose rows replace those of the same primary key. `op_column`: the column of the rows that says UPSERT or DELETE (the
        table need not have it); empty: all are UPSERT. Commits come every 10 s unless `commit_interval_s` says otherwise."""
        options = AppendOptions(
            table=self.name,
            writer_id=writer_id or f"client/{uuid.uuid4().hex}",
            dead_letter=dead_letter,
            commit_interval_s=commit_interval_s,
            tries=tries,
            op_column=op_column,
        )
        return Writer(Appender(self._connection, options))

    async def merge(self, rows: Rows, *, op_column: str = "", writer_id: str = "", dead_letter: bool = False) -> Totals:
        """Merges all of `rows` by the table's primary key, exactly once; returns when they are durable. `op_column` as in `merger`.

        Raises NoPrimaryKey, WriterModeConflict (the table is being appended to)."""
        async with self.merger(writer_id, op_column=op_column, dead_letter=dead_letter) as writer:
            await writer.append(rows)
            return await writer.finish()

    async def lookup(
        self,
        keys: Keys,
        *,
        columns: Sequence[str] = (),
        version: int | None = None,
        as_of: dt.datetime | None = None,
    ) -> Found:
        """The rows of these primary keys, at the newest version, at `version`, or at that of `as_of`; any number of keys, 1,000 a call.

        Raises NoPrimaryKey, ResultTooLarge, VersionExpired."""
        if self._key is not None:
            with contextlib.suppress(errors.TableRecreated, errors.SchemaMismatch):  # it may have another key by now
                return await lookup(
                    self._connection, self.name, self._key, keys, columns=columns, version=version, as_of=as_of
                )
        self._key = await key_columns(self._connection, self.name)
        return await lookup(self._connection, self.name, self._key, keys, columns=columns, version=version, as_of=as_of)

    async def watch(
        self, *, after_version: int | None = None, data_changes_only: bool = True
    ) -> AsyncGenerator[Version, None]:
        """Each version as it lands; without `after_version`, the current one first. Ends when the table is deleted."""
        request = storage_pb2.WatchTableRequest(
            table=self.name, after_version=after_version, data_changes_only=data_changes_only, coalesce=True
        )
        async for change in watch_table(self._connection, request):
            if isinstance(change, storage_pb2.TableVersion):
                yield Version(
                    number=change.number,
                    first=change.first,
                    kind=storage_pb2.VersionKind.Name(change.kind).removeprefix("VERSION_KIND_"),
                    rows_added=change.rows_added,
                    rows_removed=change.rows_removed,
                    commit_time=change.commit_time.ToDatetime(dt.UTC),
                )

    @property
    def maintenance(self) -> TableMaintenance:
        """Compaction, expiry, restore, erasure, checks; writers; retention."""
        return TableMaintenance(self._connection, self.name)

    async def info(self) -> storage_pb2.Table:
        """Definition, newest version, counts. Raises TableNotFound."""
        answer = await call(
            self._connection,
            storage_pb2_grpc.StorageServiceStub(self._connection.channel).GetTable,
            storage_pb2.GetTableRequest(name=self.name),
            resource=self.name,
            answer=storage_pb2.GetTableResponse,
        )
        return answer.table

    async def schema(self) -> pa.Schema:
        """Its columns."""
        return schema_from_proto((await self.info()).schema)

    async def delete(self, *, etag: str = "") -> None:
        """Raises TableNotFound, TableHasDependents, EtagMismatch."""
        await call(
            self._connection,
            storage_pb2_grpc.StorageServiceStub(self._connection.channel).DeleteTable,
            storage_pb2.DeleteTableRequest(request_id=new_request_id(), name=self.name, etag=etag),
            resource=self.name,
            answer=storage_pb2.DeleteTableResponse,
        )


async def create_table(
    connection: Connection,
    name: str,
    columns: Columns,
    *,
    event_time_column: str = "",
    primary_key: Sequence[str] = (),
    rules: Sequence[storage_pb2.ColumnRule] = (),
    description: str = "",
    sequence_column: str = "",
    native_lookup: bool = False,
) -> storage_pb2.Table:
    """Raises ResourceExists, UnsupportedType, FieldInvalid."""
    table = storage_pb2.Table(
        name=name,
        schema=schema_to_proto(schema_of(columns)),
        event_time_column=event_time_column,
        primary_key=primary_key,
        rules=rules,
        description=description,
        sequence_column=sequence_column,
        native_lookup=native_lookup,
    )
    answer = await call(
        connection,
        storage_pb2_grpc.StorageServiceStub(connection.channel).CreateTable,
        storage_pb2.CreateTableRequest(request_id=new_request_id(), table=table),
        resource=name,
        answer=storage_pb2.CreateTableResponse,
    )
    return answer.table


async def list_tables(connection: Connection, parent: str) -> list[storage_pb2.Table]:
    """All tables of `namespaces/{namespace}`, by name."""
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    request = storage_pb2.ListTablesRequest(parent=parent, page_size=1_000)
    found: list[storage_pb2.Table] = []
    while True:
        answer = await call(connection, stub.ListTables, request, answer=storage_pb2.ListTablesResponse)
        found += answer.tables
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token
