"""StorageService's reading half: PlanRead, ReadRows, ListSplitFiles."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

from millrace.errors import FieldRequired
from millrace.server.access import settle
from millrace.server.lifecycle import heartbeats
from millrace.storage.v1 import storage_pb2 as pb
from svc_storage.convert import reads as convert
from svc_storage.domain.reading.reads import Reads, RowStream
from svc_storage.domain.streams import closing
from svc_storage.ports import Clock

STORE_ID = "x-millrace-store-id"


class ReadRpcs:
    """`pool`: bounded threads for encoding; may be the one that reads."""

    def __init__(self, reads: Reads, clock: Clock, pool: Executor) -> None:
        self._reads, self._clock, self._pool = reads, clock, pool

    async def PlanRead(self, request: pb.PlanReadRequest, context: Any) -> pb.PlanReadResponse:
        plan = await self._reads.plan(convert.wish_from(request), store_id=_store_id(context))
        return convert.plan_response(plan)

    async def ReadRows(self, request: pb.ReadRowsRequest, context: Any) -> None:
        max_bytes = convert.message_bytes_from(request)
        async with closing(await self._open(request)) as stream:
            settle(stream.pinned.scan.table)
            await context.write(convert.header(stream.pinned))
            async with heartbeats(context, lambda: convert.heartbeat(self._clock.now_us())):
                while (chunk := await stream.next()) is not None:
                    messages = convert.row_messages(stream, chunk, request, max_bytes)
                    while (message := await self._encoded(messages)) is not None:
                        await context.write(message)
            await context.write(convert.end(stream.emitted))

    async def ListSplitFiles(self, request: pb.ListSplitFilesRequest, context: Any) -> None:
        found = await self._reads.split_files(request.split_token, store_id=_store_id(context))
        settle(found.table)
        for message in convert.split_file_responses(found):
            await context.write(message)

    async def _open(self, request: pb.ReadRowsRequest) -> RowStream:
        match request.WhichOneof("target"):
            case "split_token":
                return await self._reads.open_split(request.split_token, request.resume_token)
            case "read":
                return await self._reads.open(convert.wish_from(request.read), request.resume_token)
        raise FieldRequired("name what to read: split_token or read", field="read.table")

    async def _encoded(self, messages: Iterator[pb.ReadRowsResponse]) -> pb.ReadRowsResponse | None:
        return await asyncio.get_running_loop().run_in_executor(self._pool, next, messages, None)


def _store_id(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == STORE_ID:
            return str(value)
    return ""
