"""Tables in memory that keep AppendRows' rules: epochs fence, offsets count, positions come with the rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from millrace.errors import FieldRequired, LeaseLost, OffsetGap, OffsetOverlap, TableNotFound, WriterFenced
from svc_extract.ports import (
    AppendTarget,
    Clock,
    Committed,
    DeadLetter,
    Position,
    PushCommitted,
    PushDone,
    PushOpen,
    PushOpened,
    SinkOpened,
    TableInfo,
)


@dataclass(slots=True)
class _Writer:
    epoch: int = 0
    next_offset: int = 0
    position: Position | None = None


@dataclass(slots=True)
class MemoryTable:
    """`batches` and `letters` in the order of their commits."""

    info: TableInfo
    batches: list[pa.RecordBatch] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    writers: dict[str, _Writer] = field(default_factory=dict)
    version: int = 0

    def rows(self) -> list[dict[str, object]]:
        return [row for batch in self.batches for row in batch.to_pylist()]


class MemoryTables:
    """Both `Tables` and `Sink`, and a `PushGate`. `fail_append`: called before each append; what it raises the appender raises."""

    def __init__(self, clock: Clock, current_epoch: Callable[[str], int] = lambda name: 0) -> None:
        self._clock, self._epoch_of = clock, current_epoch
        self._tables: dict[str, MemoryTable] = {}
        self.fail_append: Callable[[], None] = lambda: None

    def create(self, name: str, schema: pa.Schema, *, event_time_column: str = "") -> MemoryTable:
        table = MemoryTable(TableInfo(name, f"uid-{name}", schema, event_time_column))
        self._tables[name] = table
        return table

    def find(self, name: str) -> MemoryTable:
        if (found := self._tables.get(name)) is None:
            raise TableNotFound(f"`{name}` does not exist", field="table")
        return found

    async def table(self, name: str, *, as_caller: bool) -> TableInfo:
        return self.find(name).info

    @asynccontextmanager
    async def open(self, target: AppendTarget, on_commit: Callable[[Committed], None]) -> AsyncIterator[MemoryAppender]:
        table = self.find(target.table)
        writer = table.writers.setdefault(target.writer_id, _Writer())
        epoch = target.epoch or writer.epoch + 1
        if epoch < writer.epoch:
            raise WriterFenced("another writer took over")
        writer.epoch = epoch
        yield MemoryAppender(self, table, writer, target, epoch, on_commit)

    def check(self, writer: _Writer, epoch: int, lease: str) -> None:
        self.fail_append()
        if writer.epoch != epoch:
            raise WriterFenced("another writer took over")
        if lease and self._epoch_of(lease) != epoch:
            raise LeaseLost(f"the lease `{lease}` has another epoch")

    def now_us(self) -> int:
        return self._clock.now_us()


class MemoryAppender:
    """Commits every batch at once."""

    def __init__(
        self,
        tables: MemoryTables,
        table: MemoryTable,
        writer: _Writer,
        target: AppendTarget,
        epoch: int,
        on_commit: Callable[[Committed], None],
    ) -> None:
        self._tables, self._table, self._writer, self._target = tables, table, writer, target
        self._epoch, self._on_commit = epoch, on_commit
        info = table.info
        self.opened = SinkOpened(epoch, writer.next_offset, writer.position, info.schema, info.uid)

    async def append(self, rows: pa.RecordBatch, dead_letters: Sequence[DeadLetter], position: Position | None) -> None:
        self._tables.check(self._writer, self._epoch, self._target.lease)
        assert rows.schema.equals(self._table.info.schema), rows.schema
        table, writer = self._table, self._writer
        table.batches.append(rows)
        table.letters.extend(dead_letters)
        table.version += 1
        writer.next_offset += rows.num_rows + len(dead_letters)
        writer.position = position or writer.position
        self._on_commit(
            Committed(
                writer.next_offset, table.version, self._tables.now_us(), rows.num_rows, len(dead_letters), position
            )
        )

    async def flush(self) -> None:
        """Everything is committed already."""

    async def finish(self) -> None:
        self._tables.check(self._writer, self._epoch, self._target.lease)


class MemoryGate:
    """A PushGate over MemoryTables."""

    def __init__(self, tables: MemoryTables) -> None:
        self._tables = tables

    @asynccontextmanager
    async def open(self, request: PushOpen) -> AsyncIterator[MemoryChannel]:
        table = self._tables.find(request.table)
        writer = table.writers.setdefault(request.writer_id, _Writer())
        epoch = request.epoch or writer.epoch + 1
        if epoch < writer.epoch:
            raise WriterFenced("another writer took over")
        writer.epoch = epoch
        yield MemoryChannel(self._tables, table, writer, epoch)


class MemoryChannel:
    """Commits every batch at once. A payload must be a RecordBatch here."""

    def __init__(self, tables: MemoryTables, table: MemoryTable, writer: _Writer, epoch: int) -> None:
        self._tables, self._table, self._writer, self._epoch = tables, table, writer, epoch
        self._answers: asyncio.Queue[PushCommitted | PushDone] = asyncio.Queue()
        self.opened = PushOpened(
            epoch=epoch,
            next_offset=writer.next_offset,
            position=writer.position,
            schema=table.info.schema,
            max_unacked_bytes=16 << 20,
            max_unacked_batches=32,
            max_message_bytes=3_670_016,
            ack_timeout_ms=30_000,
        )

    async def send(
        self,
        offset: int | None,
        rows: pa.RecordBatch | None,
        payload: object,
        dead_letters: Sequence[DeadLetter],
        position: Position | None,
    ) -> None:
        self._tables.check(self._writer, self._epoch, "")
        found = payload if rows is None else rows
        assert isinstance(found, pa.RecordBatch)
        count, at = found.num_rows + len(dead_letters), self._writer.next_offset
        if offset is None:
            raise FieldRequired("the offset is needed", field="batch.offset")
        if offset > at:
            raise OffsetGap("rows are missing", metadata={"next_offset": str(at)})
        if offset < at < offset + count:
            raise OffsetOverlap("the batch is known in part", metadata={"next_offset": str(at)})
        fresh = offset == at
        if fresh:
            self._table.batches.append(found)
            self._table.letters.extend(dead_letters)
            self._table.version += 1
            self._writer.next_offset += count
            self._writer.position = position or self._writer.position
        await self._answers.put(
            PushCommitted(
                next_offset=self._writer.next_offset,
                version=self._table.version,
                time_us=self._tables.now_us(),
                rows_written=found.num_rows if fresh else 0,
                rows_dead_lettered=len(dead_letters) if fresh else 0,
                rows_duplicate=0 if fresh else count,
            )
        )

    async def flush(self) -> None:
        """Everything is committed already."""

    async def finish(self) -> None:
        await self._answers.put(PushDone(self._writer.next_offset, self._table.version))

    async def answers(self) -> AsyncIterator[PushCommitted | PushDone]:
        while True:
            answer = await self._answers.get()
            yield answer
            if isinstance(answer, PushDone):
                return
