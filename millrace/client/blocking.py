"""The client without async: a loop on a thread of its own does the work, these classes only wait for it."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pyarrow as pa

from millrace.client.append import Opened, Totals
from millrace.client.blocking_maintenance import BlockingMaintenance
from millrace.client.endpoints import Endpoints
from millrace.client.lookup import Found, Keys
from millrace.client.rows import Result, Rows
from millrace.client.session import Client, Question
from millrace.client.subscribe import Frame
from millrace.client.tables import Columns, Read, Table, Version, Writer
from millrace.client.where import Where
from millrace.storage.v1 import storage_pb2

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

T = TypeVar("T")
_END = object()


class LoopThread:
    """A running event loop on a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="millrace client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Waits for `work`; Ctrl-C while waiting cancels it and waits for its clean-up."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def each(self, items: AsyncIterator[T]) -> Iterator[T]:
        """The items, one asked for at a time; closes `items` however the loop over them ends."""
        try:
            while (item := self.run(_next(items))) is not _END:
                yield item  # type: ignore[misc]
        finally:
            self.run(_close(items))

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        if not self._thread.is_alive():
            self._loop.close()


async def _next(items: AsyncIterator[T]) -> T | object:
    return await anext(items, _END)


async def _close(items: Any) -> None:
    if (aclose := getattr(items, "aclose", None)) is not None:
        await aclose()


class BlockingRead:
    """As `tables.Read`."""

    def __init__(self, loop: LoopThread, read: Read) -> None:
        self._loop, self._read = loop, read

    def result(self) -> Result:
        return self._loop.run(self._read.result())

    def batches(self) -> Iterator[pa.RecordBatch]:
        return self._loop.each(self._read.batches())

    def to_arrow(self) -> pa.Table:
        return self._loop.run(self._read.to_arrow())

    def to_pandas(self) -> pd.DataFrame:
        return self._loop.run(self._read.to_pandas())

    def to_polars(self) -> pl.DataFrame:
        return self._loop.run(self._read.to_polars())

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self.batches()


class BlockingWriter:
    """As `tables.Writer`."""

    def __init__(self, loop: LoopThread, writer: Writer) -> None:
        self._loop, self._writer = loop, writer

    @property
    def opened(self) -> Opened:
        return self._writer.opened

    def append(self, rows: Rows, *, position: Mapping[str, str] | None = None) -> int:
        return self._loop.run(self._writer.append(rows, position=position))

    def change_schema(
        self, *, add: Columns | None = None, widen: Columns | None = None, relax: Sequence[str] = ()
    ) -> pa.Schema:
        return self._loop.run(self._writer.change_schema(add=add, widen=widen, relax=relax))

    def flush(self) -> None:
        self._loop.run(self._writer.flush())

    def finish(self) -> Totals:
        return self._loop.run(self._writer.finish())

    def close(self) -> None:
        self._loop.run(self._writer.aclose())

    def __enter__(self) -> Self:
        self._loop.run(self._writer.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._writer.__aexit__(kind, error, trace))


