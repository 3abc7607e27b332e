"""Runs: asked for, observed, cancelled."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from millrace.extract.v1 import extract_pb2 as pb
from millrace.server.identity import caller
from millrace.server.lifecycle import heartbeats
from svc_extract.convert import runs as convert
from svc_extract.domain.runs import Runs
from svc_extract.ports import Clock, Finished


class RunRpcs:
    def __init__(self, runs: Runs, clock: Clock) -> None:
        self._runs, self._clock = runs, clock

    async def RunSource(self, request: pb.RunSourceRequest, context: Any) -> None:
        wish = convert.wish_from(request, caller().principal)
        if request.validate_only:
            await context.write(convert.response(await self._runs.rehearse(wish), None))
            return
        run = await self._runs.start(wish)
        first = True
        async with (
            heartbeats(context, lambda: convert.heartbeat(self._clock.now_us()), at_once=True),
            aclosing(self._runs.follow(run, after_sequence=request.after_sequence)) as events,
        ):
            async for event in events:
                whole = first or isinstance(event.what, Finished)
                shown = await self._runs.get(run.name) if whole else None
                first = False
                await context.write(convert.response(event, shown))

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=convert.run_to(await self._runs.get(request.name)))

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> pb.CancelRunResponse:
        run = await self._runs.cancel(request.name, request_id=request.request_id)
        return pb.CancelRunResponse(run=convert.run_to(run))
