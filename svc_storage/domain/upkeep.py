"""What tables need to stay fast, from the first day: compaction, checkpoints, cutting the log, garbage collection.

A version stays in the log while it is under 1 h old, among the newest 10,000, or after the slowest named reader; a file stays 24 h after it
left the newest version. Later a version is VERSION_EXPIRED.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from millrace.errors import MillraceError
from svc_storage.domain.definition import TableDefinition
from svc_storage.domain.maintenance.retaining import RowsKept
from svc_storage.domain.opened import Opened, OpenTable
from svc_storage.domain.reading import plans
from svc_storage.domain.tables import follow_schema
from svc_storage.domain.writing import compaction
from svc_storage.ports import Backend, Catalog, Clock, ReaderMarks, Version

_log = logging.getLogger(__name__)
SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US
SPARSE = 1_000
"""Versions between the checkpoints that stay."""
ROWS_EVERY_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Versions, microseconds. The defaults are the contract's; tests use smaller ones."""

    checkpoint_every: int = 100
    keep_log_us: int = HOUR_US
    keep_versions: int = 10_000
    keep_files_us: int = DAY_US
    orphan_us: int = HOUR_US  # a file that no version ever named: a kill between file and commit
    trim_every_us: int = 60 * SECOND_US
    collect_every_us: int = 600 * SECOND_US
    retain_every_us: int = HOUR_US
    look_every_s: float = 0.5

    def files_us(self, definition: TableDefinition) -> int:
        """How long files stay that left the newest version."""
        return max(self.keep_files_us, definition.retention.keep_versions_us)


@dataclass(slots=True)
class _Tended:
    """What upkeep remembers of an open table."""

    checkpoint: Version
    told_schema_id: int = 0
    trimmed_us: int = 0
    collected_us: int = 0
    retained_us: int = 0
    led: bool = False  # at the last look