class BlockingTable:
    """As `tables.Table`."""

    def __init__(self, loop: LoopThread, table: Table) -> None:
        self._loop, self._table = loop, table

    @property
    def name(self) -> str:
        return self._table.name

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
        parallel: int = 2,
    ) -> BlockingRead:
        read = self._table.read(
            columns=columns,
            where=where,
            version=version,
            as_of=as_of,
            start=start,
            end=end,
            limit=limit,
            after_version=after_version,
            parallel=parallel,
        )
        return BlockingRead(self._loop, read)

    def writer(
        self,
        writer_id: str = "",
        *,
        dead_letter: bool = False,
        commit_interval_s: float | None = None,
        tries: int = 10,
        evolve: bool = False,
    ) -> BlockingWriter:
        async def make() -> Writer:
            return self._table.writer(
                writer_id, dead_letter=dead_letter, commit_interval_s=commit_interval_s, tries=tries, evolve=evolve
            )

        return BlockingWriter(self._loop, self._loop.run(make()))

    def append(self, rows: Rows, *, writer_id: str = "", dead_letter: bool = False, evolve: bool = False) -> Totals:
        return self._loop.run(self._table.append(rows, writer_id=writer_id, dead_letter=dead_letter, evolve=evolve))

    def merger(
        self,
        writer_id: str = "",
        *,
        op_column: str = "",
        dead_letter: bool = False,
        commit_interval_s: float | None = None,
        tries: int = 10,
    ) -> BlockingWriter:
        async def make() -> Writer:
            return self._table.merger(
                writer_id,
                op_column=op_column,
                dead_letter=dead_letter,
                commit_interval_s=commit_interval_s,
                tries=tries,
            )

        return BlockingWriter(self._loop, self._loop.run(make()))

    def merge(self, rows: Rows, *, op_column: str = "", writer_id: str = "", dead_letter: bool = False) -> Totals:
        merged = self._table.merge(rows, op_column=op_column, writer_id=writer_id, dead_letter=dead_letter)
        return self._loop.run(merged)

    def lookup(
        self, keys: Keys, *, columns: Sequence[str] = (), version: int | None = None, as_of: dt.datetime | None = None
    ) -> Found:
        return self._loop.run(self._table.lookup(keys, columns=columns, version=version, as_of=as_of))

    def watch(self, *, after_version: int | None = None, data_changes_only: bool = True) -> Iterator[Version]:
        return self._loop.each(self._table.watch(after_version=after_version, data_changes_only=data_changes_only))

    @property
    def maintenance(self) -> BlockingMaintenance:
        return BlockingMaintenance(self._loop, self._table.maintenance)

    def info(self) -> storage_pb2.Table:
        return self._loop.run(self._table.info())

    def schema(self) -> pa.Schema:
        return self._loop.run(self._table.schema())

    def delete(self, *, etag: str = "") -> None:
        self._loop.run(self._table.delete(etag=etag))


class BlockingClient:
    """As `session.Client`. Close it, or use it as a context."""

    def __init__(self, loop: LoopThread, client: Client) -> None:
        self._loop, self._client = loop, client

    @property
    def endpoints(self) -> Endpoints:
        return self._client.endpoints

    @property
    def aio(self) -> Client:
        """The async client underneath; its loop is `run`'s."""
        return self._client

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine that uses `aio`, and waits for it."""
        return self._loop.run(work)

    def table(self, name: str) -> BlockingTable:
        async def make() -> Table:
            return self._client.table(name)

        return BlockingTable(self._loop, self._loop.run(make()))

    def create_table(
        self,
        name: str,
        columns: Columns,
        *,
        event_time_column: str = "",
        primary_key: Sequence[str] = (),
        rules: Sequence[storage_pb2.ColumnRule] = (),
        description: str = "",
        sequence_column: str = "",
        native_lookup: bool = False,
    ) -> BlockingTable:
        made = self._client.create_table(
            name,
            columns,
            event_time_column=event_time_column,
            primary_key=primary_key,
            rules=rules,
            description=description,
            sequence_column=sequence_column,
            native_lookup=native_lookup,
        )
        return BlockingTable(self._loop, self._loop.run(made))

    def list_tables(self) -> list[storage_pb2.Table]:
        return self._loop.run(self._client.list_tables())

    def delete_table(self, name: str) -> None:
        self._loop.run(self._client.delete_table(name))

    def query(
        self,
        question: Question,
        params: Mapping[str, Any] | None = None,
        *,
        versions: Mapping[str, int] | None = None,
        max_rows: int = 0,
    ) -> Result:
        return self._loop.run(self._client.query(question, params, versions=versions, max_rows=max_rows))

    def subscribe(
        self,
        question: Question,
        params: Mapping[str, Any] | None = None,
        *,
        key_columns: Sequence[str] = (),
        min_interval_s: float | None = None,
        deterministic: bool = False,
    ) -> Iterator[Frame]:
        async def make() -> AsyncIterator[Frame]:
            return self._client.subscribe(
                question, params, key_columns=key_columns, min_interval_s=min_interval_s, deterministic=deterministic
            )

        return self._loop.each(self._loop.run(make()))

    def close(self) -> None:
        self._loop.run(self._client.aclose())
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(
    home: str | Path | None = None, *, token: str | None = None, namespace: str = "default", **targets: str
) -> BlockingClient:
    """A client by `targets` (storage="host:port", analysis=…) when any is given, else by endpoints.json of `home`, MILLRACE_HOME
    or ./.millrace. Raises Missing when nothing was started there. Nothing is asked of a server yet."""
    client = Client.find(home, token=token, namespace=namespace, **targets)
    return BlockingClient(LoopThread(), client)
