"""A storage without network that exports a table, imports it, and exports the copy, until it is killed. Run by test_transfer_kill.py.

    python -m tests.chaos.transfer_child FOLDER

Prints `same` when both exports have the same checksums, `done` at the end.
"""

from __future__ import annotations

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from svc_storage.adapters.archive.folder import FolderArchive
from svc_storage.adapters.clock import SystemClock
from svc_storage.domain.definition import define
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.transfer import exporting
from svc_storage.domain.transfer.archive import MANIFEST, Manifest
from svc_storage.domain.transfer.exporting import Export, spans
from svc_storage.domain.transfer.importing import Import, ImportOf
from svc_storage.domain.writing.appending import OpenRequest
from svc_storage.ports import Archive, RequestMark
from tests.chaos.storage_child import say, start
from tests.contract.storage.backends import NAME, SCHEMA, ids, incoming

COPY, UID = NAME + "_copy", "c" * 32
ROWS = 60


async def work(folder: Path) -> None:
    exporting.spans = lambda files, size=11: spans(files, size)
    pool, clock = ThreadPoolExecutor(2), SystemClock()
    storage = await start(folder / "data", define(SCHEMA, event_time_column="at"))
    archive = FolderArchive(folder / "archive")
    table = await filled(storage.table)
    first = await export(table, archive, "first", pool)
    what = ImportOf("first", COPY, UID)
    if await storage.catalog.get_table(COPY) is None:
        job = Import(what, archive, storage.backend, storage.catalog, clock, pool)
        async for _ in job.run(RequestMark("import", "tester", "f")):
            pass
    copy = await storage.opened.table(COPY)
    again = await export(copy, archive, "again", pool)
    if [part.sha256 for part in first.rows] == [part.sha256 for part in again.rows] and ids(copy) == list(range(ROWS)):
        say("same")
    await storage.close()
    say("done")


async def filled(table: OpenTable) -> OpenTable:
    stream = await table.committer.open(OpenRequest(writer="w", epoch=0, principal="tester"))
    for offset in range(stream.next_offset, ROWS, 10):
        await stream.append(incoming(offset, 10))
        await stream.settle()
    await stream.finish()
    return table


async def export(table: OpenTable, archive: Archive, to: str, pool: ThreadPoolExecutor) -> Manifest:
    head = table.versions.head
    if (content := archive.get(f"{to}/{MANIFEST}")) is None:
        # A writer that opens again moves the version: what was begun stays at its own.
        job = archive.get(f"{to}/job.json")
        version = int(json.loads(job)["version"]) if job else head.version
        async for _ in Export(table.row, table.versions.at(version), table.files, archive, to, pool).run():
            pass
        content = archive.get(f"{to}/{MANIFEST}")
    return Manifest.from_bytes(content or b"")


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1])))
