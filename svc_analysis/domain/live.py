"""Live questions: computed once per change for all who ask the same, newest version first and last."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Hashable, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from millrace.errors import (
    MillraceError,
    ResultTooLarge,
    RetryLater,
    TableNotFound,
    TableRecreated,
    Unexpected,
    VersionExpired,
    VersionInFuture,
)
from svc_analysis.domain import background
from svc_analysis.domain.frames import Frame
from svc_analysis.domain.question import Plan, Planner, Question
from svc_analysis.domain.watching import TableWatch, Watches
from svc_analysis.ports import Engine, Spans

_log = logging.getLogger(__name__)

_MOVED = (TableNotFound, TableRecreated, VersionExpired, VersionInFuture)
"""The tables moved while they were read: look again. Whether one is gone for good, its watch says."""


@dataclass(frozen=True, slots=True)
class LiveQuestion:
    """What is computed. Equal `question.fingerprint`s are computed once."""

    question: Question
    max_rows: int
    deterministic: bool

    @property
    def key(self) -> Hashable:
        return (self.question.fingerprint, self.max_rows, self.deterministic)


class Computation:
    """One live question. `latest` is its newest frame, `failure` why there will be no other; `changed` is renewed with each."""

    def __init__(
        self,
        asked: LiveQuestion,
        tables: tuple[str, ...],
        planner: Planner,
        engine: Engine,
        watches: Watches,
        spans: Spans,
    ) -> None:
        self.asked, self.tables = asked, tables
        self.latest: Frame | None = None
        self.failure: MillraceError | None = None
        self.changed = asyncio.Event()
        self.runs = 0
        self._planner, self._engine, self._watches, self._spans = planner, engine, watches, spans
        self._intervals: dict[object, float] = {}
        self._joined = asyncio.Event()
        self._task = background.start(self._run(), "live question")

    def join(self, who: object, min_interval_s: float) -> None:
        self._intervals[who] = min_interval_s
        self._joined.set()

    def leave(self, who: object) -> None:
        self._intervals.pop(who, None)

    @property
    def followers(self) -> int:
        return len(self._intervals)

    async def close(self) -> None:
        await background.stop(self._task)

    def _tell(self) -> None:
        told, self.changed = self.changed, asyncio.Event()
        told.set()

    async def _run(self) -> None:
        try:
            await self._follow()
        except MillraceError as error:
            self.failure = error
        except Exception as error:
            _log.exception("a live question broke")
            self.failure = Unexpected("the live question broke")
            self.failure.__cause__ = error
        self._tell()

    async def _follow(self) -> None:
        moved = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            watches = [await stack.enter_async_context(self._watches.follow(name, moved)) for name in self.tables]
            if not watches:
                moved.set()  # a question without tables has one answer
            pauses = background.Pauses()
            while True:
                await moved.wait()
                moved.clear()
                for watch in watches:
                    if watch.failure is not None:
                        raise watch.failure
                if any(watch.latest is None for watch in watches):
                    continue
                began = time.monotonic()
                try:
                    await self._compute(watches)
                    pauses.worked()
                except _MOVED:
                    moved.set()
                    await asyncio.sleep(0.05)
                except RetryLater as error:
                    moved.set()
                    await pauses.after(error)
                await self._rest(began)

    async def _rest(self, began: float) -> None:
        """The next one begins `min_interval` after this one began; the first after a quiet time begins at once."""
        while (pause := began + min(self._intervals.values(), default=0.25) - time.monotonic()) > 0:
            self._joined.clear()  # who joins may be in more of a hurry
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._joined.wait(), pause)

    async def _compute(self, watches: list[TableWatch]) -> None:
        states = {watch.name: watch.latest for watch in watches if watch.latest is not None}
        versions = {name: state.version for name, state in states.items()}
        uids = {name: state.uid for name, state in states.items()}
        if self.latest is not None and (self.latest.versions, self.latest.uids) == (versions, uids):
            return
        landed = {watch.name: watch.landed for watch in watches}
        began = time.monotonic()
        with self._spans.caused("live question", [state.trace_context for state in states.values()]):
            plan = await self._planner.plan(replace(self.asked.question, versions=versions, uids=uids))
            table = await self._rows(plan)
        self.runs += 1
        times = [state.commit_time_us for state in states.values() if state.commit_time_us is not None]
        highs = [state.event_time_high_us for state in states.values() if state.event_time_high_us is not None]
        self.latest = Frame(
            table=table,
            versions=versions,
            uids=uids,
            landed=landed,
            elapsed_s=time.monotonic() - began,
            commit_time_us=max(times, default=None),
            event_time_high_us=max(highs, default=None),
        )
        self._tell()

    async def _rows(self, plan: Plan) -> pa.Table:
        batches: list[pa.RecordBatch] = []
        rows = 0
        opened = self._engine.open(plan.statement, plan.tables, deterministic=self.asked.deterministic)
        async with opened as result:
            async for batch in result:
                rows += batch.num_rows
                if rows > self.asked.max_rows:
                    raise ResultTooLarge(
                        f"the result has more than {self.asked.max_rows} rows",
                        field="max_rows",
                        hint="group more, filter more, or raise max_rows",
                    )
                batches.append(batch)
            return pa.Table.from_batches(batches, result.schema)


class LiveQuestions:
    """All live questions of this process."""

    def __init__(self, planner: Planner, engine: Engine, watches: Watches, spans: Spans) -> None:
        self._planner, self._engine, self._watches, self._spans = planner, engine, watches, spans
        self._open: dict[Hashable, Computation] = {}

    def __len__(self) -> int:
        return len(self._open)

    def counters(self) -> Mapping[str, float]:
        """For GetStatus."""
        followers = sum(computation.followers for computation in self._open.values())
        return {"live_questions": len(self._open), "subscribers": followers, "tables_watched": len(self._watches)}

    @contextlib.asynccontextmanager
    async def follow(self, asked: LiveQuestion, min_interval_s: float) -> AsyncIterator[Computation]:
        """The computation of `asked`, shared with all who ask the same; the last one to leave ends it."""
        tables = await self._planner.tables_of(asked.question)
        computation = self._open.get(asked.key)
        if computation is None or computation.failure is not None:
            computation = Computation(asked, tables, self._planner, self._engine, self._watches, self._spans)
            self._open[asked.key] = computation
        who = object()
        computation.join(who, min_interval_s)
        try:
            yield computation
        finally:
            computation.leave(who)
            if not computation.followers:
                if self._open.get(asked.key) is computation:
                    del self._open[asked.key]
                await computation.close()
