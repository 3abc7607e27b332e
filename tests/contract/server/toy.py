"""A servicer that does what the table's name tells it to: each way a call can go, behind the real contract of storage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.rpc import status_pb2

from millrace import errors
from millrace.server.identity import caller
from millrace.server.lifecycle import heartbeats, stream_life
from millrace.server.runtime import Composition, ServiceSpec
from millrace.server.status import from_rpc_error, from_status
from millrace.storage.v1 import frames_pb2
from millrace.storage.v1 import storage_pb2 as pb
from millrace.storage.v1 import storage_pb2_grpc as pb_grpc
from millrace.types.v1 import types_pb2 as types

OPEN = pb.AppendRowsRequest(open=pb.AppendOpen(table="t", writer_id="w"))
FINISH = pb.AppendRowsRequest(finish=frames_pb2.Finish())


def named(name: str) -> pb.ReadRowsRequest:
    return pb.ReadRowsRequest(read=pb.PlanReadRequest(table=name))


def opened(name: str) -> pb.AppendRowsRequest:
    return pb.AppendRowsRequest(open=pb.AppendOpen(table=name, writer_id="w"))


def batch(offset: int, rows: int = 1) -> pb.AppendRowsRequest:
    return pb.AppendRowsRequest(batch=frames_pb2.AppendBatch(offset=offset, batch=types.Batch(row_count=rows)))


class Toy(pb_grpc.StorageServiceServicer):
    """`log`: what happened inside, for the tests to look at."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def GetTable(self, request: pb.GetTableRequest, context: Any) -> pb.GetTableResponse:
        match request.name:
            case "missing":
                raise errors.TableNotFound("no such table", hint="list the tables", metadata={"table": "missing"})
            case "bug":
                raise ZeroDivisionError("secret row value 4711")
            case "many":
                raise errors.FieldInvalid("many", violations=tuple((f"f[{n}]", "x" * 500) for n in range(200)))
            case "slow":
                await self._sleep_for_ever()
            case "nothing":
                return None  # type: ignore[return-value]
        return pb.GetTableResponse(table=pb.Table(name=request.name, owner=caller().principal))

    async def _sleep_for_ever(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0.05)
            self.log.append("cleaned up")

    async def ReadRows(self, request: pb.ReadRowsRequest, context: Any) -> None:
        match request.read.table:
            case "fails":
                await context.write(_rows(3))
                raise errors.VersionExpired("gone", metadata={"oldest_version": "7"})
            case "idle":
                async with heartbeats(context, _beat, every_s=0.1, at_once=True):
                    await self._sleep_for_ever()
            case "quiet":
                await self._sleep_for_ever()
            case "endless":
                try:
                    while True:
                        await context.write(_rows(1))
                        await asyncio.sleep(0.01)
                finally:
                    for _ in range(5):
                        await asyncio.sleep(0.01)
                    self.log.append("cleaned up")
            case "fat":
                while True:
                    await context.write(pb.ReadRowsResponse(batch=types.Batch(arrow=b"x" * 1_000_000, row_count=1)))
                    self.log.append("sent")
        await context.write(_rows(2))
        await context.write(pb.ReadRowsResponse(end=pb.ReadEnd(row_count=2)))

    async def WatchTable(
        self, request: pb.WatchTableRequest, context: Any
    ) -> AsyncIterator[pb.WatchTableResponse]:  # a generator, as others may write them
        yield pb.WatchTableResponse(bookmark=pb.Bookmark(version=1))
        if request.table == "fails":
            raise errors.TableRecreated("another table has the name")
        if request.table == "idle":
            await self._sleep_for_ever()

    async def AppendRows(self, requests: AsyncIterator[pb.AppendRowsRequest], context: Any) -> None:
        life, offset = stream_life(context), 0
        name = ""
        async for request in requests:
            kind = request.WhichOneof("message")
            if kind == "open":
                name = request.open.table
                await self._open(name, context)
            elif kind == "batch":
                offset = request.batch.offset + request.batch.batch.row_count
                await context.write(pb.AppendRowsResponse(committed=frames_pb2.Committed(next_offset=offset)))
                if name == "fails":
                    raise errors.OffsetGap("rows are missing", metadata={"next_offset": str(offset)})
                life.check()
            elif kind == "finish":
                await context.write(pb.AppendRowsResponse(done=frames_pb2.Done(next_offset=offset)))
                return
        self.log.append("abandoned")

    async def _open(self, name: str, context: Any) -> None:
        if name == "fails at open":
            raise errors.WriterFenced("another writer took over", metadata={"next_offset": "5"})
        if name == "bug":
            raise KeyError("secret row value 4711")
        await context.write(pb.AppendRowsResponse(opened=frames_pb2.AppendOpened(epoch=1)))
        if name == "stubborn":
            await self._sleep_for_ever()


def _rows(count: int) -> pb.ReadRowsResponse:
    return pb.ReadRowsResponse(batch=types.Batch(row_count=count), resume_token=b"t")


def _beat() -> pb.ReadRowsResponse:
    return pb.ReadRowsResponse(heartbeat=types.Heartbeat())


def toy_spec(toy: Toy | None = None) -> ServiceSpec[None]:
    async def compose(_settings: None, _runtime: object) -> Composition:
        return Composition(servicers=[(pb_grpc.add_StorageServiceServicer_to_server, toy or Toy())])

    return ServiceSpec(name="storage", settings=lambda _env: None, compose=compose)


def reason_of(error: Any) -> errors.MillraceError:
    """The error of a rich status; fails on a bare one."""
    assert any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ()), f"bare: {error}"
    return from_rpc_error(error)


def in_band(status: status_pb2.Status) -> errors.MillraceError:
    found = from_status(status)
    assert found is not None
    return found
