"""Extract with memory adapters: the whole service without storage, in one test's loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millrace.extract.v1 import extract_pb2 as pb
from svc_extract.adapters.clock import SystemClock
from svc_extract.adapters.connectors.files.connector import FilesConnector
from svc_extract.adapters.connectors.files.listing import Roots
from svc_extract.adapters.connectors.push import PushConnector
from svc_extract.adapters.connectors.replay.connector import ReplayConnector
from svc_extract.adapters.memory.catalog import MemoryCatalog
from svc_extract.adapters.memory.leases import MemoryLeases
from svc_extract.adapters.memory.tables import MemoryTable, MemoryTables
from svc_extract.domain.runs import Runs, RunWish
from svc_extract.domain.session import Tools
from svc_extract.domain.sources import Sources
from svc_extract.domain.supervisor import Supervisor
from svc_extract.ports import Finished, RunEvent, RunMode, Source, SourceSpec, SourceStatus, WorkState

TABLE, SOURCE = "namespaces/default/tables/orders", "namespaces/default/sources/orders"
SCHEMA = pa.schema(
    [pa.field("id", pa.int64(), nullable=False), pa.field("name", pa.string()), pa.field("price", pa.float64())]
)
LIMIT_S = 30.0


@dataclass(slots=True)
class World:
    """Everything around one table `orders`. `restart` is what a process that died leaves to the next."""

    folder: Path
    clock: SystemClock
    leases: MemoryLeases
    tables: MemoryTables
    table: MemoryTable
    catalog: MemoryCatalog
    sources: Sources
    runs: Runs
    tools: Tools

    async def put(self, spec: SourceSpec, name: str = SOURCE) -> Source:
        return await self.sources.put(
            Source(name=name, spec=spec), request_id=f"put-{id(spec)}-{self.clock.now_us()}", owner="local"
        )

    async def run(self, request_id: str, **wish: Any) -> list[RunEvent]:
        """Asks for a run and follows it to its end."""
        run = await self.runs.start(RunWish(source=SOURCE, request_id=request_id, **wish))
        async with asyncio.timeout(LIMIT_S), aclosing(self.runs.follow(run, after_sequence=0)) as events:
            return [event async for event in events]

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Supervisor]:
        supervisor = Supervisor(self.tools, self.leases)
        task = asyncio.create_task(supervisor.run())
        try:
            yield supervisor
        finally:
            await supervisor.drain()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, true: Callable[[], bool] | Callable[[], Awaitable[bool]], limit_s: float = LIMIT_S) -> None:
        async with asyncio.timeout(limit_s):
            while True:
                answer = true()
                if (await answer) if asyncio.iscoroutine(answer) else answer:
                    return
                await asyncio.sleep(0.02)

    def status(self) -> SourceStatus:
        """As stored; the default before the source was put."""
        found = self.catalog._sources.get(SOURCE)
        return found.status if found else SourceStatus()

    async def state(self, state: WorkState) -> Source:
        """Waits until the source is in `state`."""

        async def there() -> bool:
            return (await self.catalog.source(SOURCE)).status.state is state

        await self.until(there)
        return await self.catalog.source(SOURCE)


def make_world(folder: Path, schema: pa.Schema = SCHEMA, *, event_time_column: str = "") -> World:
    clock, leases = SystemClock(), MemoryLeases()
    tables = MemoryTables(clock, leases.current_epoch)
    table = tables.create(TABLE, schema, event_time_column=event_time_column)
    catalog = MemoryCatalog(clock, leases.current_epoch)
    roots = Roots((folder.resolve(),), folder)
    connectors: dict[str, Any] = {
        one.info.name: one for one in (FilesConnector(roots, clock), ReplayConnector(roots, clock), PushConnector())
    }
    sources = Sources(catalog, tables, connectors)
    tools = Tools(connectors, tables, tables, catalog, clock, "extract@test")
    return World(folder, clock, leases, tables, table, catalog, sources, Runs(catalog, sources, clock), tools)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def files(
    folder: Path, pattern: str, *, continuous: bool = False, csv: dict[str, Any] | None = None, **rest: Any
) -> SourceSpec:
    message = pb.FilesConnector(path=str(folder / pattern), csv=pb.CsvOptions(**(csv or {})), **rest)
    message.poll_interval.FromMilliseconds(100)
    return SourceSpec(table=TABLE, connector="files", options=message, continuous=continuous)


def finished(events: list[RunEvent]) -> Finished:
    last = events[-1].what
    assert isinstance(last, Finished)
    return last


ONCE, CAUGHT_UP = RunMode.ONCE, RunMode.UNTIL_CAUGHT_UP
