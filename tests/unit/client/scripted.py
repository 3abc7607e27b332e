"""A storage service that keeps the contract and breaks everything else: a real aio server over rows in memory, with seeded faults.

It commits, acknowledges and fences as contracts.md says; `Faults` decides when streams break, how (bare UNAVAILABLE, INTERNAL, UNKNOWN,
CANCELLED, OK without an end, in-band ABORTED), and whether the commit before the break happened. `Cutter` stands before it and cuts
connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pyarrow as pa
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from millrace.arrow import ipc
from millrace.storage.v1 import frames_pb2, storage_pb2, storage_pb2_grpc
from millrace.types.v1 import types_pb2
from millrace.wire.batch import batch_from_proto, batch_to_proto
from millrace.wire.schema import schema_to_proto

SCHEMA = pa.schema([pa.field("n", pa.int64()), pa.field("s", pa.string())])
TABLE = "namespaces/default/tables/t"
BARE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED)


def rich(code: int, reason: str, *, retry_ms: int | None = None, **metadata: str) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=reason)
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="millrace.dev", metadata=metadata)]
    if retry_ms is not None:
        pause = error_details_pb2.RetryInfo()
        pause.retry_delay.FromMilliseconds(retry_ms)
        details.append(pause)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


class Ending(Exception):
    """The stream ends now: with a bare code (None: OK without an end), or in band."""

    def __init__(self, code: grpc.StatusCode | None = None, status: status_pb2.Status | None = None) -> None:
        self.code, self.status = code, status


@dataclass
class Faults:
    """`rate`: chance of a break at each step. Draws are seeded; `kinds` counts what happened."""

    seed: int = 0
    rate: float = 0.0
    silent_rate: float = 0.0
    kinds: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def count(self, kind: str) -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + 1

    def maybe(self) -> None:
        """Raises Ending now and then."""
        if self.dice.random() >= self.rate:
            return
        kind = self.dice.choice(("UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED", "OK", "AGED", "DRAINING"))
        self.count(kind)
        if kind in ("AGED", "DRAINING"):
            reason = "STREAM_AGED_OUT" if kind == "AGED" else "STREAM_DRAINING"
            raise Ending(status=rich(code_pb2.ABORTED, reason, retry_ms=0))
        raise Ending(None if kind == "OK" else grpc.StatusCode[kind])


@dataclass
class Writer:
    epoch: int = 0
    next_offset: int = 0
    position: types_pb2.Position | None = None
    crcs: dict[int, tuple[int, int]] = field(default_factory=dict)


class Storage(storage_pb2_grpc.StorageServiceServicer):
    """One table in memory. `rows`: committed, in order. `dead`: committed dead letters. Group commit every `every` batches or on demand."""

    def __init__(
        self, faults: Faults | None = None, *, every: int = 3, ack_timeout_s: float = 5.0, credit_batches: int = 8
    ) -> None:
        self.faults = faults or Faults()
        self.every, self.ack_timeout_s, self.credit_batches = every, ack_timeout_s, credit_batches
        self.rows: list[pa.RecordBatch] = []
        self.dead: list[bytes] = []
        self.writers: dict[str, Writer] = {}
        self.version = 0
        self.opens: list[storage_pb2.AppendOpen] = []
        self.most_unacked = 0
        self.tokens: list[str | None] = []
        self.live: dict[str, object] = {}

    def table(self) -> pa.Table:
        return pa.Table.from_batches(self.rows, SCHEMA)

    # -- AppendRows
    async def AppendRows(self, requests: AsyncIterator[storage_pb2.AppendRowsRequest], context: Any) -> None:
        self.tokens.append(dict(context.invocation_metadata()).get("authorization"))
        await context.send_initial_metadata(())
        try:
            await self._append(requests, context)
        except Ending as ending:
            await self._end(ending, context)

    async def _end(self, ending: Ending, context: Any) -> None:
        if ending.status is not None:
            await context.write(storage_pb2.AppendRowsResponse(error=ending.status))
            trailing = (("grpc-status-details-bin", ending.status.SerializeToString()),)
            context.set_trailing_metadata(trailing)
            context.set_code(next(code for code in grpc.StatusCode if code.value[0] == ending.status.code))
            context.set_details(ending.status.message)
        elif ending.code is not None:
            context.set_code(ending.code)
            context.set_details("cut")

    async def _append(self, requests: AsyncIterator[storage_pb2.AppendRowsRequest], context: Any) -> None:
        stream = object()
        opening = (await anext(requests)).open
        self.opens.append(opening)
        self.faults.maybe()
        writer = self.writers.setdefault(opening.writer_id, Writer())
        if opening.epoch and opening.epoch < writer.epoch:
            raise Ending(status=rich(code_pb2.FAILED_PRECONDITION, "WRITER_FENCED"))
        if opening.epoch == 0:
            writer.epoch += 1
        self.live[opening.writer_id] = stream
        self.faults.maybe()
        epoch = writer.epoch
        await context.write(storage_pb2.AppendRowsResponse(opened=self._opened(writer)))
        pending: list[frames_pb2.AppendBatch] = []
        async for request in requests:
            if writer.epoch != epoch:
                raise Ending(status=rich(code_pb2.FAILED_PRECONDITION, "WRITER_FENCED"))
            if self.live[opening.writer_id] is not stream:
                raise Ending(status=rich(code_pb2.ABORTED, "WRITER_SUPERSEDED"))
            kind = request.WhichOneof("message")
            if kind == "batch":
                self.faults.maybe()
                if self._judge(writer, pending, request.batch):
                    pending.append(request.batch)
                self.most_unacked = max(self.most_unacked, len(pending))
            if kind in ("flush", "finish") or len(pending) >= self.every:
                await self._commit(writer, pending, context)
            if kind == "finish":
                self.faults.maybe()
                await context.write(
                    storage_pb2.AppendRowsResponse(
                        done=frames_pb2.Done(next_offset=writer.next_offset, version=self.version)
                    )
                )
                return

    def _opened(self, writer: Writer) -> frames_pb2.AppendOpened:
        return frames_pb2.AppendOpened(
            epoch=writer.epoch,
            next_offset=writer.next_offset,
            position=writer.position,
            schema=schema_to_proto(SCHEMA),
            version=self.version,
            max_unacked_bytes=16 << 20,
            max_unacked_batches=self.credit_batches,
            max_message_bytes=3 << 20,
            ack_timeout=duration_pb2.Duration(nanos=int(self.ack_timeout_s % 1 * 1e9), seconds=int(self.ack_timeout_s)),
            table_uid="u1",
        )

    def _judge(self, writer: Writer, pending: list[frames_pb2.AppendBatch], batch: frames_pb2.AppendBatch) -> bool:
        """W3: True when the batch is new."""
        assert batch.HasField("offset")
        rows = count(batch)
        expected = pending[-1].offset + count(pending[-1]) if pending else writer.next_offset
        crc = zlib.crc32(batch.batch.arrow)
        if batch.offset == expected:
            return True
        if batch.offset + rows <= expected:
            known = writer.crcs.get(batch.offset)
            if known is not None and known[0] == rows and known[1] != crc:
                raise Ending(status=rich(code_pb2.ABORTED, "OFFSET_CONTENT_MISMATCH"))
            self.faults.count("duplicate")
            return False
        reason = "OFFSET_GAP" if batch.offset > expected else "OFFSET_OVERLAP"
        code = code_pb2.OUT_OF_RANGE if batch.offset > expected else code_pb2.FAILED_PRECONDITION
        raise Ending(status=rich(code, reason, next_offset=str(expected)))

    async def _commit(self, writer: Writer, pending: list[frames_pb2.AppendBatch], context: Any) -> None:
        self.faults.maybe()  # before the commit: nothing of it happened
        written = 0
        for batch in pending:
            found = batch_from_proto(batch.batch, SCHEMA)
            self.rows.append(found)
            written += found.num_rows
            self.dead += [letter.raw for letter in batch.dead_letters]
            writer.crcs[batch.offset] = (count(batch), zlib.crc32(batch.batch.arrow))
            writer.next_offset = batch.offset + count(batch)
            if batch.HasField("position"):
                writer.position = batch.position
        self.version += bool(pending)
        pending.clear()
        self.faults.maybe()  # after it: the acknowledgement is lost
        if self.faults.dice.random() < self.faults.silent_rate:
            self.faults.count("silent")
            await asyncio.Event().wait()
        committed = frames_pb2.Committed(
            next_offset=writer.next_offset, version=self.version, rows_written=written, position=writer.position
        )
        await context.write(storage_pb2.AppendRowsResponse(committed=committed))

    # -- PlanRead, ReadRows
    async def PlanRead(self, request: storage_pb2.PlanReadRequest, context: Any) -> storage_pb2.PlanReadResponse:
        splits = max(1, request.preferred_min_splits)
        return storage_pb2.PlanReadResponse(
            version=self.version,
            table_uid="u1",
            schema=schema_to_proto(SCHEMA),
            splits=[storage_pb2.Split(split_token=f"{at}/{splits}".encode()) for at in range(splits)],
        )

    async def ReadRows(self, request: storage_pb2.ReadRowsRequest, context: Any) -> None:
        try:
            await self._read(request, context)
        except Ending as ending:
            await self._end_read(ending, context)

    async def _end_read(self, ending: Ending, context: Any) -> None:
        if ending.status is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", ending.status.SerializeToString()),))
            context.set_code(next(code for code in grpc.StatusCode if code.value[0] == ending.status.code))
        elif ending.code is not None:
            context.set_code(ending.code)

    async def _read(self, request: storage_pb2.ReadRowsRequest, context: Any) -> None:
        self.faults.maybe()
        at, splits = map(int, request.split_token.split(b"/"))
        mine = self.rows[at::splits]
        start = int(request.resume_token or b"0")
        header = storage_pb2.ReadHeader(schema=schema_to_proto(SCHEMA), version=self.version, table_uid="u1")
        await context.write(storage_pb2.ReadRowsResponse(header=header))
        for index in range(start, len(mine)):
            self.faults.maybe()
            batch = batch_to_proto(mine[index], request.encoding, request.compression)
            await context.write(storage_pb2.ReadRowsResponse(batch=batch, resume_token=str(index + 1).encode()))
        self.faults.maybe()
        total = sum(batch.num_rows for batch in mine)
        await context.write(storage_pb2.ReadRowsResponse(end=storage_pb2.ReadEnd(row_count=total)))

    # -- WatchTable
    async def WatchTable(self, request: storage_pb2.WatchTableRequest, context: Any) -> None:
        try:
            covered = request.after_version if request.HasField("after_version") else self.version - 1
            bookmark = storage_pb2.Bookmark(version=max(covered, 0))
            await context.write(storage_pb2.WatchTableResponse(bookmark=bookmark))
            while True:
                self.faults.maybe()
                if covered < self.version:
                    covered += 1
                    event = storage_pb2.TableVersion(
                        number=covered, first=covered, kind=storage_pb2.VERSION_KIND_APPEND
                    )
                    await context.write(storage_pb2.WatchTableResponse(version=event))
                else:
                    await asyncio.sleep(0.01)
        except Ending as ending:
            await self._end_read(ending, context)


def count(batch: frames_pb2.AppendBatch) -> int:
    return batch.batch.row_count + len(batch.dead_letters)


@contextlib.asynccontextmanager
async def serving(*servicers: tuple[Any, Any], port: int = 0) -> AsyncIterator[int]:
    """(adder, servicer) pairs on a free loopback port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    for add, servicer in servicers:
        add(servicer, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def storage_at(storage: Storage) -> AsyncIterator[str]:
    async with serving((storage_pb2_grpc.add_StorageServiceServicer_to_server, storage)) as port:
        yield f"127.0.0.1:{port}"


class Cutter:
    """A TCP proxy. `cut()` drops every connection that goes through it."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._writers: set[asyncio.StreamWriter] = set()
        self.cuts = 0
        self.port = 0

    async def __aenter__(self) -> Cutter:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.sleep(0)

    async def cut_through(self) -> None:
        """Cuts once something goes through."""
        async with asyncio.timeout(5):
            while not self._writers:
                await asyncio.sleep(0.005)
        self.cut()

    def cut(self) -> None:
        self.cuts += bool(self._writers)
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            for one in (writer, far_writer):
                self._writers.discard(one)
                one.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


def numbered(start: int, rows: int, width: int = 10) -> pa.RecordBatch:
    """Rows start..start+rows-1."""
    return pa.record_batch({"n": range(start, start + rows), "s": ["x" * width] * rows}, schema=SCHEMA)


__all__ = ["BARE", "SCHEMA", "TABLE", "Cutter", "Faults", "Storage", "ipc", "numbered", "serving", "storage_at"]
