"""A storage without network that fills a table, erases every seventh row of it, compacts, takes that back, and goes on where it was killed.

    python -m tests.chaos.maintenance_child FOLDER

Prints `erased N` (over all its lives, as the report says) and `done`. Run by test_maintenance_kill.py.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from svc_storage.adapters.clock import SystemClock
from svc_storage.domain.definition import define
from svc_storage.domain.maintenance.checking import Checker, CheckWish
from svc_storage.domain.maintenance.compacting import compact_all
from svc_storage.domain.maintenance.erasing import Erasure, TableEraser
from svc_storage.domain.maintenance.reporting import Heard
from svc_storage.domain.maintenance.restoring import restore
from svc_storage.domain.reading.predicates import In
from svc_storage.domain.writing.appending import OpenRequest
from tests.chaos.storage_child import Started, say, start
from tests.contract.storage.backends import SCHEMA, incoming

ROWS, PER_COMMIT = 200, 10
GONE = tuple(range(0, ROWS, 7))


async def work(folder: Path) -> None:
    storage = await start(folder, define(SCHEMA, event_time_column="at"))
    await fill(storage)
    table, clock, heard = storage.table, SystemClock(), Heard()
    what = Erasure(predicate=In("id", GONE), run="erase/", grace_us=3600 * 1_000_000, collect_us=0)
    report = await TableEraser(table, what, heard, clock).erase()
    say(f"erased {report.rows_erased}")
    before = table.head
    await compact_all(table, heard, clock, run="compact/")
    await restore(table, before, heard, clock, run="restore/", keep_files_us=24 * 3600 * 1_000_000)  # the same rows
    assert await Checker(table, CheckWish(), heard, clock).check(), heard.faults
    await storage.close()
    say("done")


async def fill(storage: Started) -> None:
    stream = await storage.table.committer.open(OpenRequest(writer="w", epoch=0, principal="tester"))
    for offset in range(stream.opened.next_offset, ROWS, PER_COMMIT):
        await stream.append(incoming(offset, PER_COMMIT))
        await stream.settle()
    await stream.finish()


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1])))
