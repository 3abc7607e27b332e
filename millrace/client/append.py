"""Appends exactly once, whatever breaks in between (contracts.md, AppendRows).

`Appender` keeps each batch until storage acknowledged it. When the stream breaks it opens another one under the same epoch and
sends again, byte for byte, from where storage is. It never takes a new epoch by itself, and never waits with unbounded memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc
import pyarrow as pa

from millrace import errors
from millrace.arrow import ipc, slices
from millrace.arrow.types import normalise
from millrace.client import status
from millrace.client.channel import Connection
from millrace.client.evolve import ColumnWish, missing, unknown_columns, without_nothing
from millrace.client.ledger import Held, Ledger, Reread
from millrace.client.resume import Backoff, resumable
from millrace.storage.v1 import frames_pb2, merge_pb2, storage_pb2, storage_pb2_grpc
from millrace.types.v1 import types_pb2
from millrace.wire.batch import codec_of
from millrace.wire.schema import schema_from_proto

OPEN_TIMEOUT_S = 60.0
_INLINE_BYTES = 64 * 1024
_MAX_OPENS_WITHOUT_ACK = 20
_MAX_SUPERSEDED = 3
_MAX_CONFLICTS = 20

Frame: TypeAlias = storage_pb2.AppendRowsRequest | merge_pb2.MergeRowsRequest
Answer: TypeAlias = storage_pb2.AppendRowsResponse | merge_pb2.MergeRowsResponse
CommitHook = Callable[[frames_pb2.Committed], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendOptions:
    """Who appends to what. `commit_interval_s`: longest wait of a row for its commit, 0.1 to 60; None leaves it to storage.

    `epoch`: 0 takes the next one (every process start does); with `lease`, that lease's epoch. `max_held_bytes`: what `append` keeps at
    most before it waits; a single larger batch is taken when nothing else is held. `tries`: how often it opens again without any answer."""

    table: str
    writer_id: str
    table_uid: str = ""
    epoch: int = 0
    lease: str = ""
    dead_letter: bool = False
    validate_only: bool = False
    commit_interval_s: float | None = None
    compression: int = types_pb2.COMPRESSION_UNSPECIFIED
    max_held_bytes: int = 32 * 1024 * 1024
    tries: int = 10
    evolve: bool = False
    """Columns that the rows have and the table lacks are added to it, nullable, before the rows; else they are SchemaMismatch."""
    op_column: str | None = None
    """None: rows are appended. Else they are merged by the table's primary key, and this column of theirs says UPSERT or DELETE; "": all
    are UPSERT."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Where the writer stands. `position`: the source's place after the last stored row, None when none was ever stored."""

    epoch: int
    next_offset: int
    position: types_pb2.Position | None
    schema: pa.Schema
    version: int
    table_uid: str


@dataclass(slots=True)
class Totals:
    """What storage said since the writer was opened. `version`: of the last commit. Of a merge, `rows_updated` of the rows written
    replaced one; `rows_ignored` were older than what is there, or deleted nothing."""

    rows_written: int = 0
    rows_dead_lettered: int = 0
    rows_duplicate: int = 0
    rows_updated: int = 0
    rows_deleted: int = 0
    rows_ignored: int = 0
    version: int = 0
    commits: int = 0
    reopened: int = 0


