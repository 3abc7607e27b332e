"""One session of a source: under one lease, from the committed position on, until its end or until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from millrace.errors import LeaseLost, TableRecreated
from millrace.failpoints import failpoint
from svc_extract.domain.names import writer_of
from svc_extract.domain.reporting import Reporter
from svc_extract.ports import (
    Appender,
    AppendTarget,
    Catalog,
    Chunk,
    Clock,
    Connector,
    HeldLease,
    OnBadRow,
    Position,
    Run,
    RunMode,
    Sink,
    SinkOpened,
    Source,
    TableInfo,
    Tables,
    Until,
)

OF_RUN = "@run"
"""Part of a position that an overridden start leaves in it, so that a second try of the run goes on instead of starting over."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a session does. `run` None: it goes on until `stop` is set."""

    source: Source
    run: Run | None
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def until(self) -> Until:
        if self.run is None:
            return Until.STOPPED
        return Until.CAUGHT_UP if self.run.spec.mode is RunMode.UNTIL_CAUGHT_UP else Until.END


@dataclass(frozen=True, slots=True)
class Tools:
    """What sessions work with. `worker`: this process, as statuses name it."""

    connectors: Mapping[str, Connector]
    sink: Sink
    tables: Tables
    catalog: Catalog
    clock: Clock
    worker: str
    acting: Callable[[str], AbstractContextManager[object]] = nullcontext
    """Around the work of a source: for whom it is done."""


async def session(work: Work, tools: Tools, lease: HeldLease, reporter: Reporter) -> bool:
    """Reads and appends. True when the source came to its end, False when it was stopped. Raises why it could not go on.

    The lease's epoch is the writer's: whoever holds the next one fences this writer with its first commit."""
    lost = asyncio.ensure_future(lease.lost())
    body = asyncio.ensure_future(_for_owner(work, tools, lease, reporter))
    telling = asyncio.ensure_future(reporter.tell())
    tasks: set[asyncio.Future[object]] = {lost, body, telling}  # type: ignore[arg-type]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if body.done():
            return body.result()
        if telling.done():
            telling.result()
        raise LeaseLost(f"the lease `{lease.name}` could not be renewed in time", hint="another worker takes over")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _for_owner(work: Work, tools: Tools, lease: HeldLease, reporter: Reporter) -> bool:
    with tools.acting(work.source.owner):
        return await _body(work, tools, lease, reporter)


async def _body(work: Work, tools: Tools, lease: HeldLease, reporter: Reporter) -> bool:
    spec = work.source.spec
    table = await tools.tables.table(spec.table, as_caller=False)
    target = AppendTarget(
        table=spec.table,
        table_uid=table.uid,
        writer_id=writer_of(work.source.name),
        epoch=lease.epoch,
        lease=lease.name,
        dead_letter=spec.on_bad_row is OnBadRow.DEAD_LETTER,
        commit_interval_ms=spec.commit_interval_ms,
    )
    failpoint("extract.before_open")
    async with tools.sink.open(target, reporter.committed) as appender:
        failpoint("extract.after_open")
        opened = appender.opened
        table = _as_opened(table, opened)
        start, marks = _start(opened, work.run)
        reporter.started(start, opened.next_offset)
        chunks = tools.connectors[spec.connector].read(spec, table, start, work.until)
        copy = _Copy(appender, table, marks, opened.position)
        async with aclosing(chunks):
            async for chunk in until_stopped(chunks, work.stop):
                reporter.read(chunk)
                await copy.append(chunk)
                failpoint("extract.after_append")
        failpoint("extract.before_finish")
        await appender.finish()
        failpoint("extract.after_finish")
    return not work.stop.is_set()


def _as_opened(table: TableInfo, opened: SinkOpened) -> TableInfo:
    if table.uid and opened.table_uid and table.uid != opened.table_uid:
        raise TableRecreated("the table was created anew")
    return replace(table, schema=opened.schema)


def _start(opened: SinkOpened, run: Run | None) -> tuple[Position | None, dict[str, str]]:
    """Where to read from, and what each position carries besides the connector's own parts."""
    committed = opened.position
    override = run.spec.start_override if run else None
    marks = {OF_RUN: run.name} if run and override is not None else {}
    if override is not None and (committed is None or committed.parts.get(OF_RUN) != marks[OF_RUN]):
        return override, marks
    if committed is None:
        return None, marks
    parts = {name: text for name, text in committed.parts.items() if name != OF_RUN}
    return replace(committed, parts=parts), marks


@dataclass(slots=True)
class _Copy:
    """Hands chunks to the appender with their positions."""

    appender: Appender
    table: TableInfo
    marks: Mapping[str, str]
    before: Position | None
    high_us: int | None = None

    async def append(self, chunk: Chunk) -> None:
        position = self._position(chunk)
        if not chunk.records and position is None:
            return
        rows = chunk.rows if chunk.rows is not None else pa.RecordBatch.from_pylist([], schema=self.table.schema)
        await self.appender.append(rows, chunk.dead_letters, position)

    def _position(self, chunk: Chunk) -> Position | None:
        if chunk.position is None:
            return None
        newest = self._newest(chunk)
        known = [
            one
            for one in (newest, self.high_us, self.before.event_time_high_us if self.before else None)
            if one is not None
        ]
        self.high_us = max(known, default=None)
        return Position({**chunk.position.parts, **self.marks}, self.high_us)

    def _newest(self, chunk: Chunk) -> int | None:
        column = self.table.event_time_column
        if not column or chunk.rows is None or not chunk.rows.num_rows:
            return None
        newest = pc.max(chunk.rows.column(column).cast(pa.int64())).as_py()
        return int(newest) if newest is not None else None


async def until_stopped(chunks: AsyncGenerator[Chunk], stop: asyncio.Event) -> AsyncIterator[Chunk]:
    """The chunks, until there are no more or `stop` is set; a reading that waits is interrupted."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set():
            reading = asyncio.ensure_future(anext(chunks, None))
            try:
                await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not reading.done():
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
            if reading.cancelled() or (chunk := reading.result()) is None:
                return
            yield chunk
    finally:
        stopping.cancel()
