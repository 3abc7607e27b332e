"""The page with everything behind it in memory: what the browser tests open, and `python -m tests.browser.stage` to look at it by hand."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from millrace.pipeline.document import Problems
from millrace.pipeline.messages import fill
from millrace.viz.v1.dashboard_pb2 import DashboardSpec
from svc_viz.adapters.memory.answers import MemoryAnswers
from svc_viz.adapters.memory.catalog import MemoryCatalog
from svc_viz.adapters.page.server import PageServer
from svc_viz.convert.dashboards import spec_from
from svc_viz.domain.board import NoticeBoard
from svc_viz.domain.hub import Hub
from svc_viz.ports import Dashboard, PipelineFacts, SourceFacts, TableFacts, TransformFacts, World
from tests.browser.flights import dead_letters, departures

FILE = Path(__file__).parents[2] / "examples" / "flights" / "dashboard.yaml"
DASHBOARD = "namespaces/default/dashboards/flights"
TABLE = "namespaces/default/tables/departures"
FLIGHTS = "namespaces/default/tables/flights"
DEAD = f"{FLIGHTS}$dead_letters"
START = datetime(2013, 6, 1, tzinfo=UTC)


def demo_dashboard(path: Path = FILE) -> Dashboard:
    """The demo's own file, through the same reading as `millrace apply`."""
    document = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    assert isinstance(document, yaml.MappingNode)
    node = next(value for key, value in document.value if key.value == "spec")
    problems = Problems(str(path))
    spec = fill(DashboardSpec(), node, "spec", problems)
    problems.raise_any()
    return Dashboard(DASHBOARD, spec_from(spec), owner="local")


def kinds_of(rows: pa.Table) -> dict[str, str]:
    def kind(of: pa.DataType) -> str:
        if pa.types.is_floating(of):
            return "float"
        return "int" if pa.types.is_integer(of) else "timestamp" if pa.types.is_timestamp(of) else "string"

    return {one.name: kind(one.type) for one in rows.schema}


@dataclass
class Stage:
    """`past` is loaded at once, `future` is what `play` appends."""

    answers: MemoryAnswers
    catalog: MemoryCatalog
    board: NoticeBoard
    hub: Hub
    page: PageServer
    future: pa.Table
    played: int = 0
    rate: float = 0.0
    state: str = "running"
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def key_url(self) -> str:
        return f"{self.page.url}?key={self.page.key}"

    async def commit(self, rows: int) -> None:
        """The next rows become visible."""
        batch = self.future.slice(self.played, rows)
        self.played += batch.num_rows
        if batch.num_rows:
            await self.answers.append(TABLE, batch)
        self.rate = rows
        self.tell()

    async def play(self, rows: int = 8, every_s: float = 0.5) -> None:
        while True:
            await self.commit(rows)
            self.rate = rows / every_s
            await asyncio.sleep(every_s)

    def tell(self) -> None:
        """The board's facts, from what is in memory."""
        rows = self.answers.table(TABLE)
        facts = TableFacts(
            version=7000 + self.played,
            row_count=rows.num_rows,
            commit_time=datetime.now(UTC),
            event_time_high=pc.max(rows["sched_dep"]).as_py(),
            event_time_column="sched_dep",
            columns=kinds_of(rows),
        )
        dead = self.answers.table(DEAD)
        flights = replace(facts, dead_letters=dead.num_rows, columns={})
        world = World(
            pipelines={
                "namespaces/default/pipelines/flights": PipelineFacts(
                    "Departures from New York",
                    "Flights of 2013, checked, joined to their airline.",
                    (FLIGHTS, TABLE),
                    ("namespaces/default/sources/flights",),
                    ("namespaces/default/transforms/departures",),
                    (DASHBOARD,),
                )
            },
            sources={
                "namespaces/default/sources/flights": SourceFacts(
                    FLIGHTS, self.state, rows_per_second=self.rate, rows_written=rows.num_rows
                )
            },
            transforms={
                "namespaces/default/transforms/departures": TransformFacts(TABLE, "idle", "", {FLIGHTS: facts.version})
            },
            tables={TABLE: facts, FLIGHTS: flights, DEAD: TableFacts(1, dead.num_rows, columns=kinds_of(dead))},
            unreachable="",
        )
        self.catalog.show(world)


@asynccontextmanager
async def staged(
    past: pa.Table, future: pa.Table, home: Path, *, port: int = 0, dashboard: Dashboard | None = None
) -> AsyncIterator[Stage]:
    answers = MemoryAnswers({TABLE: past, DEAD: dead_letters()}, {TABLE: "sched_dep"})
    shown = dashboard or demo_dashboard()
    board, hub = NoticeBoard(), Hub(answers, lambda: datetime.now(UTC))
    catalog = MemoryCatalog({shown.name: shown})
    page = PageServer(board, hub, home=home, host="127.0.0.1", port=port)
    stage = Stage(answers, catalog, board, hub, page, future)
    stage.tell()
    watching = asyncio.create_task(catalog.run(board))
    await asyncio.sleep(0)
    await page.start()
    try:
        yield stage
    finally:
        for task in (*stage.tasks, watching):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await page.stop()
        await hub.close()


def cut(rows: pa.Table, at: datetime) -> tuple[pa.Table, pa.Table]:
    before = pc.less(rows["sched_dep"], pa.scalar(at, rows["sched_dep"].type))
    return rows.filter(before), rows.filter(pc.invert(before))


async def main() -> None:
    parser = argparse.ArgumentParser(description="the page with everything behind it in memory")
    parser.add_argument("--port", type=int, default=7490)
    parser.add_argument(
        "--rows", type=Path, help="Parquet with the columns of tests/browser/flights.py instead of seeded rows"
    )
    parser.add_argument("--live-from", default="2013-07-09T02:00:00+00:00")
    given = parser.parse_args()
    if given.rows:
        rows = pa.parquet.read_table(given.rows)  # type: ignore[attr-defined]
    else:
        rows = departures(START, 60)
    past, future = cut(rows, datetime.fromisoformat(given.live_from))
    async with staged(past, future, Path(tempfile.mkdtemp()), port=given.port) as stage:
        print(stage.key_url, flush=True)
        await stage.play()


if __name__ == "__main__":
    import pyarrow.parquet

    asyncio.run(main())
