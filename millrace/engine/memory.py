"""Tables that live in this process: for tests and for trying the engine without storage. Versions are Parquet files in one folder."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from millrace.engine.files import STORAGE_COLUMNS, TableInfo
from millrace.engine.names import DEAD_LETTERS
from millrace.engine.pinned import PinnedTable
from millrace.errors import TableNotFound, TableRecreated, VersionInFuture


@dataclass(slots=True)
class _Table:
    name: str
    uid: str
    schema: pa.Schema
    event_time_column: str
    files: list[tuple[str, ...]] = field(default_factory=lambda: [()])  # added per version; version 0 is empty
    rows: list[int] = field(default_factory=lambda: [0])
    high_us: int | None = None

    @property
    def version(self) -> int:
        return len(self.files) - 1


class MemoryFiles:
    """Same rules as storage's: versions are immutable, a table made again has another uid."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tables: dict[str, _Table] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Condition()

    async def create(self, name: str, schema: pa.Schema, event_time_column: str = "") -> None:
        """Makes (or replaces) the table at version 0."""
        uid = f"uid-{next(self._numbers)}"
        self._tables[name] = _Table(name, uid, schema, event_time_column)
        async with self._changed:
            self._changed.notify_all()

    async def append(self, name: str, rows: pa.Table) -> int:
        """Adds a version with `rows`; columns of theirs that the table lacks are added to it. Returns its number."""
        table = self._table(name)
        for added in (f for f in rows.schema if f.name not in table.schema.names and f.name not in STORAGE_COLUMNS):
            table.schema = table.schema.append(added.with_nullable(True))
        path = self._folder / f"{table.uid}-{table.version + 1}.parquet"
        stamp = pa.array([1_700_000_000_000_000 + table.version] * rows.num_rows, pa.timestamp("us", "UTC"))
        await asyncio.to_thread(pq.write_table, rows.append_column(STORAGE_COLUMNS[0], stamp), path)
        table.files.append((str(path),))
        table.rows.append(rows.num_rows)
        if table.event_time_column and rows.num_rows:
            high = pc.max(rows[table.event_time_column]).cast(pa.int64()).as_py()
            table.high_us = max(high, table.high_us) if table.high_us is not None else high
        async with self._changed:
            self._changed.notify_all()
        return table.version

    async def drop(self, name: str) -> None:
        """Deletes the table."""
        del self._tables[name]
        async with self._changed:
            self._changed.notify_all()

    async def describe(self, name: str) -> TableInfo:
        table = self._table(name)
        return TableInfo(name, table.uid, table.version, table.schema, table.event_time_column, table.high_us)

    async def pin(
        self,
        name: str,
        *,
        version: int | None = None,
        uid: str = "",
        after_version: int | None = None,
        storage_columns: bool = False,
    ) -> PinnedTable:
        table = self._table(name)
        if uid and uid != table.uid:
            raise TableRecreated(f"{name} is another table now")
        at = table.version if version is None else version
        if at > table.version:
            raise VersionInFuture(f"{name} is at version {table.version}")
        schema = table.schema
        if storage_columns and not name.endswith(DEAD_LETTERS):
            schema = schema.append(pa.field(STORAGE_COLUMNS[0], pa.timestamp("us", "UTC"), nullable=False))
        first = 0 if after_version is None else after_version + 1
        files = tuple(path for added in table.files[first : at + 1] for path in added)
        size = sum(Path(path).stat().st_size for path in files)
        return PinnedTable(name, table.uid, at, schema, files, after_version, sum(table.rows[first : at + 1]), size)

    async def wait_for_change(self, name: str, after: tuple[str, int]) -> TableInfo | None:
        """Returns once the table is not at (uid, version) any more: what it is now, None when it is gone."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._stands(name) != after)
        return await self.describe(name) if name in self._tables else None

    def _stands(self, name: str) -> tuple[str, int] | None:
        table = self._tables.get(name)
        return None if table is None else (table.uid, table.version)

    def _table(self, name: str) -> _Table:
        try:
            return self._tables[name]
        except KeyError:
            raise TableNotFound(f"there is no table `{name}`") from None
