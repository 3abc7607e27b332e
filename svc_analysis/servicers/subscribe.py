"""AnalysisService.Subscribe."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any

from millrace.analysis.v1 import analysis_pb2
from millrace.server.lifecycle import heartbeats
from svc_analysis.convert.rows import travel_from
from svc_analysis.convert.subscriptions import Messages, wish_from
from svc_analysis.domain.subscriptions import Header, Shown, Subscriptions


class SubscribeRpcs:
    """`pool`: bounded threads for encoding rows."""

    def __init__(self, subscriptions: Subscriptions, pool: Executor) -> None:
        self._subscriptions, self._rows_pool = subscriptions, pool

    async def Subscribe(self, request: analysis_pb2.SubscribeRequest, context: Any) -> None:
        travel = travel_from(request.encoding, request.compression)
        async with self._subscriptions.open(wish_from(request)) as subscription:
            messages = Messages(subscription, travel)
            async with aclosing(subscription.events()) as events:
                header = await anext(events)
                assert isinstance(header, Header)
                await context.write(messages.header(header))
                async with heartbeats(context, messages.heartbeat, at_once=True):
                    async for event in events:
                        if isinstance(event, Header):
                            await context.write(messages.header(event))
                        else:
                            await self._write_frame(messages, event, context)

    async def _write_frame(self, messages: Messages, shown: Shown, context: Any) -> None:
        loop = asyncio.get_running_loop()
        frame = messages.frame(shown)
        while (message := await loop.run_in_executor(self._rows_pool, next, frame, None)) is not None:
            await context.write(messages.numbered(message))
