"""A table from the archive becomes a table of this store. It appears under its name when all of it is there, not before.

Until then it is a folder that the catalog does not name, with one commit per file. Its own log says how far the import got (the record
of the writer `millrace.import`), so a broken-off one goes on after the last commit. The writers' records come with the last commit:
a writer that goes on appending continues at its offset.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TypeVar

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.domain.definition import table_name
from svc_storage.domain.transfer.archive import MANIFEST, Manifest
from svc_storage.domain.transfer.exporting import Moved
from svc_storage.domain.versions import LogView
from svc_storage.domain.writing import dead_letters
from svc_storage.domain.writing.assembly import new_name
from svc_storage.ports import (
    Archive,
    ArchivePart,
    Backend,
    Catalog,
    Clock,
    Commit,
    CommitKind,
    CommitLog,
    Committed,
    DeadLetterFile,
    RequestMark,
    TableFiles,
    TableRow,
    Version,
    VersionTaken,
    WriterState,
)

T = TypeVar("T")
WRITER = "millrace.import"
LEVEL = 1
"""Imported files are whole: small ones are merged with what comes later, large ones left alone."""


@dataclass(frozen=True, slots=True)
class ImportOf:
    """`uid`: of the table to be; the caller keeps it, so that a repeat goes on with the same folder."""

    source: str
    name: str
    uid: str


class Import:
    """Run by one worker at a time (it holds a lease); two of them would not double a row either: each commit is the next or none."""

    def __init__(
        self, what: ImportOf, archive: Archive, backend: Backend, catalog: Catalog, clock: Clock, pool: Executor
    ) -> None:
        table_name(what.name, at="table")
        self._what, self._archive, self._backend = what, archive, backend
        self._catalog, self._clock, self._pool = catalog, clock, pool

    async def run(self, request: RequestMark) -> AsyncIterator[Moved]:
        """After each file. Raises Missing when there is no finished export, ResourceExists when the name is taken,
        ChecksumMismatch naming the file of the archive."""
        manifest = await self.manifest()
        await self._must_be_free()
        await self._backend.create(self._what.uid, manifest.schema, time_us=self._clock.now_us())
        log, files = self._backend.open(self._what.uid)
        try:
            view = LogView(await log.recover())
            async for moved in self._fill(manifest, log, files, view):
                yield moved
            await self._finish(manifest, log, view)
        finally:
            await log.close()
        await self._catalog.create_table(self._row(manifest, request.principal), request)

    async def manifest(self) -> Manifest:
        """Raises FileMissing, ChecksumMismatch, FieldInvalid."""
        content = await self._work(lambda: self._archive.get(f"{self._what.source}/{MANIFEST}"))
        if content is None:
            raise errors.FileMissing(
                f"the archive has no finished export in `{self._what.source}`", field="source", hint="export it first"
            )
        return Manifest.from_bytes(content)

    async def _must_be_free(self) -> None:
        found = await self._catalog.get_table(self._what.name)
        if found is not None and found.uid != self._what.uid:
            raise errors.ResourceExists(f"`{self._what.name}` exists", field="table", hint="choose another name")

    async def _fill(self, manifest: Manifest, log: CommitLog, files: TableFiles, view: LogView) -> AsyncIterator[Moved]:
        parts = (*manifest.rows, *manifest.dead_letters)
        known = view.head.writers.get(WRITER)
        done = len(parts) if known is None and view.head.writers else known.next_offset if known else 0
        total = sum(part.row_count for part in parts)
        for number, part in enumerate(parts):
            if number >= done:
                commit = await self._one(manifest, part, number, files)
                failpoint("storage.before_import_commit")
                await _append(log, view, commit)
            so_far = parts[: number + 1]
            yield Moved(sum(one.row_count for one in so_far), sum(one.size_bytes for one in so_far), total)

    async def _one(self, manifest: Manifest, part: ArchivePart, number: int, files: TableFiles) -> Commit:
        time_us = self._clock.now_us()
        commit = Commit(
            id=f"import-{self._what.uid}-{number}",
            kind=CommitKind.APPEND,
            time_us=time_us,
            writers={WRITER: WriterState(1, number + 1)},
            event_time_high_us=manifest.event_time_high_us,
        )
        stored = replace(part, name=f"{self._what.source}/{part.name}")
        if part in manifest.rows:
            rows = self._archive.read_rows(stored, manifest.schema)
            file = await files.write(new_name(LEVEL), rows, manifest.schema, level=LEVEL)
            _check(file.row_count, part)
            # Readers go by time: the files keep the archive's order.
            return replace(commit, adds=(replace(file, modified_ms=time_us // 1000 + number),))
        letters = self._archive.read_rows(stored, dead_letters.SCHEMA)
        file = await files.write(f"{dead_letters.FOLDER}/{new_name(0)}", letters, dead_letters.SCHEMA)
        _check(file.row_count, part)
        return replace(commit, dead_letters=(DeadLetterFile(file.path, file.size_bytes, file.row_count),))

    async def _finish(self, manifest: Manifest, log: CommitLog, view: LogView) -> None:
        if set(manifest.writers) <= set(view.head.writers):
            return
        writers = {name: state for name, state in manifest.writers.items() if name != WRITER}
        commit = Commit(
            id=f"import-{self._what.uid}-writers",
            kind=CommitKind.FENCE,
            time_us=max(self._clock.now_us(), view.head.time_us),
            writers=writers,
        )
        await _append(log, view, commit)

    def _row(self, manifest: Manifest, owner: str) -> TableRow:
        now_us = self._clock.now_us()
        return TableRow(
            name=self._what.name,
            uid=self._what.uid,
            etag=secrets.token_hex(8),
            created_us=now_us,
            updated_us=now_us,
            owner=owner,
            body=manifest.definition,
        )

    async def _work(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


async def _append(log: CommitLog, view: LogView, commit: Commit) -> Version:
    """Nobody else writes here: a number that is taken was taken by an earlier try of ours."""
    try:
        version = await log.append(commit, after=view.head.version)
    except (VersionTaken, errors.OutcomeUnknown):
        later = await log.read_after(view.head.version)
        if not later or later[0].commit.id != commit.id:
            raise
        version = later[0].version
    view.publish(Committed(version, commit))
    return version


def _check(rows: int, part: ArchivePart) -> None:
    if rows != part.row_count:
        raise errors.ChecksumMismatch(f"{part.name} of the archive has {rows} rows, its manifest says {part.row_count}")
