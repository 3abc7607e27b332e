"""CheckTable: is what the log says what the store has? Each fault is named by version and file. Nothing is changed but, when asked,
orphans older than the grace.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from millrace import errors
from svc_storage.domain.maintenance.reporting import Done, Fault, TableReport, Teller, add_rows
from svc_storage.domain.maintenance.truth import wrong_statistics
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.reading import plans
from svc_storage.domain.transfer.importing import WRITER as IMPORT
from svc_storage.domain.versions import fold
from svc_storage.domain.writing import dead_letters
from svc_storage.ports import (
    Clock,
    Commit,
    CommitKind,
    Committed,
    DataFile,
    LogTrimmed,
    Snapshot,
    TableFiles,
    Version,
)

PLACED = ".parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckWish:
    """`sample`: of the kept versions' files, this share has its rows read (1: all); presence is looked at for each. `repair`: remove
    orphans older than `orphan_us`."""

    sample: float = 1.0
    repair: bool = False
    orphan_us: int = 3600 * 1_000_000


class Checker:
    def __init__(self, table: OpenTable, wish: CheckWish, teller: Teller, clock: Clock) -> None:
        self._table, self._wish, self._teller, self._clock = table, wish, teller, clock
        self._found = self._harmless = 0
        self._done = Done()

    async def check(self) -> bool:
        """True: nothing but harmless faults. Tells each fault, then a report."""
        there = dict(await self._table.files.list_paths())
        commits = self._table.versions.known_commits()
        for checks in (
            self._log(commits),
            self._files(there),
            self._letters(there),
            self._records(there),
            self._orphans(there),
        ):
            async for fault in checks:
                self._found += not fault.harmless
                self._harmless += fault.harmless
                await self._teller.fault(fault)
        await self._report(len(commits), len(there))
        return not self._found

    async def _report(self, commits: int, files: int) -> None:
        view = self._table.versions
        text = f"{commits} commits, {files} files, {self._done.rows_read} rows read; {self._found} faults"
        await self._teller.progress(replace(self._done, version=view.head.version, fraction=1.0))
        await self._teller.report(
            TableReport(
                table=self._table.row.name,
                version=view.head.version,
                oldest_version=view.oldest,
                verified=not self._found,
                notes=(text, f"{self._harmless} harmless") if self._harmless else (text,),
            )
        )

    # -- the log ------------------------------------------------------------------------------------------------------
    async def _log(self, commits: Sequence[Committed]) -> AsyncIterator[Fault]:
        """As it stands in the store, read anew, against what is served."""
        base = self._table.versions.base_version
        try:
            base, stored = await self._stored(base)
        except (errors.Broken, errors.OutcomeUnknown) as damaged:
            yield Fault(code="LOG_DAMAGED", message=damaged.message)
            stored = []
        commits = [committed for committed in commits if committed.version > base]
        for fault in log_faults(base, stored, commits):
            yield fault
        state = self._table.versions.known(base)
        assert state is not None
        for committed in commits:
            for fault in commit_faults(state, committed):
                yield fault
            state = fold(state, committed)
        try:
            bases = await self._table.log.checkpoints()
        except errors.MillraceError as damaged:
            yield Fault(code="CHECKPOINT_DAMAGED", message=damaged.message)
            return
        if commits and base > 0 and base not in bases and self._table.log.capabilities.checkpoints:
            yield Fault(code="CHECKPOINT_MISSING", message="the log does not begin at a checkpoint", version=base)

    async def _stored(self, base: Version) -> tuple[Version, Sequence[Committed]]:
        """Commits after `base`, or after a later one when another replica cut the log. Raises ChecksumMismatch, and what the log raises."""
        try:
            return base, await self._table.log.read_after(base)
        except LogTrimmed:
            later = [known for known in await self._table.log.checkpoints() if base < known <= self._table.head]
            for floor in sorted(later):
                with contextlib.suppress(LogTrimmed):
                    return floor, await self._table.log.read_after(floor)
        raise errors.ChecksumMismatch("the log was cut above the newest version")

    # -- files --------------------------------------------------------------------------------------------------------
    async def _files(self, there: Mapping[str, int]) -> AsyncIterator[Fault]:
        known = list(self._kept_files())
        read_every = max(1, round(1 / self._wish.sample)) if self._wish.sample > 0 else 0
        for number, (version, file) in enumerate(known):
            self._teller.check()
            if file.path not in there:
                yield Fault(code="FILE_MISSING", message="the file is not there", path=file.path, version=version)
                continue
            if read_every and number % read_every == 0:
                schema = self._table.versions.head.schema
                for fault in await asyncio.to_thread(_read, self._table.files, file, schema, version):
                    yield fault
                self._done = replace(
                    add_rows(self._done, file.row_count, file.size_bytes), fraction=(number + 1) / len(known)
                )
                await self._teller.progress(self._done)

    def _kept_files(self) -> Iterator[tuple[Version, DataFile]]:
        """Each file that a served version has, with the newest version that has it."""
        view = self._table.versions
        head = view.head
        yield from ((head.version, file) for file in head.files.values())
        given = set(head.files)
        for committed in reversed(view.known_commits()):
            if committed.version <= view.oldest:
                return
            before = {file.path: file for file in committed.commit.removes if file.path not in given}
            given |= before.keys()
            state = view.known(committed.version - 1) if before else None
            for path in before:
                if state and path in state.files:
                    yield committed.version - 1, state.files[path]

    async def _letters(self, there: Mapping[str, int]) -> AsyncIterator[Fault]:
        head = self._table.versions.head
        for letters in head.dead_letters:
            file = DataFile(letters.path, letters.size_bytes, letters.row_count)
            if letters.path not in there:
                message = "the file of dead letters is not there"
                yield Fault(code="FILE_MISSING", message=message, path=letters.path, version=letters.added_in)
                continue
            for fault in await asyncio.to_thread(_read, self._table.files, file, dead_letters.SCHEMA, letters.added_in):
                yield fault

    # -- beside the files ---------------------------------------------------------------------------------------------
    async def _records(self, there: Mapping[str, int]) -> AsyncIterator[Fault]:
        """Those of plans, and the copy of the table's definition."""
        for path in there:
            if path != "_millrace/table.json" and not path.startswith(plans.FOLDER):
                continue
            content = await self._table.files.get_record(path.removeprefix("_millrace/"))
            try:
                json.loads(content or b"")
            except ValueError:
                yield Fault(code="RECORD_DAMAGED", message="the record is torn", path=path)

    async def _orphans(self, there: Mapping[str, int]) -> AsyncIterator[Fault]:
        view, now_us = self._table.versions, self._clock.now_us()
        named = {*view.head.files, *(file.path for file in view.head.dead_letters), *view.removed_us}
        for committed in view.known_commits():
            named.update(file.path for file in committed.commit.adds)
        orphans = [path for path in there if path.endswith(PLACED) and path not in named]
        for path in sorted(orphans):
            old = now_us - there[path] > self._wish.orphan_us
            repaired = old and self._wish.repair
            if repaired:
                await self._table.files.remove([path])
            age = "" if old else ", and is young: it may be of a commit under way"
            yield Fault(
                code="ORPHAN", message=f"no version names the file{age}", path=path, harmless=True, repaired=repaired
            )


