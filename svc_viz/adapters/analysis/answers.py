"""Answers by analysis' streaming RPCs. A subscription that breaks is opened anew, and said to be broken meanwhile."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pyarrow as pa

from millrace.analysis.v1 import analysis_pb2, analysis_pb2_grpc, statistics_pb2
from millrace.client.channel import Connection
from millrace.client.query import QueryRead
from millrace.client.read import decoded
from millrace.client.resume import Resumed as Stream
from millrace.client.resume import resumable
from millrace.client.subscribe import Frame, Subscription, subscribe_request
from millrace.errors import FieldInvalid, MillraceError, StreamAgedOut, StreamDraining
from millrace.types.v1 import types_pb2
from millrace.wire.schema import schema_from_proto
from svc_viz.convert.questions import spec_of
from svc_viz.ports import Answer, ForecastAsk, Interrupted, Question, Resumed

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
"""Short: a page waits, and there are few of us."""
STATISTICS_DEADLINE_S = 60.0


class AnalysisAnswers:
    """Implements `Answers` over a channel to analysis."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = analysis_pb2_grpc.AnalysisServiceStub(connection.channel)

    async def query(self, question: Question) -> Answer:
        request = analysis_pb2.QueryRequest(spec=spec_of(question), encoding=types_pb2.ENCODING_ARROW)
        async with QueryRead(self._connection, request) as running:
            batches = [batch async for batch in running]
            rows = pa.Table.from_batches(batches, running.schema)
            elapsed = running.end.elapsed.ToMicroseconds() / 1000
            return Answer(rows, dict(running.header.versions), elapsed_ms=elapsed)

    async def follow(
        self, question: Question, *, min_interval_ms: int
    ) -> AsyncGenerator[Answer | Interrupted | Resumed, None]:
        tries = 0
        while True:
            try:
                async with aclosing(self._frames(question, min_interval_ms)) as answers:
                    async for answer in answers:
                        tries = 0
                        yield answer
                failure: MillraceError = StreamAgedOut("the stream ended")
            except MillraceError as error:
                if not resumable(error):
                    raise
                failure = error
            tries += 1
            if tries == 1 and isinstance(failure, StreamAgedOut | StreamDraining):
                continue
            yield Interrupted(failure.reason, said(failure))
            await asyncio.sleep(random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**tries)))

    async def _frames(self, question: Question, min_interval_ms: int) -> AsyncGenerator[Answer, None]:
        request = analysis_pb2.SubscribeRequest(spec=spec_of(question), encoding=types_pb2.ENCODING_ARROW)
        subscribe_request(request, min_interval_s=max(0.05, min_interval_ms / 1000))
        began, elapsed_ms = time.monotonic(), 0.0
        async with Subscription(self._connection, request, tries=1) as subscription:
            async for frame in subscription:
                elapsed_ms = elapsed_ms or (time.monotonic() - began) * 1000
                yield _answer(frame, elapsed_ms)

    async def forecast(self, ask: ForecastAsk) -> Answer:
        request = statistics_pb2.ForecastSeriesRequest(
            observations=statistics_pb2.Observations(spec=spec_of(ask.question)),
            time=ask.time,
            value=ask.value,
            horizon=ask.horizon,
            levels=[ask.level],
            season_length=ask.season_length,
            encoding=types_pb2.ENCODING_ARROW,
        )
        found = _Forecast()
        stream: Stream[statistics_pb2.ForecastSeriesResponse] = Stream(
            lambda: self._stub.ForecastSeries(
                request, metadata=self._connection.metadata(), timeout=STATISTICS_DEADLINE_S
            ),
            tries=2,
        )
        async with stream:
            async for message in stream:
                if await found.take(message):
                    stream.finish()
        return found.answer(ask)


def said(failure: MillraceError) -> str:
    """For people: what a transport says about itself (addresses, codes) is for the log."""
    return "the connection broke" if failure.reason == "TRANSPORT" else failure.message


def _answer(frame: Frame, elapsed_ms: float) -> Answer:
    return Answer(frame.table, frame.versions, frame.commit_time, frame.event_time_high, elapsed_ms)


class _Forecast:
    """Collects a forecast's messages."""

    def __init__(self) -> None:
        self._schema = pa.schema([])
        self._versions: dict[str, int] = {}
        self._batches: list[pa.RecordBatch] = []
        self._error = ""

    async def take(self, message: statistics_pb2.ForecastSeriesResponse) -> bool:
        """True at the explicit end."""
        match message.WhichOneof("message"):
            case "header":
                self._schema = schema_from_proto(message.header.schema)
                self._versions = dict(message.header.versions)
                self._batches.clear()
            case "batch":
                self._batches.append(await decoded(message.batch, self._schema, types_pb2.COMPRESSION_NONE))
            case "status":
                self._error = "" if message.status.ok else message.status.error
            case "end":
                return True
        return False

    def answer(self, ask: ForecastAsk) -> Answer:
        if self._error:
            raise FieldInvalid(f"the series cannot be forecast: {self._error}", field="observations")
        rows = pa.Table.from_batches(self._batches, self._schema)
        names = {name.partition("_")[0]: name for name in rows.column_names if name.startswith(("low_", "high_"))}
        renamed = {ask.time: "time", names.get("low", "low"): "low", names.get("high", "high"): "high"}
        return Answer(rows.rename_columns([renamed.get(name, name) for name in rows.column_names]), self._versions)
