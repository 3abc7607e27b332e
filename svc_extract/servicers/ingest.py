"""Ingest: one task feeds storage from the program's frames, the handler itself tells what was committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from millrace.errors import StreamProtocol
from millrace.extract.v1 import extract_pb2 as pb
from millrace.server.lifecycle import StreamLife, heartbeats, stream_life
from svc_extract.convert import ingest as convert
from svc_extract.domain.ingest import Ingest, IngestStream
from svc_extract.domain.racing import first_failure
from svc_extract.ports import Clock


class IngestRpcs:
    def __init__(self, ingest: Ingest, clock: Clock) -> None:
        self._ingest, self._clock = ingest, clock

    async def Ingest(self, request_iterator: AsyncIterator[pb.IngestRequest], context: Any) -> None:
        first = await anext(request_iterator, None)
        if first is None:
            raise StreamProtocol("the first frame is `open`", field="open")
        async with self._ingest.open(convert.frame_from(first)) as stream:
            await context.write(convert.opened(stream.opened))
            async with heartbeats(context, lambda: convert.heartbeat(self._clock.now_us())):
                life = stream_life(context)
                feeding = asyncio.ensure_future(stream.feed(convert.frames_from(request_iterator)))
                await first_failure(_tell(stream, context), feeding, _end_in_time(stream, feeding, life))
                life.check()


async def _end_in_time(stream: IngestStream, feeding: asyncio.Future[None], life: StreamLife) -> None:
    """Age and drain: no more frames are read, what came is committed and told; then the stream ends."""
    await life.wait()
    feeding.cancel()
    await stream.settle()


async def _tell(stream: IngestStream, context: Any) -> None:
    async for answer in stream.answers():
        await context.write(convert.answer(answer))
