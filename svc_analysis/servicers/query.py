"""AnalysisService.Query."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any

from millrace.analysis.v1 import analysis_pb2
from millrace.server.interceptors.deadline import remaining_s
from millrace.server.lifecycle import heartbeats
from svc_analysis.convert import queries as convert
from svc_analysis.convert.rows import travel_from
from svc_analysis.convert.specs import question_from
from svc_analysis.domain.answers import Queries


class QueryRpcs:
    """`pool`: bounded threads for encoding rows."""

    def __init__(self, queries: Queries, pool: Executor) -> None:
        self._queries, self._pool = queries, pool

    async def Query(self, request: analysis_pb2.QueryRequest, context: Any) -> None:
        travel = travel_from(request.encoding, request.compression, request.max_message_bytes)
        opened = self._queries.open(
            question_from(request),
            max_rows=request.max_rows,
            resumable=request.resumable,
            resume_token=request.resume_token,
            deadline_s=remaining_s(),
        )
        loop = asyncio.get_running_loop()
        async with heartbeats(context, convert.heartbeat), opened as answer:
            await context.write(convert.header(answer))
            async with aclosing(answer.batches()) as batches:
                async for batch in batches:
                    sent = answer.row_count - batch.num_rows
                    messages = travel.messages(batch)
                    while (message := await loop.run_in_executor(self._pool, next, messages, None)) is not None:
                        sent += message.row_count
                        await context.write(convert.rows(message, answer.token(sent)))
            await context.write(convert.end(answer))
