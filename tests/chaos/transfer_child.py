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
from svc_storage.adapters.delta.store import open_local
from svc_storage.domain.control.catalog import TableRows
from svc_storage.domain.control.leases import Leases
from svc_storage.domain.definition import define
from svc_storage.domain.opened import Opened, OpenTable
from svc_storage.domain.tables import Tables
from svc_storage.domain.transfer import exporting
from svc_storage.domain.transfer.archive import MANIFEST, Manifest
from svc_storage.domain.transfer.exporting import Export, spans
from svc_storage.domain.transfer.importing import Import, ImportOf
from svc_storage.domain.writing.appending import OpenRequest
from svc_storage.ports import Archive, RequestMark
from tests.chaos.storage_child import Nobody, say
from tests.contract.storage.backends import NAME, SCHEMA, ids, incoming

COPY, UID = NAME + "_copy", "c" * 32
ROWS = 60


async def work(folder: Path) -> None:
    exporting.spans = lambda files, size=11: spans(files, size)
    pool, clock = ThreadPoolExecutor(2), SystemClock()
    store = await open_local(folder / "data", pool)
    archive = FolderArchive(folder / "archive")
    leases, catalog = Leases(store.control, clock), TableRows(store.control, clock)
    opened = Opened(catalog, store.backend, leases, clock)
    tables = Tables(catalog, store.backend, opened, Nobody(), clock)
    await tables.create(NAME, define(SCHEMA, event_time_column="at"), RequestMark("create", "tester", "f"))
    table = await filled(opened)
    first = await export(table, archive, "first", pool)
    what = ImportOf("first", COPY, UID)
    if await catalog.get_table(COPY) is None:
        job = Import(what, archive, store.backend, catalog, clock, pool)
        async for _ in job.run(RequestMark("import", "tester", "f")):
            pass
    copy = await opened.table(COPY)
    again = await export(copy, archive, "again", pool)
    if [part.sha256 for part in first.rows] == [part.sha256 for part in again.rows] and ids(copy) == list(range(ROWS)):
        say("same")
    await opened.close()
    await store.close()
    say("done")


async def filled(opened: Opened) -> OpenTable:
    table = await opened.table(NAME)
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
