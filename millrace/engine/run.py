"""Runs statements over pinned tables, off the event loop, and hands results out batch by batch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from millrace.engine.faults import is_fatal, translate
from millrace.engine.instance import Pool, Seat
from millrace.engine.pinned import Limits, Statement, Tables
from millrace.errors import DeadlineTooShort, TooManyStreams

_T = TypeVar("_T")


class Result:
    """An open result. One reader; ended by `aclose`, which `Engine.open` does. `schema` is as DuckDB gives it."""

    def __init__(self, engine: Engine, cursor: duckdb.DuckDBPyConnection, reader: pa.RecordBatchReader) -> None:
        self._engine, self._cursor, self._reader = engine, cursor, reader
        self.schema: pa.Schema = reader.schema

    def __aiter__(self) -> AsyncIterator[pa.RecordBatch]:
        return self

    async def __anext__(self) -> pa.RecordBatch:
        batch = await self._engine.call(self, self._next)
        if batch is None:
            raise StopAsyncIteration
        return batch

    def interrupt(self) -> None:
        """Stops the work; whoever waits for it gets DEADLINE_PASSED. Safe from any thread, and after the end."""
        with contextlib.suppress(duckdb.ConnectionException):
            self._cursor.interrupt()

    async def aclose(self) -> None:
        """Stops what still runs and frees the cursor; safe to repeat."""
        self.interrupt()
        await self._engine.release(self._close)

    def _next(self) -> pa.RecordBatch | None:
        try:
            return self._reader.read_next_batch()
        except StopIteration:
            return None

    def _close(self) -> None:
        self._reader.close()
        self._cursor.close()


class Engine:
    """DuckDB for one process: a pool of instances, a few threads, limits. Made by the composition root, closed by it."""

    def __init__(self, limits: Limits, temp_directory: str) -> None:
        """`temp_directory`: exists, is this process's own; spilled data goes there."""
        self._limits = limits
        self._pool = Pool(limits, temp_directory)
        self._executor = ThreadPoolExecutor(limits.workers, thread_name_prefix="duckdb")
        self._open = 0
        self._freed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def open(
        self,
        statement: Statement,
        tables: Tables,
        *,
        deadline_s: float | None = None,
        deterministic: bool = False,
        batch_rows: int | None = None,
    ) -> AsyncIterator[Result]:
        """Starts `statement` over `tables`; the block reads the result batch by batch, at its own pace.

        `tables`: a pinned table for every TableRef that the text names. `deadline_s`: from now until the last batch. `deterministic`:
        one thread, so the same data give the same bits and, for the same text, the same order.
        Raises SqlInvalid, MemoryLimit, DeadlineTooShort, TooManyStreams, FileMissing, DiskFull; so does reading."""
        if self._open >= self._limits.max_open:
            raise TooManyStreams("too many results are open here", retry_after_ms=1000)
        self._open += 1
        threads = 1 if deterministic else self._limits.threads
        limit = max(0.0, self._limits.deadline_s if deadline_s is None else deadline_s)
        ends = asyncio.get_running_loop().time() + limit
        timer: asyncio.TimerHandle | None = None
        result: Result | None = None
        seat: Seat | None = None
        try:
            seat = await self._seat(tables, threads, limit)
            starting = _Starting(self._pool, seat, statement, tables, batch_rows or self._limits.batch_rows)
            timer = asyncio.get_running_loop().call_at(ends, starting.expire)
            result = await self._start(starting)
            yield result
        finally:
            if timer is not None:
                timer.cancel()
            self._open -= 1
            try:
                if result is not None:
                    await asyncio.shield(result.aclose())
            finally:
                if seat is not None:
                    self._pool.leave(seat)
                    self._freed.set()
                    if self._pool.dropped:
                        self._executor.submit(self._pool.close_dropped)

    async def table(
        self,
        statement: Statement,
        tables: Tables,
        *,
        deadline_s: float | None = None,
        deterministic: bool = False,
    ) -> pa.Table:
        """The whole result in memory: for small ones (an axis' edges, a model's input). Raises as `open`."""
        opened = self.open(statement, tables, deadline_s=deadline_s, deterministic=deterministic)
        async with opened as result:
            return pa.Table.from_batches([batch async for batch in result], schema=result.schema)

    async def run(self, work: Callable[[], _T]) -> _T:
        """Any other blocking work, on the same few threads."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Waits for what runs, closes all instances."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._pool.close()

    async def call(self, result: Result, work: Callable[[], _T]) -> _T:
        """One blocking step of `result` on a worker. Cancelling the caller interrupts it and waits until it has let go."""
        return await self._interruptible(work, result.interrupt)

    async def release(self, work: Callable[[], None]) -> None:
        """Runs a result's closing; what it raises is of no use to anybody any more."""
        try:
            await self.run(work)
        except (duckdb.Error, pa.ArrowException, OSError):
            return

    async def _seat(self, tables: Tables, threads: int, limit_s: float) -> Seat:
        """Waits until there is memory for another instance."""
        try:
            async with asyncio.timeout(limit_s):
                while (seat := self._pool.take(tables, threads=threads)) is None:
                    self._freed.clear()
                    await self._freed.wait()
                return seat
        except TimeoutError:
            raise TooManyStreams(
                "open results take all of the engine's memory", hint="read them to their end", retry_after_ms=1000
            ) from None

    async def _start(self, starting: _Starting) -> Result:
        cursor, reader = await self._interruptible(starting.start, starting.expire)
        return Result(self, cursor, reader)

    async def _interruptible(self, work: Callable[[], _T], interrupt: Callable[[], None]) -> _T:
        future = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            interrupt()
            future.add_done_callback(_seen)
            await asyncio.wait([future], timeout=5.0)
            raise
        except Exception as error:
            raise translate(error) from error


def _seen(future: asyncio.Future[Any]) -> None:
    """Whoever asked is gone: what the step raised interests nobody."""
    if not future.cancelled():
        future.exception()


class _Starting:
    """Between the request and the first batch. `expire` may come from the loop's timer at any moment, also while it waits for a thread."""

    def __init__(self, pool: Pool, seat: Seat, statement: Statement, tables: Tables, batch_rows: int) -> None:
        self._pool, self._seat, self._statement, self._tables = pool, seat, statement, tables
        self._batch_rows = batch_rows
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._expired = False

    def expire(self) -> None:
        self._expired = True
        if self._cursor is not None:
            self._cursor.interrupt()

    def start(self) -> tuple[duckdb.DuckDBPyConnection, pa.RecordBatchReader]:
        if self._expired:
            raise DeadlineTooShort("no engine thread was free in time", hint="ask again, or allow more time")
        cursor = self._cursor = self._pool.cursor(self._seat, self._tables)
        try:
            return cursor, self._reader(cursor)
        except Exception as error:
            cursor.close()
            if is_fatal(error):
                self._pool.discard(self._seat)
            raise

    def _reader(self, cursor: duckdb.DuckDBPyConnection) -> pa.RecordBatchReader:
        params: dict[str, Any] = dict(self._statement.params)
        relation = cursor.sql(self._statement.sql, params=params) if params else cursor.sql(self._statement.sql)
        if relation is None:
            raise translate(duckdb.ParserException("Parser Error: this is not a SELECT"))
        return relation.to_arrow_reader(self._batch_rows)