class Appender:
    """One writer. `async with Appender(connection, options) as writer:` opens it; leaving the block normally finishes it, leaving it
    by an exception abandons what is not committed. One task appends; `opened`, `totals` and `acked_offset` may be read by any."""

    def __init__(self, connection: Connection, options: AppendOptions, *, on_commit: CommitHook | None = None) -> None:
        self._connection, self._options, self._on_commit = connection, options, on_commit
        stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
        merges = options.op_column is not None
        self._method: Any = stub.MergeRows if merges else stub.AppendRows
        self._frame: type[Frame] = merge_pb2.MergeRowsRequest if merges else storage_pb2.AppendRowsRequest
        self._ledger = Ledger()
        self._totals = Totals()
        self._epoch = options.epoch
        self._opened: Opened | None = None
        self._max_message_bytes = slices.LIMIT_BYTES
        self._ack_timeout_s = OPEN_TIMEOUT_S
        self._opens_without_ack = self._superseded = 0
        self._last_ack = 0.0
        self._backoff = Backoff(tries=options.tries)
        self._changed = asyncio.Condition()
        self._flushes_wanted = self._flushes_sent = 0
        self._finishing = False
        self._done = False
        self._failure: BaseException | None = None
        self._schema = pa.schema([])  # as storage told it last
        self._wish: ColumnWish | None = None  # a change of columns that is not answered yet
        self._wish_sent = False  # on the present stream
        self._conflicts = 0
        self._runner: asyncio.Task[None] | None = None

    # -- what the caller sees ------------------------------------------------------------------------------------------
    @property
    def opened(self) -> Opened:
        """As the first `opened` said; raises RuntimeError before."""
        if self._opened is None:
            raise RuntimeError("the writer is not open")
        return self._opened

    @property
    def totals(self) -> Totals:
        return self._totals

    @property
    def next_offset(self) -> int:
        """The offset that the next appended row gets."""
        return self._ledger.next_offset

    @property
    def acked_offset(self) -> int:
        """Rows of this writer that are stored for certain."""
        return self._ledger.acked_offset

    @property
    def schema(self) -> pa.Schema:
        """The table's columns as storage told them last; others may have changed them meanwhile."""
        return self._schema

    async def open(self) -> Opened:
        """Connects and waits for storage's answer. Raises what storage refuses, WriterFenced and LeaseLost included."""
        self._runner = asyncio.create_task(self._run(), name=f"append {self._options.table}")
        await self._wait(lambda: self._opened is not None)
        return self.opened

    async def append(
        self,
        rows: pa.RecordBatch,
        *,
        position: types_pb2.Position | None = None,
        dead_letters: Sequence[frames_pb2.DeadLetter] = (),
    ) -> int:
        """Takes `rows` (cut to messages here) and returns the offset after them; waits while too much is unacknowledged.

        With `position` or `dead_letters` the rows are one batch, committed with them or not at all: they must fit one message of 3.5 MiB,
        else RowTooLarge. Raises whatever ended the writer: a MillraceError, or Reread."""
        if self._options.evolve:
            await self.adopt(rows.schema)
            rows = without_nothing(rows, self._schema)
        whole = position is not None or bool(dead_letters)
        if rows.num_rows == 0 and not whole:
            return self._ledger.next_offset
        for batch in await self._encoded(rows, whole):
            if position is not None:
                batch.position.CopyFrom(position)
            batch.dead_letters.extend(dead_letters)
            self._check_size(batch)
            await self._add(batch)
        return self._ledger.next_offset

    async def adopt(self, columns: pa.Schema) -> None:
        """Adds those of `columns` that the table lacks, nullable. Raises as `change_schema`."""
        if new := unknown_columns(columns, self._schema):
            await self.change_schema(additions=new)

    async def change_schema(
        self,
        *,
        additions: Sequence[pa.Field] = (),
        widenings: Mapping[str, pa.DataType] | None = None,
        relaxations: Sequence[str] = (),
    ) -> pa.Schema:
        """Changes the table's columns for every writer, after the rows appended so far; returns them all. What another writer did already
        is no error, and a change that another's overtook is merged and sent again.

        Raises SchemaMismatch when a column is there with another type, FieldInvalid and UnsupportedType for what storage never takes."""
        wish = ColumnWish(tuple(additions), dict(widenings or {}), tuple(relaxations))
        async with self._changed:
            if missing(wish, self._schema) is None:
                return self._schema
            self._wish, self._wish_sent = wish, False
            self._changed.notify_all()
        await self._wait(lambda: self._wish is None)
        return self._schema

    async def flush(self) -> None:
        """Has everything appended so far committed now, and waits until it is."""
        until = self._ledger.added
        async with self._changed:
            self._flushes_wanted += 1
            self._changed.notify_all()
        await self._wait(lambda: not self._ledger.holds_before(until))

    async def wait_acked(self, offset: int) -> None:
        """Waits until all rows before `offset` are stored."""
        await self._wait(lambda: self._ledger.acked_offset >= offset)

    async def finish(self) -> Totals:
        """Commits all, ends the stream and returns what was stored. The writer takes no more rows."""
        async with self._changed:
            self._finishing = True
            self._changed.notify_all()
        await self._wait(lambda: self._done)
        await self.aclose()
        return self._totals

    async def aclose(self) -> None:
        """Ends without finishing: what is not committed is dropped by storage. Safe to repeat, and after `finish`."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.cancel()
            await asyncio.wait({runner}, timeout=5.0)
        if self._failure is None and not self._done:
            self._failure = RuntimeError("the writer is closed")

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.finish()
        finally:
            await self.aclose()

    # -- taking rows ---------------------------------------------------------------------------------------------------
    async def _encoded(self, rows: pa.RecordBatch, whole: bool) -> list[frames_pb2.AppendBatch]:
        if rows.nbytes <= _INLINE_BYTES:
            return self._encode(rows, whole)
        return await asyncio.to_thread(self._encode, rows, whole)

    def _encode(self, rows: pa.RecordBatch, whole: bool) -> list[frames_pb2.AppendBatch]:
        plain = normalise(rows)
        parts = [plain] if whole else slices.cut(plain, limit_bytes=self._max_message_bytes)
        codec = codec_of(self._options.compression)
        return [
            frames_pb2.AppendBatch(batch=types_pb2.Batch(arrow=ipc.encode(part, codec), row_count=part.num_rows))
            if part.num_rows
            else frames_pb2.AppendBatch(batch=types_pb2.Batch())
            for part in parts
        ]

    def _check_size(self, batch: frames_pb2.AppendBatch) -> None:
        size = batch.ByteSize()
        if size > self._max_message_bytes + 64 * 1024:
            raise errors.RowTooLarge(
                f"the batch is {size} bytes, a message carries {self._max_message_bytes}",
                hint="cut it where the source's position is known",
            )

    async def _add(self, batch: frames_pb2.AppendBatch) -> None:
        size, limit = batch.ByteSize(), self._options.max_held_bytes
        await self._wait(lambda: not len(self._ledger) or self._ledger.held_bytes + size <= limit)
        if self._failure is not None:
            raise self._failure
        if self._finishing:
            raise RuntimeError("the writer is finishing: it takes no more rows")
        async with self._changed:
            self._ledger.add(batch, batch.batch.row_count + len(batch.dead_letters))
            self._changed.notify_all()

    async def _wait(self, ready: Callable[[], bool]) -> None:
        """Until `ready`, or the writer's failure, which it raises."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._failure is not None or ready())
        if self._failure is not None and not ready():
            raise self._failure

    # -- the streams, one after another --------------------------------------------------------------------------------
    async def _run(self) -> None:
        try:
            while not self._done:
                try:
                    await self._stream()
                except (*status.CALL_ERRORS, errors.MillraceError) as error:
                    await self._broken(status.error_of(error))
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # Whoever appends learns it, whatever it is.
            self._failure = error
        finally:
            async with self._changed:
                self._changed.notify_all()

    async def _broken(self, failure: errors.MillraceError) -> None:
        if isinstance(failure, errors.OffsetContentMismatch):
            raise Reread(failure.message, next_offset=self._ledger.acked_offset, position=None) from failure
        if isinstance(failure, errors.SchemaConflict):
            self._conflicts += 1
        if not self._reopens(failure) or self._opens_without_ack > _MAX_OPENS_WITHOUT_ACK:
            raise failure
        self._totals.reopened += 1
        await self._backoff.pause(failure)

    def _reopens(self, failure: errors.MillraceError) -> bool:
        if isinstance(failure, errors.WriterSuperseded):
            # An `open` of ours from a connection that was cut may be served after the one that replaced it. A writer that never broke
            # has no such stream: then somebody else uses its epoch.
            self._superseded += 1
            return self._totals.reopened > 0 and self._superseded <= _MAX_SUPERSEDED
        if isinstance(failure, errors.SchemaConflict):  # `opened` tells the columns, the wish is merged with them
            return self._wish is not None and self._conflicts <= _MAX_CONFLICTS
        reopens = isinstance(failure, (errors.OffsetGap, errors.OffsetOverlap, errors.OutcomeUnknown))
        return reopens or resumable(failure)

    async def _stream(self) -> None:
        """One stream from `open` to its end. Raises why it ended, returns after `done`."""
        call = self._method(metadata=self._connection.metadata(self._options.table))
        sender: asyncio.Task[None] | None = None
        try:
            await self._open_on(call)
            sender = asyncio.create_task(self._send(call), name=f"send {self._options.table}")
            await self._receive(call)
        finally:
            call.cancel()
            if sender is not None:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)

    async def _open_on(self, call: Any) -> None:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    # Why the stream ended is what reading says.
                    await status.raising(call.write(self._open_frame()))
                answer = await self._read(call)
        except TimeoutError as error:
            raise status.Unreachable(f"`opened` did not come in {OPEN_TIMEOUT_S} s") from error
        while answer.WhichOneof("message") == "heartbeat":
            answer = await self._read(call)
        if answer.WhichOneof("message") != "opened":
            raise errors.Unexpected("storage answered `open` with something else than `opened`")
        self._opens_without_ack += bool(len(self._ledger))  # a refused connection says nothing about the rows
        await self._take_opened(answer.opened)

    def _open_frame(self) -> Frame:
        options = self._options
        frame = self._frame()
        wish: storage_pb2.AppendOpen | merge_pb2.MergeOpen = frame.open
        wish.table, wish.writer_id = options.table, options.writer_id
        wish.epoch, wish.lease = self._epoch, options.lease
        wish.table_uid = self._opened.table_uid if self._opened else options.table_uid
        wish.on_bad_row = types_pb2.ON_BAD_ROW_DEAD_LETTER if options.dead_letter else types_pb2.ON_BAD_ROW_FAIL
        wish.validate_only = options.validate_only
        if isinstance(wish, merge_pb2.MergeOpen):
            wish.op_column = options.op_column or ""
        if options.commit_interval_s is not None:
            wish.commit_interval.FromMicroseconds(round(options.commit_interval_s * 1e6))
        return frame

    async def _take_opened(self, opened: frames_pb2.AppendOpened) -> None:
        position = opened.position if opened.HasField("position") else None
        self._backoff.progress()
        async with self._changed:
            self._epoch = opened.epoch
            if opened.max_unacked_bytes:
                self._ledger.max_unacked_bytes = opened.max_unacked_bytes
            self._ledger.max_unacked_batches = opened.max_unacked_batches or self._ledger.max_unacked_batches
            if opened.max_message_bytes:
                self._max_message_bytes = min(slices.LIMIT_BYTES, opened.max_message_bytes)
            self._ack_timeout_s = opened.ack_timeout.ToTimedelta().total_seconds() or OPEN_TIMEOUT_S
            self._last_ack = time.monotonic()
            self._flushes_sent = 0 if len(self._ledger) else self._flushes_wanted
            self._take_schema(schema_from_proto(opened.schema))
            if self._opened is None:
                self._ledger.begin(opened.next_offset)
                self._opened = Opened(
                    epoch=opened.epoch,
                    next_offset=opened.next_offset,
                    position=position,
                    schema=self._schema,
                    version=opened.version,
                    table_uid=opened.table_uid,
                )
            else:
                self._ledger.reopened(opened.next_offset, position)
            self._changed.notify_all()

    def _take_schema(self, schema: pa.Schema) -> None:
        """Under the condition's lock. Raises SchemaMismatch when the wish and these columns exclude each other."""
        self._schema, self._wish_sent = schema, False
        if self._wish is not None and missing(self._wish, schema) is None:
            self._wish = None

    # -- sending -------------------------------------------------------------------------------------------------------
    async def _send(self, call: Any) -> None:
        """Sends what there is credit for, in order. A write that fails just ends it: the reader knows why."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, status.ForeignCancel):
            while True:
                frame = await self._next_frame()
                await status.raising(call.write(frame))
                if frame.WhichOneof("message") == "finish":
                    await status.raising(call.done_writing())
                    return

    async def _next_frame(self) -> Frame:
        async with self._changed:
            held: Held | None = None
            while (held := self._ledger.to_send()) is None:
                if self._ledger.all_sent and self._wish is not None and not self._wish_sent:
                    self._wish_sent = True
                    return self._frame(schema_change=missing(self._wish, self._schema))
                if self._ledger.all_sent and self._finishing:
                    return self._frame(finish=frames_pb2.Finish())
                if self._ledger.all_sent and self._flushes_sent < self._flushes_wanted:
                    self._flushes_sent = self._flushes_wanted
                    return self._frame(flush=frames_pb2.Flush())
                await self._changed.wait()
            if not self._ledger.in_flight:
                self._last_ack = time.monotonic()
            self._ledger.sent(held)
            return self._frame(batch=held.batch)

    # -- receiving -----------------------------------------------------------------------------------------------------
    async def _receive(self, call: Any) -> None:
        while not self._done:
            answer = await self._read_before_deadlines(call)
            match answer.WhichOneof("message"):
                case "committed":
                    await self._take_committed(answer.committed)
                case "schema_accepted":
                    async with self._changed:
                        self._conflicts = 0
                        self._take_schema(schema_from_proto(answer.schema_accepted.schema))
                        self._changed.notify_all()
                case "done":
                    await self._take_done(answer.done)
        with contextlib.suppress(*status.CALL_ERRORS, TimeoutError):
            # A cancel now would look like a failure on the other side.
            async with asyncio.timeout(1.0):
                while await status.raising(call.read()) is not grpc.aio.EOF:
                    pass

    async def _take_committed(self, committed: frames_pb2.Committed) -> None:
        self._last_ack = time.monotonic()
        self._opens_without_ack = self._superseded = 0
        self._backoff.progress()
        totals = self._totals
        totals.rows_written += committed.rows_written
        totals.rows_dead_lettered += committed.rows_dead_lettered
        totals.rows_duplicate += committed.rows_duplicate
        totals.rows_updated += committed.rows_updated
        totals.rows_deleted += committed.rows_deleted
        totals.rows_ignored += committed.rows_ignored
        totals.version, totals.commits = committed.version, totals.commits + 1
        async with self._changed:
            self._ledger.acknowledge(
                committed.next_offset, committed.position.positions if committed.HasField("position") else None
            )
            if committed.HasField("schema"):
                self._schema = schema_from_proto(committed.schema)
            self._changed.notify_all()
        if self._on_commit is not None:
            self._on_commit(committed)

    async def _take_done(self, done: frames_pb2.Done) -> None:
        if done.next_offset != self._ledger.next_offset:
            raise errors.Unexpected(
                f"storage finished at row {done.next_offset}, the writer at {self._ledger.next_offset}"
            )
        async with self._changed:
            self._ledger.acknowledge_all()
            self._totals.version = max(self._totals.version, done.version)
            self._done = True
            self._changed.notify_all()

    async def _read(self, call: Any) -> Answer:
        answer = await status.raising(call.read())
        if answer is grpc.aio.EOF:
            raise status.Unreachable("the stream ended without `done`", metadata={"grpc_code": "OK"})
        assert isinstance(answer, storage_pb2.AppendRowsResponse | merge_pb2.MergeRowsResponse)
        if answer.WhichOneof("message") == "error":
            raise status.in_band(answer.error)
        return answer

    async def _read_before_deadlines(self, call: Any) -> Answer:
        """The next answer. Raises Unreachable when acknowledgements are overdue, or nothing at all came for a minute."""
        began = time.monotonic()
        reading = asyncio.ensure_future(self._read(call))
        try:
            while not reading.done():
                now = time.monotonic()
                if self._ledger.in_flight and now - max(self._last_ack, 0.0) > self._ack_timeout_s:
                    raise status.Unreachable(f"no acknowledgement for {self._ack_timeout_s:g} s")
                if now - began > OPEN_TIMEOUT_S:
                    raise status.Unreachable(f"nothing came for {OPEN_TIMEOUT_S:g} s")
                await asyncio.wait({reading}, timeout=min(5.0, self._ack_timeout_s / 4))
            return reading.result()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)  # also what it raised while nobody waited any more


__all__ = ["AppendOptions", "Appender", "Opened", "Reread", "Totals"]
