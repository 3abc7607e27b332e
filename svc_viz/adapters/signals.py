"""How old an answer is when it reaches this process: wraps the port that brings answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime

from millrace.server import names
from millrace.server.telemetry import Telemetry
from svc_viz.ports import Answer, Answers, ForecastAsk, Interrupted, Question, Resumed


class Delays:
    """The instruments of pages, made once."""

    def __init__(self, telemetry: Telemetry, now: Callable[[], datetime]) -> None:
        self._now = now
        self._end_to_end = telemetry.seconds(
            names.END_TO_END_DELAY,
            "From the commit of the newest version that an answer covers to its arrival at a page's process.",
        )
        self._frames = telemetry.seconds(
            names.VIZ_FRAME_DELAY, "From a change's arrival in a page's session until the browser has painted it."
        )

    def answered(self, committed: datetime) -> None:
        self._end_to_end.record(max(0.0, (self._now() - committed).total_seconds()))

    def painted(self, seconds: float) -> None:
        self._frames.record(seconds)


class ObservedAnswers:
    """Implements `Answers`. The first answer of a question may be to old versions: only what comes live is measured."""

    def __init__(self, inner: Answers, delays: Delays) -> None:
        self._inner, self._delays = inner, delays

    async def query(self, question: Question) -> Answer:
        return await self._inner.query(question)

    async def follow(
        self, question: Question, *, min_interval_ms: int
    ) -> AsyncGenerator[Answer | Interrupted | Resumed, None]:
        live = False
        async with aclosing(self._inner.follow(question, min_interval_ms=min_interval_ms)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    if live and event.commit_time is not None:
                        self._delays.answered(event.commit_time)
                    live = True
                yield event

    async def forecast(self, ask: ForecastAsk) -> Answer:
        return await self._inner.forecast(ask)
