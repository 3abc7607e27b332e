"""A storage without network that appends 0, 1, 2, … to one table until it is killed. Run by test_storage_kill.py.

    python -m tests.chaos.storage_child FOLDER TARGET [PLANTED_BUG]

Prints `opened N POSITION`, then `ack N` for every acknowledged offset, `done` at the end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from svc_storage.adapters import disk
from svc_storage.adapters.clock import SystemClock
from svc_storage.adapters.delta.backend import DeltaBackend
from svc_storage.adapters.sqlite.store import SqliteControl
from svc_storage.domain.control.catalog import TableRows
from svc_storage.domain.control.leases import Leases
from svc_storage.domain.definition import TableDefinition, define
from svc_storage.domain.opened import Opened, OpenTable
from svc_storage.domain.tables import Tables
from svc_storage.domain.upkeep import Policy, Upkeep
from svc_storage.domain.writing import compaction
from svc_storage.domain.writing.appending import AppendStream, Incoming, OpenRequest
from svc_storage.ports import RequestMark, Version
from tests.chaos.planted import plant
from tests.contract.storage.backends import NAME, SCHEMA, incoming

POLICY = Policy(checkpoint_every=9, keep_log_us=0, keep_versions=4, trim_every_us=0)
ROWS = 20


class Nobody:
    async def of(self, table: str) -> Sequence[str]:
        return ()

    async def slowest(self, table_uid: str) -> Version | None:
        return None


@dataclass(frozen=True, slots=True)
class Started:
    """A storage with one open table."""

    table: OpenTable
    upkeep: Upkeep
    opened: Opened
    control: SqliteControl
    catalog: TableRows
    backend: DeltaBackend

    async def close(self) -> None:
        await self.opened.close()
        await self.control.close()


async def start(folder: Path, definition: TableDefinition) -> Started:
    compaction.FAN_IN = 4
    clock, pool = SystemClock(), ThreadPoolExecutor(2)
    disk.make_folder(folder / "tables")
    backend = DeltaBackend(folder / "tables", pool)
    control = await SqliteControl.open(folder / "catalog.sqlite")
    leases, catalog = Leases(control, clock), TableRows(control, clock)
    opened = Opened(catalog, backend, leases, clock)
    tables = Tables(catalog, backend, opened, Nobody(), clock)
    await tables.create(NAME, definition, RequestMark("create", "tester", "f"))
    upkeep = Upkeep(opened, catalog, backend, Nobody(), clock, POLICY)
    return Started(await opened.table(NAME), upkeep, opened, control, catalog, backend)


async def work(folder: Path, target: int) -> None:
    storage = await start(folder, define(SCHEMA, event_time_column="at"))
    await feed(storage, OpenRequest(writer="w", epoch=0, principal="tester"), target, incoming)


async def feed(storage: Started, request: OpenRequest, target: int, make: Callable[..., Incoming]) -> None:
    """Sends rows up to `target` as `make(offset, rows, positions=…)` gives them, with upkeep now and then."""
    stream = await storage.table.committer.open(request)
    offset = stream.opened.next_offset
    say(f"opened {offset} {stream.opened.positions.get('file', 0)}")
    telling = asyncio.create_task(tell(stream))
    count = 0
    while offset < target:
        rows = min(ROWS, target - offset)
        await stream.append(make(offset, rows, positions={"file": str(offset + rows)}))
        offset += rows
        count += 1
        if count % 2 == 0:
            await stream.settle()
            await storage.upkeep.tend(storage.table)
    await stream.finish()
    await telling
    await storage.close()
    say("done")


async def tell(stream: AppendStream) -> None:
    while not stream.ended:
        if ack := await stream.next_event(5):
            say(f"ack {ack.next_offset}")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        plant(sys.argv[3])
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2])))