def spare_checkpoints(known: Sequence[Version]) -> Sequence[Version]:
    """All but the oldest, the newest two and the first of each thousand: a checkpoint names every file that left in the last day, and
    a hundred of them would take more room than the log."""
    kept = {*known[:1], *known[-2:]}
    for version in known:
        if not any(found // SPARSE == version // SPARSE for found in kept.difference(known[-2:])):
            kept.add(version)
    return [version for version in known if version not in kept]


class Upkeep:
    def __init__(
        self, opened: Opened, catalog: Catalog, backend: Backend, readers: ReaderMarks, clock: Clock, policy: Policy
    ) -> None:
        self._opened, self._catalog, self._backend = opened, catalog, backend
        self._readers, self._clock, self._policy = readers, clock, policy
        self._tended: dict[str, _Tended] = {}
        self._folders_us, self._retained_us = clock.now_us(), 0
        self._rows_s = clock.monotonic_s()

    async def run(self) -> None:
        """Until cancelled. One table at a time; a fault in one does not keep the others waiting."""
        while True:
            for table in self._opened.now_open():
                try:
                    await self.tend(table)
                except Exception:
                    if table.deleted:
                        continue
                    _log.exception("upkeep of %s failed", table.row.name)
            if self._clock.monotonic_s() - self._rows_s > ROWS_EVERY_S:
                self._rows_s = self._clock.monotonic_s()
                await self._check_rows()
            await self._open_retained()
            if self._clock.now_us() - self._folders_us > self._policy.collect_every_us:
                self._folders_us = self._clock.now_us()
                await self.collect_folders()
            await asyncio.sleep(self._policy.look_every_s)

    async def _open_retained(self) -> None:
        """A table that gives up rows does so without being used: now and then it is opened for that."""
        now_us = self._clock.now_us()
        if now_us - self._retained_us <= self._policy.retain_every_us:
            return
        self._retained_us = now_us
        after_name = ""
        while rows := await self._catalog.list_tables("", after_name=after_name, limit=500):
            after_name = rows[-1].name
            for row in rows:
                if TableDefinition.from_json(row.body).retention.keep_rows_us:
                    with contextlib.suppress(MillraceError):
                        await self._opened.table(row.name)

    async def _check_rows(self) -> None:
        try:
            await self._opened.check_rows()
        except MillraceError as failed:
            _log.warning("the tables' definitions were not looked up: %s", failed.message)

    async def tend(self, table: OpenTable) -> None:
        """One look at one table. Of several replicas the one that commits to it does the work, the others only forget."""
        state = self._tended.get(table.row.uid)
        if state is None:
            state = self._tended[table.row.uid] = _Tended(0)
            await self._expire(table)
        leads = await self._leads(table, state)
        if leads and not state.led:
            known = await table.log.checkpoints()
            state.checkpoint = known[-1] if known else 0
        state.led = leads
        if not leads:
            await self._forget(table, state)
            return
        await self.compact(table)
        if table.head - state.checkpoint >= self._policy.checkpoint_every:
            state.checkpoint = await self.checkpoint(table)
        await table.plans.write_notes()
        if table.definition.schema_id != state.told_schema_id:
            await follow_schema(table, self._catalog, self._clock)
            state.told_schema_id = table.definition.schema_id
        now_us = self._clock.now_us()
        if now_us - state.retained_us > self._policy.retain_every_us:
            state.retained_us = now_us
            await self.retain(table)
        if now_us - state.trimmed_us > self._policy.trim_every_us:
            state.trimmed_us = now_us
            await self.trim(table)
        if now_us - state.collected_us > self._policy.collect_every_us:
            state.collected_us = now_us
            await self.collect(table)

    async def _leads(self, table: OpenTable, state: _Tended) -> bool:
        """Is it this replica's? A lease that nobody holds is taken when something is due."""
        if not table.shared or table.leader.leads(table.row.uid):
            return True
        now_us, files = self._clock.now_us(), table.versions.head.files.values()
        due = (
            now_us - state.trimmed_us > self._policy.trim_every_us
            or table.head - state.checkpoint >= self._policy.checkpoint_every
            or compaction.pick(files) is not None
        )
        return due and not await table.leader.holder(table.row.uid)

    async def _forget(self, table: OpenTable, state: _Tended) -> None:
        """What another replica cut from the log or may remove is not held here either."""
        await table.plans.write_notes()
        now_us = self._clock.now_us()
        if now_us - state.trimmed_us <= self._policy.trim_every_us:
            return
        state.trimmed_us = now_us
        await table.refresh()
        await self._expire(table)
        known = await table.log.checkpoints()
        state.checkpoint = known[-1] if known else 0
        oldest = await self._oldest_kept(
            table
        )  # by the rule of whoever cuts: a base alone does not say that it was cut
        if bases := [version for version in known if table.versions.base_version < version <= oldest]:
            table.versions.cut(bases[-1])
        keep_us = 2 * self._policy.files_us(table.definition)
        for path in list(table.versions.removed_us):
            if now_us > (table.versions.goes_us(path, keep_us) or 0) + self._policy.keep_files_us:
                del table.versions.removed_us[path]

    async def compact(self, table: OpenTable) -> int:
        """Until nothing is due; the number of merges."""
        merges = 0
        while what := compaction.pick(table.versions.head.files.values()):
            now_us = self._clock.now_us()
            if await compaction.merge(table.committer, what, commit_id=str(uuid.uuid4()), now_us=now_us) is None:
                break
            merges += 1
        return merges

    async def checkpoint(self, table: OpenTable) -> Version:
        """The version that is a base now."""

        async def write() -> Version:
            head = table.versions.head
            await table.log.checkpoint(head, table.versions.removed_us)
            return head.version

        version = await table.committer.turn(write)
        if spare := spare_checkpoints(await table.log.checkpoints()):
            await table.log.drop_checkpoints(spare)
        return version

    async def trim(self, table: OpenTable) -> Version | None:
        """Cuts the log at the newest base at or below the oldest version that is kept; that base, None when nothing was cut."""
        oldest = await self._oldest_kept(table)
        bases = [version for version in await table.log.checkpoints() if version <= oldest]
        if not bases or bases[-1] <= table.versions.base_version:
            return None
        floor = bases[-1]
        if table.shared:
            await table.plans.take_in()  # what the other replicas planned
        base, commits = table.versions.before(floor)
        first = max(base.version, table.versions.erased_below)  # nobody reads what lies before an erasure
        if first < floor and table.plans.under_way(first, floor - 1):
            start = table.versions.known(first) or base
            await table.plans.keep(start, [found for found in commits if found.version > first])

        async def cut() -> None:
            table.versions.cut(floor)
            await table.log.trim(floor)

        await table.committer.turn(cut)
        return floor

    async def retain(self, table: OpenTable) -> int:
        """Takes out the rows that the table's retention gives up; how many."""
        reader = await self._readers.slowest(table.row.uid)
        commits = await RowsKept(table).apply(now_us=self._clock.now_us(), reader=reader)
        return sum(found.commit.rows_removed - found.commit.rows_added for found in commits)

    async def collect(self, table: OpenTable) -> Sequence[str]:
        """Removes files that left the newest version long enough ago, and those that no version ever named; their paths."""
        reader = await self._expire(table)
        view, now_us, keep_us = table.versions, self._clock.now_us(), self._policy.files_us(table.definition)
        found = await table.files.list_paths()
        await table.refresh()  # whatever was listed and committed meanwhile is known now
        kept = {*view.head.files, *(file.path for file in view.head.dead_letters)}
        if reader is not None:  # what came in after it is read from the files it came in
            kept |= {
                path for path in view.left_after(reader) if view.removed_us.get(path, 0) > 0
            }  # but what was erased
        doomed = []
        for path, modified_us in found:
            if path.endswith(".parquet") and path not in kept:
                goes_us = view.goes_us(path, keep_us)
                if goes_us is not None and table.shared and view.removed_us[path] > 0:
                    goes_us += 2 * self._policy.trim_every_us  # until the others have noticed that its versions ended
                if now_us > (modified_us + self._policy.orphan_us if goes_us is None else goes_us):
                    doomed.append(path)
            elif path.startswith(plans.FOLDER) and now_us - modified_us > plans.KEPT_US:
                doomed.append(path)
                table.plans.forget(path)
        kept_now = {*view.head.files, *(file.path for file in view.head.dead_letters)}
        doomed = [path for path in doomed if path not in kept_now]
        await table.files.remove(doomed)
        there = {path for path, _ in found}.difference(doomed)
        for path in list(view.removed_us):  # an older checkpoint may still name what is gone
            if path not in there and now_us > (view.goes_us(path, keep_us) or 0):
                del view.removed_us[path]
        return doomed

    async def collect_folders(self) -> Sequence[str]:
        """Removes the folders of tables that the catalog has not known for a day; their uids."""
        named: set[str] = set()
        after_name = ""
        while rows := await self._catalog.list_tables("", after_name=after_name, limit=500):
            named |= {row.uid for row in rows}
            after_name = rows[-1].name
        dropped = []
        now_us = self._clock.now_us()
        for uid in await self._backend.list_uids():
            if uid in named:
                continue
            _, files = self._backend.open(uid)
            since = await files.get_record("unnamed")
            if since is None:
                await files.put_record("unnamed", str(now_us).encode())
            elif now_us - int(since) > self._policy.keep_files_us:
                await self._backend.drop(uid)
                dropped.append(uid)
        return dropped

    async def _oldest_kept(self, table: OpenTable) -> Version:
        view = table.versions
        since_us = self._clock.now_us() - max(self._policy.keep_log_us, table.definition.retention.keep_versions_us)
        young = view.oldest if since_us < view.oldest_time_us else view.version_at(since_us)
        kept = min(young, max(0, table.head - self._policy.keep_versions))
        reader = await self._readers.slowest(table.row.uid)
        kept = kept if reader is None else min(kept, reader)
        return max(kept, view.closed_below)  # what was expired expressly holds nothing

    async def _expire(self, table: OpenTable) -> Version | None:
        """Versions whose files may be gone are not served any more: said before anything is removed. The slowest reader's version."""
        reader = await self._readers.slowest(table.row.uid)
        table.versions.expire(self._clock.now_us() - self._policy.files_us(table.definition), reader=reader)
        return reader
