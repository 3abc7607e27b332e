"""All ports in memory: for tests and for trying a recipe without storage. Same rules as the real ones, no durability."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import duckdb
import pyarrow as pa

from millrace.arrow.types import canonical_schema, normalise
from millrace.engine.sandbox import parse
from millrace.errors import ResourceExists, TableNotFound, TableRecreated, WriterFenced
from svc_transform.ports import InputRange, Inspection, Landed, Plan, Recipe, Report, TableFacts, Written


@dataclass(slots=True)
class _Table:
    facts: TableFacts
    added: list[pa.Table]  # by version; version 0 is empty
    writers: dict[str, tuple[int, int, Mapping[str, str]]] = field(default_factory=dict)  # epoch, next_offset, position

    def rows(self, after: int | None, until: int) -> pa.Table:
        return pa.concat_tables(self.added[0 if after is None else after + 1 : until + 1])


class MemoryTables:
    """Tables, and the outputs that write to them."""

    def __init__(self) -> None:
        self._tables: dict[str, _Table] = {}
        self._changed = asyncio.Condition()

    async def get(self, name: str) -> TableFacts:
        return self._table(name).facts

    async def create(
        self, name: str, schema: pa.Schema, *, event_time_column: str = "", description: str = ""
    ) -> TableFacts:
        if name in self._tables:
            raise ResourceExists(f"{name} exists")
        facts = TableFacts(name, uuid.uuid4().hex, 0, schema, event_time_column)
        self._tables[name] = _Table(facts, [schema.empty_table()])
        return facts

    async def grow(self, table: TableFacts, columns: pa.Schema) -> TableFacts:
        kept = self._table(table.name)
        kept.added = [_in_columns(rows, columns) for rows in kept.added]
        kept.facts = replace(kept.facts, schema=columns, version=kept.facts.version + 1)
        kept.added.append(columns.empty_table())
        return kept.facts

    async def empty(self, table: TableFacts, *, owner: str) -> TableFacts:
        del self._tables[table.name]
        return await self.create(table.name, table.schema, event_time_column=table.event_time_column)

    async def append(self, name: str, rows: pa.Table) -> int:
        """Another version with `rows`; returns its number."""
        table = self._table(name)
        table.added.append(rows.select(table.facts.schema.names).cast(table.facts.schema))
        table.facts = replace(table.facts, version=table.facts.version + 1)
        async with self._changed:
            self._changed.notify_all()
        return table.facts.version

    async def changes(self, table: TableFacts, *, after_version: int, reader: str) -> AsyncIterator[Landed]:
        while True:
            now = self._table(table.name).facts
            if now.uid != table.uid:
                raise TableRecreated(f"{table.name} is another table now")
            if now.version > after_version:
                after_version = now.version
                yield Landed(now.version)
            async with self._changed:
                if self._table(table.name).facts.version <= after_version:
                    await self._changed.wait()

    def content(self, name: str) -> pa.Table:
        """All rows at the newest version."""
        table = self._table(name)
        return table.rows(None, table.facts.version)

    def pinned(self, part: InputRange) -> pa.Table:
        """The rows that a range names."""
        table = self._table(part.table)
        if table.facts.uid != part.uid:
            raise TableRecreated(f"{part.table} is another table now")
        return table.rows(part.after_version, part.version)

    def writer(self, name: str, writer: str) -> tuple[int, int, Mapping[str, str]]:
        """Epoch, next offset and position of a writer."""
        return self._table(name).writers.get(writer, (0, 0, {}))

    def set_writer(self, name: str, writer: str, state: tuple[int, int, Mapping[str, str]]) -> None:
        self._table(name).writers[writer] = state

    def _table(self, name: str) -> _Table:
        try:
            return self._tables[name]
        except KeyError:
            raise TableNotFound(f"no table {name}") from None


class MemoryOutput:
    """Commits each write that has a position, and all others every `commit_every` writes, as storage's group commit may."""

    def __init__(
        self, tables: MemoryTables, name: str, uid: str, writer: str, epoch: int, step: Callable[[str], None]
    ) -> None:
        self._tables, self._name, self.uid, self._writer, self._epoch, self._step = (
            tables,
            name,
            uid,
            writer,
            epoch,
            step,
        )
        _, self.next_offset, self.position = tables.writer(name, writer)
        self._held: list[tuple[pa.RecordBatch, Mapping[str, str] | None]] = []
        self._written = Written()

    @property
    def written(self) -> Written:
        return self._written

    async def write(self, rows: pa.RecordBatch, position: Mapping[str, str] | None = None) -> None:
        self._held.append((rows, position))
        self._step("write")
        if len(self._held) >= 2:
            await self._commit_one()

    async def commit(self) -> Written:
        while self._held:
            await self._commit_one()
        return self._written

    async def close(self) -> None:
        self._held.clear()

    async def _commit_one(self) -> None:
        rows, position = self._held[0]
        epoch, offset, before = self._tables.writer(self._name, self._writer)
        if epoch > self._epoch:
            raise WriterFenced("a higher epoch writes")
        self._step("before commit")
        version = await self._tables.append(self._name, _as_table(rows, await self._tables.get(self._name)))
        state = (self._epoch, offset + rows.num_rows, before if position is None else position)
        self._tables.set_writer(self._name, self._writer, state)
        del self._held[0]
        self._written = Written(self._written.rows + rows.num_rows, 0, version)
        self._step("after commit")


