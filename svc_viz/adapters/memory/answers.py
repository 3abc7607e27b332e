"""Answers from tables in memory, computed by DuckDB: for tests, screenshots and work on the page without the other services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from time import perf_counter

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millrace.errors import FieldInvalid, MillraceError, TableNotFound
from svc_viz.adapters.memory.questions import Sql
from svc_viz.ports import Answer, ForecastAsk, Interrupted, Question, Resumed


class MemoryAnswers:
    """`tables`: full name -> rows; `event_time`: full name -> its time column. `append` is a commit: followers see it."""

    def __init__(self, tables: Mapping[str, pa.Table], event_time: Mapping[str, str] | None = None) -> None:
        self._tables, self._event_time = dict(tables), dict(event_time or {})
        self._versions = dict.fromkeys(tables, 1)
        self._commits: dict[str, datetime] = {}
        self._changed = asyncio.Condition()
        self._connection = duckdb.connect(config={"threads": 1})
        self._connection.execute("SET TimeZone = 'UTC'")
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="duckdb"
        )  # beside the loop: pages stay alive while it computes
        self._down: MillraceError | None = None
        self.asked = 0

    async def append(self, table: str, rows: pa.Table) -> None:
        """One commit."""
        async with self._changed:
            self._tables[table] = pa.concat_tables([self._tables[table], rows])
            self._versions[table] += 1
            self._commits[table] = datetime.now(UTC)
            self._changed.notify_all()

    async def fail(self, error: MillraceError | None) -> None:
        """From now on nobody is answered, until `fail(None)`."""
        async with self._changed:
            self._down = error
            self._changed.notify_all()

    def table(self, name: str) -> pa.Table:
        return self._tables[name]

    async def query(self, question: Question) -> Answer:
        if self._down is not None:
            raise self._down
        return await self._computed(question)

    async def follow(
        self, question: Question, *, min_interval_ms: int
    ) -> AsyncGenerator[Answer | Interrupted | Resumed, None]:
        seen, down = 0, False
        while True:
            async with self._changed:
                await self._changed.wait_for(partial(self._is_news, question, seen, down))
            if self._down is not None:
                down = True
                yield Interrupted(self._down.reason, self._down.message)
                continue
            if down:
                down = False
                yield Resumed()
            seen = self._versions.get(question.table, 0)
            yield await self._computed(question)
            await asyncio.sleep(min_interval_ms / 1000)

    def _is_news(self, question: Question, seen: int, down: bool) -> bool:
        if self._down is not None:
            return not down
        return down or self._versions.get(question.table, -1) != seen

    async def _computed(self, question: Question) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, question)

    def _answer(self, question: Question) -> Answer:
        self.asked += 1
        if question.table not in self._tables:
            raise TableNotFound(f"there is no table {question.table}")
        began, source = perf_counter(), self._tables[question.table]
        sql = Sql(question, self._event_time.get(question.table, ""))
        cursor = self._connection.cursor()
        cursor.register("source", source)
        try:
            rows = cursor.sql(sql.text(), params=sql.params).to_arrow_table()
        except duckdb.Error as error:
            raise FieldInvalid(str(error).splitlines()[0], field="spec") from error
        time = question.time_column or self._event_time.get(question.table, "")
        high = pc.max(source[time]).as_py() if time and source.num_rows else None
        commit = self._commits.get(question.table)
        return Answer(
            rows, {question.table: self._versions[question.table]}, commit, high, (perf_counter() - began) * 1000
        )

    async def forecast(self, ask: ForecastAsk) -> Answer:
        """Seasonal naive with the spread of its own past errors."""
        history = await self.query(ask.question)
        y = history.rows[ask.value].cast(pa.float64()).to_numpy()
        season = min(ask.season_length, max(1, len(y) // 2))
        if len(y) < 2:
            raise FieldInvalid("the series is too short to forecast", field="observations")
        last = np.resize(y[-season:], ask.horizon)
        spread = 1.28 * float(np.std(y[season:] - y[:-season])) if len(y) > season else 0.0
        times = history.rows[ask.time].to_pylist()
        step: timedelta = times[-1] - times[-2]
        rows = pa.table(
            {
                "time": pa.array([times[-1] + step * (i + 1) for i in range(ask.horizon)], history.rows[ask.time].type),
                "mean": last,
                "low": last - spread,
                "high": last + spread,
            }
        )
        return Answer(rows, history.versions)
