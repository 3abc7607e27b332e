"""Every question of the demo's dashboard, asked of analysis over real storage and of the memory adapter: the same answers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millrace.client.session import Client
from millrace.errors import FixRequest, Missing
from millrace.server.runtime import ServiceSpec
from millrace.server.testing import Served, running
from svc_analysis.__main__ import compose as compose_analysis
from svc_analysis.config import Settings as AnalysisSettings
from svc_storage.__main__ import compose as compose_storage
from svc_storage.config import Settings as StorageSettings
from svc_viz.adapters.analysis.answers import AnalysisAnswers
from svc_viz.adapters.memory.answers import MemoryAnswers
from svc_viz.domain.compiling import Compiler
from svc_viz.domain.state import decode
from svc_viz.domain.validation import ASKING
from svc_viz.ports import Answer, Answers, ForecastAsk, Interrupted, Question, Resumed, TableFacts
from tests.browser.flights import departures
from tests.browser.stage import TABLE, demo_dashboard, kinds_of

ROWS = departures(datetime(2013, 6, 3, tzinfo=UTC), 12, per_day=120)
DASHBOARD = demo_dashboard()
STATES = [
    "",
    "range=all",
    "origin=EWR&hour=8..20",
    "hist=40..145&zone=UTC",
    "hist=-20..0&carriers=JetBlue Airways&range=last 7d",
]


@dataclass
class Both:
    """The same rows behind two adapters."""

    memory: MemoryAnswers
    real: AnalysisAnswers
    client: Client
    analysis: Served


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    storage_env = {"MILLRACE_STORAGE_DATA_DIR": str(tmp_path / "data"), "MILLRACE_STORAGE_DIRECT_FILES": "true"}
    analysis_env = {"MILLRACE_HOME": str(tmp_path)}
    async with AsyncExitStack() as stack:
        storage_spec = ServiceSpec(name="storage", settings=StorageSettings.from_env, compose=compose_storage)
        storage = await stack.enter_async_context(running(storage_spec, storage_env, home=tmp_path))
        spec = ServiceSpec(name="analysis", settings=AnalysisSettings.from_env, compose=compose_analysis)
        analysis = await stack.enter_async_context(
            running(spec, analysis_env, home=tmp_path, targets={"storage": storage.target})
        )
        client = await stack.enter_async_context(
            Client.find(token="local-token", storage=storage.target, analysis=analysis.target)
        )
        await client.create_table("departures", ROWS.schema, event_time_column="sched_dep")
        await client.table("departures").append(ROWS)
        memory = MemoryAnswers({TABLE: ROWS}, {TABLE: "sched_dep"})
        yield Both(memory, AnalysisAnswers(client.connection("analysis")), client, analysis)


def questions(text: str) -> dict[str, Question]:
    state, problems = decode(text, DASHBOARD.spec)
    assert not problems
    compiler = Compiler(DASHBOARD, state, {TABLE: TableFacts(columns=kinds_of(ROWS))})
    found = {}
    for name, element in DASHBOARD.spec.elements.items():
        if element.kind in ASKING and "$" not in DASHBOARD.spec.queries[element.query].table:
            found[name] = compiler.question(name)
            if element.compare:
                found[f"{name} before"] = compiler.before(name)
            if element.sparkline:
                found[f"{name} spark"] = compiler.spark(name)
    return found


def plain(rows: pa.Table) -> list[tuple[Any, ...]]:
    """Rows in a fixed order, numbers to nine digits."""

    def cell(value: Any) -> Any:
        if isinstance(value, float):
            return None if math.isnan(value) else float(f"{value:.9g}")
        return value

    names = sorted(rows.column_names)
    return sorted((tuple(cell(row[name]) for name in names) for row in rows.to_pylist()), key=repr)


async def test_both_answer_every_question_alike(both: Both) -> None:
    for text in STATES:
        for name, question in questions(text).items():
            wanted, found = await both.memory.query(question), await both.real.query(question)
            assert sorted(found.rows.column_names) == sorted(wanted.rows.column_names), (text, name)
            assert plain(found.rows) == plain(wanted.rows), (text, name)
            assert set(found.versions) == {TABLE}


async def first(answers: Answers, question: Question) -> Answer:
    async with aclosing(answers.follow(question, min_interval_ms=50)) as events:
        async for event in events:
            assert isinstance(event, Answer)
            return event
    raise AssertionError("no answer")


async def test_a_followed_question_moves_with_its_table_and_outlives_a_break(both: Both) -> None:
    question = questions("")["selected"]
    seen: list[Answer | Interrupted | Resumed] = []

    async def follow() -> None:
        async with aclosing(both.real.follow(question, min_interval_ms=50)) as events:
            async for event in events:
                seen.append(event)

    following = asyncio.create_task(follow())

    async def until(wanted: type, count: int) -> None:
        async with asyncio.timeout(20):
            while sum(isinstance(one, wanted) for one in seen) < count:
                await asyncio.sleep(0.01)

    await until(Answer, 1)
    start = seen[0]
    assert isinstance(start, Answer)
    assert start.event_time_high == ROWS["sched_dep"][-1].as_py()
    later = ROWS.slice(ROWS.num_rows - 1).set_column(
        0, "sched_dep", pa.array([ROWS["sched_dep"][-1].as_py() + timedelta(minutes=1)], ROWS.schema.field(0).type)
    )
    await both.client.table("departures").append(later)
    await until(Answer, 2)
    newest = seen[-1]
    assert isinstance(newest, Answer)
    assert newest.versions[TABLE] > start.versions[TABLE]
    assert newest.commit_time is not None
    following.cancel()


async def test_a_forecast_has_a_row_per_step_with_bounds_around_it(both: Both) -> None:
    compiler = Compiler(DASHBOARD, decode("", DASHBOARD.spec)[0], {})
    end = ROWS["sched_dep"][-1].as_py().replace(minute=0, second=0, microsecond=0)
    question = compiler.history("ts", end)
    assert question is not None
    for answers in (both.memory, both.real):
        found = (await answers.forecast(ForecastAsk(question, "time", "n", 6, 0.8, 24))).rows
        assert {"time", "mean", "low", "high"} <= set(found.column_names)
        assert [(at - end) / timedelta(hours=1) for at in found["time"].to_pylist()] == [0, 1, 2, 3, 4, 5]
        assert all(
            low <= mean <= high
            for low, mean, high in zip(*(found[name].to_pylist() for name in ("low", "mean", "high")), strict=True)
        )


async def test_what_repeating_cannot_mend_is_raised(both: Both) -> None:
    for answers in (both.memory, both.real):
        with pytest.raises((Missing, FixRequest)):
            await first(answers, Question("namespaces/default/tables/none", limit=1))