def _as_table(rows: pa.RecordBatch, facts: TableFacts) -> pa.Table:
    if not rows.num_rows:
        return facts.schema.empty_table()
    given = pa.Table.from_batches([rows])
    columns = [
        given.column(f.name) if f.name in given.column_names else pa.nulls(rows.num_rows, f.type) for f in facts.schema
    ]
    return pa.table(columns, schema=facts.schema)


class MemoryOutputs:
    """`step` is called around each durable step; what it raises is a death of the process there."""

    def __init__(self, tables: MemoryTables, step: Callable[[str], None] = lambda _: None) -> None:
        self._tables, self._step = tables, step

    async def open(self, table: TableFacts, recipe: Recipe, epoch: int) -> MemoryOutput:
        stored, offset, position = self._tables.writer(table.name, recipe.lease)
        if stored > epoch:
            raise WriterFenced("a higher epoch writes")
        self._tables.set_writer(table.name, recipe.lease, (epoch, offset, position))
        return MemoryOutput(self._tables, table.name, table.uid, recipe.lease, epoch, self._step)


class MemoryEngine:
    """DuckDB over the rows in memory."""

    def __init__(self, tables: MemoryTables, batch_rows: int = 1000) -> None:
        self._tables, self._batch_rows = tables, batch_rows

    def inspect(self, sql: str, namespace: str) -> Inspection:
        parsed = parse(sql)
        written = {ref.full_name(namespace): str(ref) for ref in parsed.tables}
        return Inspection(tuple(sorted(written)), parsed.tree, written)

    async def columns(self, sql: str, namespace: str, inputs: Sequence[TableFacts]) -> pa.Schema:
        connection = self._connection({facts.name: facts.schema.empty_table() for facts in inputs})
        return canonical_schema(connection.sql(sql).to_arrow_table().schema)

    @asynccontextmanager
    async def run(
        self, sql: str, namespace: str, inputs: Sequence[InputRange]
    ) -> AsyncIterator[AsyncIterator[pa.RecordBatch]]:
        connection = self._connection({part.table: self._tables.pinned(part) for part in inputs})
        result = normalise(connection.sql(f"SELECT * FROM ({sql}) ORDER BY ALL").to_arrow_table())
        yield _each(result.to_batches(max_chunksize=self._batch_rows))

    def _connection(self, tables: Mapping[str, pa.Table]) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        for name, rows in tables.items():
            connection.register(name.rsplit("/", 1)[1], rows)
        return connection


async def _each(batches: Sequence[pa.RecordBatch]) -> AsyncIterator[pa.RecordBatch]:
    for batch in batches:
        yield batch


@dataclass(slots=True)
class MemoryHeld:
    epoch: int
    lost: asyncio.Future[None]


class MemoryLeases:
    """One holder per name; epochs rise."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self.epochs: dict[str, int] = {}

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[MemoryHeld]:
        async with self._locks.setdefault(name, asyncio.Lock()):
            self.epochs[name] = self.epochs.get(name, 0) + 1
            yield MemoryHeld(self.epochs[name], asyncio.get_running_loop().create_future())


class MemoryReports:
    """Keeps the last report of each transform, and hears everything."""

    def __init__(self) -> None:
        self.last: dict[str, Report] = {}
        self.steps: list[Plan] = []

    def observer(self, recipe: Recipe, epoch: int) -> MemoryReports:
        return self

    async def planned(self, step: Plan) -> None:
        self.steps.append(step)

    async def progress(self, rows_read: int, written: Written) -> None:
        pass

    async def report(self, recipe: Recipe, report: Report) -> None:
        self.last[recipe.name] = report


def _in_columns(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    arrays = [
        rows.column(field.name).cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(rows.num_rows, field.type)
        for field in columns
    ]
    return pa.table(arrays, schema=columns)
