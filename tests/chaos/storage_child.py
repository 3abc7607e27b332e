"""A storage without network that appends 0, 1, 2, … to one table until it is killed. Run by test_storage_kill.py.

    python -m tests.chaos.storage_child FOLDER TARGET [PLANTED_BUG]

Prints `opened N POSITION`, then `ack N` for every acknowledged offset, `done` at the end.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from svc_storage.adapters import disk
from svc_storage.adapters.clock import SystemClock
from svc_storage.adapters.delta.backend import DeltaBackend
from svc_storage.adapters.sqlite.store import SqliteControl
from svc_storage.domain import compaction
from svc_storage.domain.appending import AppendStream, OpenRequest
from svc_storage.domain.catalog import TableRows
from svc_storage.domain.definition import define
from svc_storage.domain.leases import Leases
from svc_storage.domain.opened import Opened
from svc_storage.domain.tables import Tables
from svc_storage.domain.upkeep import Policy, Upkeep
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


async def work(folder: Path, target: int) -> None:
    compaction.FAN_IN = 4
    clock, pool = SystemClock(), ThreadPoolExecutor(2)
    disk.make_folder(folder / "tables")
    backend = DeltaBackend(folder / "tables", pool)
    control = await SqliteControl.open(folder / "catalog.sqlite")
    leases, catalog = Leases(control, clock), TableRows(control, clock)
    opened = Opened(catalog, backend, leases, clock)
    tables = Tables(catalog, backend, opened, Nobody(), clock)
    await tables.create(NAME, define(SCHEMA, event_time_column="at"), RequestMark("create", "tester", "f"))
    table = await opened.table(NAME)
    upkeep = Upkeep(opened, catalog, backend, Nobody(), clock, POLICY)
    stream = await table.committer.open(OpenRequest(writer="w", epoch=0, principal="tester"))
    offset = stream.opened.next_offset
    say(f"opened {offset} {stream.opened.positions.get('file', 0)}")
    telling = asyncio.create_task(tell(stream))
    count = 0
    while offset < target:
        rows = min(ROWS, target - offset)
        await stream.append(incoming(offset, rows, positions={"file": str(offset + rows)}))
        offset += rows
        count += 1
        if count % 2 == 0:
            await stream.settle()
            await upkeep.tend(table)
    await stream.finish()
    await telling
    await opened.close()
    await control.close()
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
