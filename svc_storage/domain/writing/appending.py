"""One writer's open stream: judges its batches, hands them to the table's committer, hears what was committed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from millrace import errors
from svc_storage.domain.definition import TableDefinition
from svc_storage.domain.writing import dead_letters
from svc_storage.domain.writing.contract import BadRow, Checked
from svc_storage.domain.writing.dead_letters import ClientDeadLetter
from svc_storage.domain.writing.group import MERGE_INTERVAL_S, SAMPLE, Ack, Pending, Waiter
from svc_storage.domain.writing.schema_change import SchemaChange
from svc_storage.domain.writing.writers import KEPT_MARKS, Verdict, judge
from svc_storage.ports import BatchMark, Version, WriterState

MAX_UNACKED_BYTES = 16 * 1024 * 1024
MAX_UNACKED_BATCHES = 32
ASIDE_BYTES = 256 * 1024
"""Checks of larger batches run on a worker thread."""
MAX_POSITION_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """`epoch` 0 = the next one. `interval_s` 0 = adaptive. `keep_bad`: dead letters instead of failing."""

    writer: str
    epoch: int
    principal: str
    lease: str = ""
    keep_bad: bool = False
    validate_only: bool = False
    interval_s: float = 0.0
    trace_context: str = ""
    op_column: str | None = None  # None: rows are appended; else they are merged, "": all of them as UPSERT
    sequence_column: str = ""  # of a merge: what the writer takes the table's to be; "": whatever it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A batch as it came. `crc32` of the payload bytes as sent; `size` of them. `positions` None = unchanged."""

    offset: int
    rows: pa.RecordBatch
    crc32: int
    size: int
    positions: Mapping[str, str] | None = None
    event_time_high_us: int | None = None
    dead: tuple[ClientDeadLetter, ...] = ()


@dataclass(frozen=True, slots=True)
class SchemaAccepted:
    """The table's columns are as wished."""

    schema: pa.Schema


class Desk(Protocol):
    """Where a stream hands in its batches: the table's committer, or a rehearsal of it."""

    @property
    def definition(self) -> TableDefinition: ...

    async def room(self) -> None:
        """Waits while the group is full."""

    def submit(self, entry: Pending) -> None: ...

    async def change_schema(self, change: SchemaChange) -> TableDefinition:
        """The table with the columns as wished, durably. Raises as `schema_change.evolve`."""

    def hurry(self, stream: Waiter) -> None:
        """Commit what this stream has waiting, now."""

    def answer(self, stream: Waiter) -> None:
        """An ack of what is stored is due, even if nothing new comes."""

    def leave(self, stream: Waiter) -> None:
        """Drop what waits; the stream is over."""

    async def check(self, rows: pa.RecordBatch, *, aside: bool) -> Checked:
        """The contract's check, on a worker thread if `aside`."""


