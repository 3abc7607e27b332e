"""ExportTable and ImportTable as tasks of a run: checked when they are asked, done by the worker that holds the table's lease."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from dataclasses import dataclass

from millrace import errors
from svc_storage.domain.maintenance.reporting import Done, TableReport, Teller
from svc_storage.domain.opened import Opened
from svc_storage.domain.transfer.archive import JOB, MANIFEST, Manifest, check_destination
from svc_storage.domain.transfer.exporting import Export, Moved
from svc_storage.domain.transfer.importing import Import, ImportOf
from svc_storage.ports import Archive, Backend, Catalog, Clock, RequestMark, TableView, Version

_IMPORTS = uuid.UUID("6f1f4a52-6d7c-4a35-9b53-0c9a1d0b7e21")


@dataclass(frozen=True, slots=True)
class ExportTask:
    """`destination`: a folder of the archive. `version` None: the newest when the run begins."""

    destination: str
    version: Version | None = None


@dataclass(frozen=True, slots=True)
class ImportTask:
    """`source`: a folder of the archive that holds a finished export."""

    source: str


class Transfers:
    """`archive` None: this storage has none, and says so. `pool`: for the archive's blocking work."""

    def __init__(
        self,
        opened: Opened,
        catalog: Catalog,
        backend: Backend,
        clock: Clock,
        pool: Executor,
        archive: Archive | None = None,
    ) -> None:
        self._opened, self._catalog, self._backend = opened, catalog, backend
        self._clock, self._pool, self._archive = clock, pool, archive

    async def check(self, table: str, task: ExportTask | ImportTask) -> None:
        """Raises BackendCapability without an archive, FieldInvalid, TableNotFound, VersionExpired, VersionInFuture, ResourceExists,
        FileMissing when there is no export at the source."""
        self._there()
        if isinstance(task, ExportTask):
            check_destination(task.destination, field="destination")
            view = await self._opened.view(table)
            await view.snapshot(task.version)
            return
        check_destination(task.source, field="source")
        if await self._catalog.get_table(table) is not None:
            raise errors.ResourceExists(f"`{table}` exists", field="table", hint="choose another name")
        await self._importing(table, task, "").manifest()

    async def run(self, table: str, task: ExportTask | ImportTask, teller: Teller, *, run: str, principal: str) -> None:
        """Raises what ends the run."""
        if isinstance(task, ExportTask):
            await self._export(table, task, teller)
            return
        work = self._importing(table, task, run)
        request = RequestMark(f"import/{run}", principal, "import")
        await _tell(work.run(request), teller)
        stored = await self._opened.view(table)
        await teller.report(
            TableReport(table=table, version=stored.head, notes=(f"imported from `{task.source}`",), verified=True)
        )

    async def _export(self, table: str, task: ExportTask, teller: Teller) -> None:
        archive = self._there()
        view = await self._opened.view(table)
        version = task.version
        if version is None:
            version = self._begun(view, archive, task.destination)
        snapshot = await view.snapshot(version)
        view.note_planned(snapshot.version)
        await _tell(Export(view.row, snapshot, view.files, archive, task.destination, self._pool).run(), teller)
        content = archive.get(f"{task.destination}/{MANIFEST}")
        parts = Manifest.from_bytes(content or b"").rows
        notes = (f"{sum(part.row_count for part in parts)} rows in {len(parts)} files of `{task.destination}`",)
        await teller.report(TableReport(table=table, version=snapshot.version, notes=notes))

    def _begun(self, view: TableView, archive: Archive, destination: str) -> Version:
        """The version of an export that was broken off, else the newest."""
        found = archive.get(f"{destination}/{JOB}")
        job = json.loads(found) if found else {}
        return int(job["version"]) if job.get("uid") == view.row.uid else view.head

    def _importing(self, table: str, task: ImportTask, run: str) -> Import:
        # Named after the run: who takes it up again goes on with the same folder.
        what = ImportOf(task.source, table, uuid.uuid5(_IMPORTS, f"{table} {run}").hex)
        return Import(what, self._there(), self._backend, self._catalog, self._clock, self._pool)

    def _there(self) -> Archive:
        if self._archive is None:
            raise errors.BackendCapability(
                "this storage has no archive", hint="set MILLRACE_STORAGE_ARCHIVE to a file:// or s3:// place"
            )
        return self._archive


async def _tell(steps: AsyncIterator[Moved], teller: Teller) -> None:
    async for moved in steps:
        teller.check()
        share = moved.rows / moved.total_rows if moved.total_rows else 1.0
        await teller.progress(Done(rows_read=moved.rows, rows_written=moved.rows, bytes=moved.bytes, fraction=share))