def log_faults(base: Version, stored: Sequence[Committed], served: Sequence[Committed]) -> Iterable[Fault]:
    expected = base
    for found in stored:
        expected += 1
        if found.version != expected:
            yield Fault(code="LOG_GAP", message=f"version {expected} is missing from the log", version=expected)
            expected = found.version
    by_version = {found.version: found.commit.id for found in stored}
    for known in served:
        if known.version not in by_version:
            if stored and known.version <= stored[-1].version:
                continue  # told as a gap
            yield Fault(code="LOG_GAP", message="the version is served, and not in the log", version=known.version)
        elif by_version[known.version] != known.commit.id:
            yield Fault(code="LOG_CHANGED", message="the log has another commit there", version=known.version)


def commit_faults(before: Snapshot, committed: Committed) -> Iterable[Fault]:
    """Of one commit: its writers moved by what it wrote, its removes were there."""
    commit, version = committed.commit, committed.version
    for file in commit.removes:
        if file.path not in before.files:
            yield Fault(
                code="REMOVE_UNKNOWN", message="it removes a file that was not there", path=file.path, version=version
            )
    if commit.kind is CommitKind.COMPACT and sum(f.row_count for f in commit.adds) != sum(
        before.files[f.path].row_count for f in commit.removes if f.path in before.files
    ):
        yield Fault(code="ROWS_CHANGED", message="a compaction changed the number of rows", version=version)
    if (
        commit.kind is CommitKind.APPEND and commit.writers and set(commit.writers) != {IMPORT}
    ):  # an import counts files
        yield from _positions(before, commit, version)


def _positions(before: Snapshot, commit: Commit, version: Version) -> Iterable[Fault]:
    moved = 0
    for name, state in commit.writers.items():
        was = before.writers.get(name)
        marked = sum(mark.rows for mark in state.marks)
        moved += marked
        if was is not None and was.next_offset + marked != state.next_offset:
            message = f"writer {name} moved by {state.next_offset - was.next_offset} and wrote {marked}"
            yield Fault(code="POSITION_WRONG", message=message, version=version)
    rows = sum(file.row_count for file in commit.adds) + sum(file.row_count for file in commit.dead_letters)
    if rows != moved:
        message = f"its writers moved by {moved} and it has {rows} rows"
        yield Fault(code="POSITION_WRONG", message=message, version=version)


def _read(files: TableFiles, file: DataFile, schema: pa.Schema, version: Version) -> list[Fault]:
    """Blocking. Reads all rows: number, readability, statistics."""
    try:
        return [
            Fault(code="STATISTICS_WRONG", message=message, path=file.path, version=version)
            for message in wrong_statistics(files, file, schema)
        ]
    except errors.FileMissing as gone:
        return [Fault(code="FILE_MISSING", message=gone.message, path=file.path, version=version)]
    except errors.Broken as damaged:
        return [Fault(code="FILE_DAMAGED", message=damaged.message, path=file.path, version=version)]