class AppendStream:
    """Used by one task that appends and one that waits for acks. Close it however it ends: what is not committed is dropped."""

    def __init__(self, desk: Desk, request: OpenRequest, state: WriterState, version: Version) -> None:
        self.opened = state
        self.opened_version = version
        self.writer, self.epoch, self.principal = request.writer, state.epoch, request.principal
        self.lease, self.trace_context = request.lease, request.trace_context
        self.op_column, self.merges = request.op_column or "", request.op_column is not None
        self.interval_s = request.interval_s or (MERGE_INTERVAL_S if self.merges else 0.0)
        self.next_offset = state.next_offset  # acknowledged
        self.last_version: Version = 0  # the newest that holds rows of this stream
        self._keep_bad = request.keep_bad
        self._desk = desk
        self._expected = state.next_offset  # after everything handed in
        self._marks = list(state.marks)
        self._unacked_bytes = self._unacked_batches = self._duplicates = 0
        self._failure: errors.MillraceError | None = None
        self._ack: Ack | None = None
        self._accepted: deque[SchemaAccepted] = deque()
        self._told_schema_id = desk.definition.schema_id
        self._changed = asyncio.Event()  # an ack, a failure, or the end
        self._finished = self._closed = False

    # -- the sending side ---------------------------------------------------------------------------------------------
    async def append(self, incoming: Incoming) -> None:
        """Takes a batch, once there is room for it.

        Raises what the rules say: OffsetGap, OffsetOverlap, OffsetContentMismatch, SchemaMismatch, RowInvalid, FieldInvalid; by then
        all batches before it are committed, and `next_offset` in the metadata says so. Raises what ended the stream meanwhile."""
        try:
            await self._append(incoming)
        except (errors.FixRequest, errors.Reload) as refused:
            await self.settle()
            refused.metadata["next_offset"] = str(self.next_offset)
            raise

    async def change_schema(self, change: SchemaChange) -> None:
        """Commits what was appended so far, then changes the columns; `next_event` tells it. Raises as `append`."""
        self._check_live()
        await self.settle()
        try:
            definition = await self._desk.change_schema(change)
        except (errors.FixRequest, errors.Reload) as refused:
            refused.metadata["next_offset"] = str(self.next_offset)
            raise
        self._told_schema_id = definition.schema_id
        self._accepted.append(SchemaAccepted(definition.schema))
        self._changed.set()

    async def end_with(self, reason: errors.MillraceError) -> None:
        """Commits what was appended so far, then ends the stream with `reason`; one that failed already keeps its own."""
        if not self.live:
            return
        try:
            await self.settle()
            if isinstance(reason, errors.FixRequest | errors.Reload):
                reason.metadata["next_offset"] = str(self.next_offset)
            self.fail(reason)
        except errors.MillraceError as failure:
            self.fail(failure)

    def flush(self) -> None:
        """What was appended so far is committed now; the ack follows."""
        self._check_live()
        self._desk.hurry(self)

    async def settle(self) -> None:
        """Returns when everything appended so far is committed. Raises what ended the stream."""
        while self._unacked_batches:
            self._check_live()
            self._desk.hurry(self)
            await self._wait()
        self._check_live()

    async def finish(self) -> None:
        """Settles; afterwards `next_event` tells the end."""
        await self.settle()
        if self._duplicates:
            self._desk.answer(self)
            while self._duplicates:
                self._check_live()
                await self._wait()
        self._finished = True
        self._changed.set()

    # -- the acknowledging side ---------------------------------------------------------------------------------------
    async def next_event(self, timeout_s: float) -> Ack | SchemaAccepted | None:
        """The next cumulative ack, or the answer to a change of columns; None after `timeout_s` without one, or once all is told (`ended`).

        Raises what ended the stream, after the last ack."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._silent and self._failure is None and not self._finished:
                    await self._wait()
        if self._ack is None and self._accepted:
            return self._accepted.popleft()
        ack, self._ack = self._ack, None
        if ack is None:
            self._check_live()
        return ack

    @property
    def ended(self) -> bool:
        """All is committed and told."""
        return self._finished and self._silent

    @property
    def _silent(self) -> bool:
        return self._ack is None and not self._accepted

    @property
    def definition(self) -> TableDefinition:
        """What the next batch is judged by."""
        return self._desk.definition

    def close(self) -> None:
        """Drops what is not committed. Safe to repeat."""
        if not self._closed:
            self._closed = True
            self._desk.leave(self)

    # -- Waiter -------------------------------------------------------------------------------------------------------
    @property
    def live(self) -> bool:
        return self._failure is None and not self._closed

    def acknowledge(self, ack: Ack, *, batches: int, cost: int) -> None:
        self._unacked_batches -= batches
        self._unacked_bytes -= cost
        if ack.rows_written or ack.rows_dead:
            self.last_version = ack.version
        self.next_offset = ack.next_offset
        known, self._duplicates = self._duplicates, 0
        self._ack = replace(ack, rows_duplicate=known, schema=self._news_of_schema()).after(self._ack)
        self._changed.set()

    def fail(self, failure: errors.MillraceError) -> None:
        """Ends the stream; the first reason stays."""
        if self._failure is None:
            self._failure = failure
        self._changed.set()

    # -----------------------------------------------------------------------------------------------------------------
    def _news_of_schema(self) -> pa.Schema | None:
        definition = self._desk.definition
        if definition.schema_id == self._told_schema_id:
            return None
        self._told_schema_id = definition.schema_id
        return definition.schema

    async def _append(self, incoming: Incoming) -> None:
        self._check_live()
        _check_positions(incoming.positions)
        mark = BatchMark(incoming.offset, incoming.rows.num_rows + len(incoming.dead), incoming.crc32)
        verdict = judge(self._expected, self._marks, mark)
        if verdict is Verdict.DUPLICATE:
            self._duplicates += mark.rows
            self._desk.answer(self)
            return
        if verdict is Verdict.MOVE and incoming.positions is None and incoming.event_time_high_us is None:
            return
        if incoming.dead and not self._keep_bad:
            raise errors.RowInvalid("dead letters need on_bad_row = DEAD_LETTER", field="open.on_bad_row")
        checked = await self._desk.check(incoming.rows, aside=incoming.size >= ASIDE_BYTES)
        if checked.bad and not self._keep_bad:
            raise _row_invalid(checked.bad)
        dead = dead_letters.merge(incoming.offset, incoming.rows.num_rows, incoming.dead, checked.bad)
        cost = max(incoming.size, checked.rows.nbytes)
        await self._wait_for_room(cost)
        self._hand_in(
            Pending(
                stream=self,
                mark=mark,
                rows=checked.rows,
                dead=dead,
                sample=checked.bad[:SAMPLE],
                positions=incoming.positions,
                event_time_high_us=_high(incoming, checked.rows, self._desk.definition.event_time_column),
                cost=cost,
            )
        )

    async def _wait_for_room(self, cost: int) -> None:
        await self._desk.room()
        while self._unacked_batches and (
            self._unacked_batches >= MAX_UNACKED_BATCHES or self._unacked_bytes + cost > MAX_UNACKED_BYTES
        ):
            self._desk.hurry(self)
            await self._wait()
            self._check_live()
        self._check_live()

    def _hand_in(self, entry: Pending) -> None:
        self._expected += entry.mark.rows
        if entry.mark.rows:
            self._marks = [*self._marks[1 - KEPT_MARKS :], entry.mark]
        self._unacked_batches += 1
        self._unacked_bytes += entry.cost
        self._desk.submit(entry)
        if self._unacked_batches >= MAX_UNACKED_BATCHES or self._unacked_bytes >= MAX_UNACKED_BYTES // 2:
            self._desk.hurry(self)  # at half the bytes, so that the client sends on while they are committed

    async def _wait(self) -> None:
        """Until something changed. Both sides may wait at once."""
        waiting = self._changed
        await waiting.wait()
        if self._changed is waiting:
            self._changed = asyncio.Event()

    def _check_live(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise errors.StreamProtocol("the stream is closed")


def _check_positions(positions: Mapping[str, str] | None) -> None:
    if positions and sum(len(key) + len(value) for key, value in positions.items()) > MAX_POSITION_BYTES:
        raise errors.FieldInvalid("a position is at most 256 KiB", field="batch.position")


def _row_invalid(bad: tuple[BadRow, ...]) -> errors.RowInvalid:
    return errors.RowInvalid(
        f"{len(bad)} rows break the table's contract",
        field="batch.batch",
        hint="fix them, or choose on_bad_row = DEAD_LETTER",
        metadata={"rows_invalid": str(len(bad)), "row_reason": bad[0].reason},
        violations=tuple(
            (f"batch.rows[{row.index}].{row.field}", f"{row.reason}: {row.message}") for row in bad[:SAMPLE]
        ),
    )


def _high(incoming: Incoming, rows: pa.RecordBatch, column: str) -> int | None:
    known = [incoming.event_time_high_us] if incoming.event_time_high_us is not None else []
    if column and rows.num_rows:
        highest = pc.max(rows.column(column).view(pa.int64())).as_py()
        known += [highest] if highest is not None else []
    return max(known, default=None)
