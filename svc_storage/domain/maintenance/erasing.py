"""EraseRows in one table: matching rows leave its files, its dead letters and its older versions; then every file is looked at again.

Every step may be repeated: a run that was killed finds fewer rows to take out and goes on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from svc_storage.domain.maintenance.expiring import close_below
from svc_storage.domain.maintenance.letters import Judge
from svc_storage.domain.maintenance.reporting import Done, TableReport, Teller
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.reading import plans
from svc_storage.domain.reading.bounds import bounds_of
from svc_storage.domain.reading.filtering import evaluate
from svc_storage.domain.reading.predicates import Predicate, columns_of
from svc_storage.domain.reading.pruning import may_match
from svc_storage.domain.writing import dead_letters, rewrite
from svc_storage.domain.writing.assembly import new_name
from svc_storage.ports import Clock, CommitKind, DataFile, DeadLetterFile, Snapshot, TableFiles

AT_ONCE = 16
"""Files of one commit."""
_PASSES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """`predicate`: bound to the table's columns. `grace_us`: for reads under way. `run`: begins the commits' ids.

    `collect_us`: how long after that garbage collection comes by."""

    predicate: Predicate
    run: str
    grace_us: int
    collect_us: int
    unjudged_too: bool = False


@dataclass(slots=True)
class _Counts:
    rows: int = 0
    letters: int = 0
    unjudged: int = 0
    files: int = 0
    read: Done = field(default_factory=Done)


class TableEraser:
    def __init__(self, table: OpenTable, what: Erasure, teller: Teller, clock: Clock) -> None:
        self._table, self._what, self._teller, self._clock = table, what, teller, clock
        self._counts = _Counts()
        self._looked_at: set[str] = set()  # files known to hold no matching row

    async def erase(self) -> TableReport:
        """Takes out, ends older versions, looks again. Raises what files and log raise, and what ends the run."""
        self._count_before()
        await self._take_out()
        await self._letters()
        head = await self._verified()
        before = self._table.oldest
        gone_us = self._clock.now_us() + self._what.grace_us
        closed = await close_below(self._table, self._clock, gone_us=gone_us)
        await self._forget_plans()
        await self._cut_log()
        return TableReport(
            table=self._table.row.name,
            rows_erased=self._counts.rows,
            dead_letters_erased=self._counts.letters,
            unjudged=self._counts.unjudged,
            files_rewritten=self._counts.files,
            versions_expired=max(0, closed - before),
            oldest_version=closed,
            version=head.version,
            gone_us=gone_us + self._what.collect_us,
            verified=True,
        )

    def _count_before(self) -> None:
        """What the same run did before it was killed."""
        for found in self._table.versions.known_commits():
            if found.commit.id.startswith(self._what.run):
                commit = found.commit
                self._counts.rows += commit.rows_removed - commit.rows_added
                self._counts.files += len(commit.removes)
                gone, stay = commit.dead_letters_removed, commit.dead_letters
                self._counts.letters += sum(f.row_count for f in gone) - sum(f.row_count for f in stay)

    # -- rows ---------------------------------------------------------------------------------------------------------
    async def _take_out(self) -> None:
        """Until every file of the newest version was looked at. Files that come in meanwhile are looked at, too."""
        columns = frozenset(columns_of(self._what.predicate))
        while todo := self._todo(self._table.versions.head):
            self._teller.check()
            schema = self._table.versions.head.schema
            hits = []
            for file in todo:
                if not may_match(self._what.predicate, bounds_of(file, schema, columns)):
                    self._looked_at.add(file.path)
                elif await asyncio.to_thread(self._matches, file, schema):
                    hits.append(file)
                else:
                    self._looked_at.add(file.path)
                if len(hits) == AT_ONCE:
                    break
            if hits:
                await self._rewrite(hits, schema)

    def _todo(self, head: Snapshot) -> list[DataFile]:
        return [file for path, file in head.files.items() if path not in self._looked_at]

    async def _rewrite(self, hits: list[DataFile], schema: pa.Schema) -> None:
        files, outputs = self._table.files, []
        for file in hits:
            written = await rewrite.write_without(files, file, schema, self._others)
            if written is not None:
                outputs.append(written)
                self._looked_at.add(written.path)
        swap = rewrite.Swap(kind=CommitKind.MERGE, inputs=tuple(hits), outputs=tuple(outputs), id=self._what.run)
        done = await rewrite.swap(self._table.committer, swap, now_us=self._clock.now_us())
        if done is None:  # compaction took an input: its output comes up in the next look
            return
        self._counts.rows += done.commit.rows_removed - done.commit.rows_added
        self._counts.files += len(hits)
        await self._tell(hits, done.version)

    async def _tell(self, hits: list[DataFile], version: int) -> None:
        read = self._counts.read
        self._counts.read = replace(
            read,
            rows_read=read.rows_read + sum(file.row_count for file in hits),
            rows_written=self._counts.rows,
            bytes=read.bytes + sum(file.size_bytes for file in hits),
            version=version,
        )
        await self._teller.progress(self._counts.read)

    def _others(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.filter(pc.invert(pc.fill_null(evaluate(self._what.predicate, batch), False)))

    def _matches(self, file: DataFile, schema: pa.Schema) -> bool:
        """Blocking. Reads only the predicate's columns."""
        names = dict.fromkeys(columns_of(self._what.predicate))
        asked = pa.schema([schema.field(name) for name in names])
        batches = self._table.files.batches(file, asked)
        try:
            return any(pc.any(evaluate(self._what.predicate, batch)).as_py() for _, batch in batches)
        finally:
            _close(batches)

    async def _verified(self) -> Snapshot:
        """Looks into every file of the newest version, whatever its statistics say, until none holds a matching row."""
        seen: set[str] = set()
        for _ in range(_PASSES):
            head = self._table.versions.head
            todo = [file for path, file in head.files.items() if path not in seen]
            if not todo:
                return head
            for file in todo:
                self._teller.check()
                if await asyncio.to_thread(self._matches, file, head.schema):
                    if file.path in self._table.versions.head.files:
                        await self._rewrite([file], head.schema)
                else:
                    seen.add(file.path)
        raise RuntimeError("rows to erase come in faster than they are taken out")

    # -- dead letters -------------------------------------------------------------------------------------------------
    async def _letters(self) -> None:
        """Letters that come in meanwhile are looked at, too."""
        judge = Judge(self._what.predicate, self._table.definition.schema, unjudged_too=self._what.unjudged_too)
        seen: set[str] = set()
        while todo := [file for file in self._table.versions.head.dead_letters if file.path not in seen]:
            for file in todo:
                self._teller.check()
                seen.add(file.path)
                await self._letters_of(file, judge, seen)

    async def _letters_of(self, file: DeadLetterFile, judge: Judge, seen: set[str]) -> None:
        files, as_data = self._table.files, DataFile(file.path, file.size_bytes, file.row_count)
        stay, unjudged = await asyncio.to_thread(_judged, judge, as_data, files)
        self._counts.unjudged += unjudged
        if stay == file.row_count:
            return
        path = f"{dead_letters.FOLDER}/{new_name(0)}"
        written = await rewrite.write_without(files, as_data, dead_letters.SCHEMA, judge.keeper(), path=path)
        if written is not None:
            seen.add(written.path)
        await self._swap_letters(file, written)

    async def _swap_letters(self, file: DeadLetterFile, written: DataFile | None) -> None:
        stay = () if written is None else (DeadLetterFile(written.path, written.size_bytes, written.row_count),)
        swap = rewrite.Swap(kind=CommitKind.MERGE, dead_inputs=(file,), dead_outputs=stay, id=self._what.run)
        if await rewrite.swap(self._table.committer, swap, now_us=self._clock.now_us()) is not None:
            self._counts.letters += file.row_count - sum(one.row_count for one in stay)

    # -- what remembers -----------------------------------------------------------------------------------------------
    async def _forget_plans(self) -> None:
        """Kept plans name files of older versions, with bounds that may be a value that was erased."""
        paths = [path for path, _ in await self._table.files.list_paths() if path.startswith(plans.FOLDER)]
        await self._table.files.remove(paths)
        for path in paths:
            self._table.plans.forget(path)

    async def _cut_log(self) -> None:
        """The log of older versions holds bounds too: it ends here."""
        table = self._table

        async def cut() -> None:
            head = table.versions.head
            await table.log.checkpoint(head, table.versions.removed_us)
            table.versions.cut(head.version)
            await table.log.trim(head.version)

        if table.log.capabilities.checkpoints and table.log.capabilities.trim:
            await table.committer.turn(cut)


def _judged(judge: Judge, file: DataFile, files: TableFiles) -> tuple[int, int]:
    """Blocking. How many letters stay, and how many of these for want of text."""
    keep, stay = judge.keeper(), 0
    for _, batch in files.batches(file, dead_letters.SCHEMA):
        stay += keep(batch).num_rows
    return stay, keep.unjudged


def _close(batches: object) -> None:
    if close := getattr(batches, "close", None):
        close()
