"""Two replicas, and everything that can happen to a table, in an order drawn by a seed, against a model: whoever did it, both show the
same rows, writers stand where they stood, and a version shows what it showed for as long as it is served."""

from __future__ import annotations

import os
import random
from collections import Counter

import pyarrow as pa
import pytest

from millrace import errors
from svc_storage.domain.maintenance.checking import Checker, CheckWish
from svc_storage.domain.maintenance.compacting import compact_all
from svc_storage.domain.maintenance.erasing import Erasure, TableEraser
from svc_storage.domain.maintenance.expiring import ExpireWish, expire
from svc_storage.domain.maintenance.reporting import Heard
from svc_storage.domain.maintenance.restoring import restore
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.reading import plans
from svc_storage.domain.reading.predicates import In
from svc_storage.domain.upkeep import DAY_US, HOUR_US
from svc_storage.domain.writing.appending import Incoming, OpenRequest
from svc_storage.domain.writing.schema_change import SchemaChange
from svc_storage.ports import Commit, CommitKind, CommitLog, LogTrimmed, Version, VersionTaken
from tests.contract.storage.backends import NAME, ids, incoming, read
from tests.integration.fleet.conftest import FULL
from tests.integration.fleet.replicas import Place, Replica, two

SEEDS = range(int(os.environ.get("MIXED_SEEDS", "20" if FULL else "2")))
STEPS = 40


class Pinned:
    """`at`: the versions that named readers still need."""

    def __init__(self) -> None:
        self.at: dict[str, Version] = {}

    async def slowest(self, table_uid: str) -> Version | None:
        return min(self.at.values(), default=None)

    async def of_table(self, table_uid: str) -> list[tuple[str, Version]]:
        return list(self.at.items())


class Mixed:
    """`shown`: the rows of each version; `offsets`: where each writer stands."""

    def __init__(self, seed: int, place: Place, *replicas: Replica) -> None:
        self.dice, self.place, self.replicas = random.Random(seed), place, replicas
        self.readers = Pinned()
        for replica in replicas:
            replica.upkeep._readers = self.readers
        self.rows: Counter[int] = Counter()
        self.shown: dict[Version, Counter[int]] = {}
        self.offsets = {"u": 0, "v": 0}
        self.next_id = self.number = self.columns = 0
        self.story: list[str] = []

    async def table(self) -> OpenTable:
        return await self.dice.choice(self.replicas).opened.fresh(NAME)

    async def step(self) -> None:
        self.number += 1
        what = self.dice.choices(
            ("append", "merge", "schema", "compact", "tend", "expire", "restore", "erase", "pin", "unpin", "later"),
            (10, 1, 1, 2, 3, 1, 2, 2, 1, 1, 2),
        )[0]
        self.story.append(what)
        await getattr(self, what)()
        await self.compare()

    async def append(self) -> None:
        table, writer = await self.table(), self.dice.choice("uv")
        stream = await table.committer.open(OpenRequest(writer=writer, epoch=0, principal="tester"))
        assert stream.opened.next_offset == self.offsets[writer], "a writer never goes back"
        for _ in range(self.dice.randint(1, 3)):
            size, offset = self.dice.randint(1, 4), self.offsets[writer]
            batch = incoming(self.next_id, size).rows
            positions = {"at": str(offset + size)}
            await stream.append(
                Incoming(offset=offset, rows=batch, crc32=self.next_id, size=batch.nbytes, positions=positions)
            )
            await stream.settle()
            self.rows.update(range(self.next_id, self.next_id + size))
            self.next_id += size
            self.offsets[writer] = offset + size
            self.shown[(await table.snapshot()).version] = Counter(self.rows)
        await stream.finish()

    async def merge(self) -> None:
        table = await self.table()
        with pytest.raises(errors.NoPrimaryKey):
            await table.committer.open(OpenRequest(writer="m", epoch=0, principal="tester", op_column=""))

    async def schema(self) -> None:
        table = await self.table()
        self.columns += 1
        added = (pa.field(f"more{self.columns}", pa.int64()),)
        await table.committer.change_schema(
            SchemaChange(base=table.versions.head.schema_id, additions=added, widenings={}, relaxations=())
        )

    async def compact(self) -> None:
        await compact_all(await self.table(), Heard(), self.place.clock, run=f"c{self.number}/")

    async def tend(self) -> None:
        replica = self.dice.choice(self.replicas)
        await replica.upkeep.tend(await replica.opened.fresh(NAME))

    async def expire(self) -> None:
        wish = ExpireWish(keep=self.dice.randint(1, 6))
        await expire(await self.table(), wish, self.readers, Heard(), self.place.clock, keep_files_us=DAY_US)

    async def restore(self) -> None:
        table = await self.table()
        wanted = self.dice.choice([version for version in self.shown if version >= table.oldest] or [table.head])
        rows = self.shown.get(wanted, self.rows)
        try:
            await restore(table, wanted, Heard(), self.place.clock, run=f"r{self.number}/", keep_files_us=DAY_US)
        except errors.VersionExpired:
            return
        self.rows = Counter(rows)

    async def erase(self) -> None:
        table = await self.table()
        gone = tuple({self.dice.randrange(self.next_id + 1) for _ in range(3)})
        what = Erasure(predicate=In("id", gone), run=f"e{self.number}/", grace_us=0, collect_us=0)
        report = await TableEraser(table, what, Heard(), self.place.clock).erase()
        assert report.rows_erased == sum(n for id, n in self.rows.items() if id in gone)
        self.rows = Counter({id: n for id, n in self.rows.items() if id not in gone})
        self.readers.at = {name: at for name, at in self.readers.at.items() if at >= report.oldest_version}

    async def pin(self) -> None:
        self.readers.at[self.dice.choice("abc")] = (await self.table()).head

    async def unpin(self) -> None:
        self.readers.at.pop(self.dice.choice("abc"), None)

    async def later(self) -> None:
        """Each replica has noticed by now which versions have ended."""
        self.place.clock.ahead_us += self.dice.choice((1, 13, 25)) * HOUR_US
        for replica in self.replicas:
            await replica.upkeep.tend(await replica.opened.fresh(NAME))

    async def compare(self) -> None:
        heads = set()
        for replica in self.replicas:
            table = await replica.opened.fresh(NAME)
            head = table.versions.head
            heads.add(head.version)
            assert Counter(read(table, head).column("id").to_pylist()) == self.rows
            for writer, offset in self.offsets.items():
                if offset:
                    state = head.writers[writer]
                    assert (state.next_offset, state.positions) == (offset, {"at": str(offset)})
            self.shown[head.version] = Counter(self.rows)
            older = [version for version in self.shown if table.oldest <= version < head.version]
            for version in self.dice.sample(older, min(2, len(older))):
                snapshot = await table.snapshot(version)
                assert Counter(read(table, snapshot).column("id").to_pylist()) == self.shown[version], version
            assert all(table.oldest <= at for at in self.readers.at.values()), "a named reader was left behind"
        assert len(heads) == 1


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_happens_on_two_replicas(place: Place, seed: int) -> None:
    async with two(place) as replicas:
        mixed = Mixed(seed, place, *replicas)
        try:
            for _ in range(STEPS):
                await mixed.step()
        except BaseException as failed:
            failed.add_note(f"seed {seed}: {' '.join(mixed.story)}")
            raise
        for replica in replicas:
            table, heard = await replica.opened.fresh(NAME), Heard()
            assert await Checker(table, CheckWish(), heard, place.clock).check(), heard.faults


class Unsure:
    """A log whose answers to commits are lost."""

    def __init__(self, log: CommitLog) -> None:
        self.read_after = log.read_after

    async def append(self, commit: Commit, *, after: Version) -> Version:
        raise errors.OutcomeUnknown("lost")


async def test_who_missed_that_the_log_was_cut_does_not_commit_into_the_past(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(place) as (a, b):
        here, there = await a.table(), await b.table()
        stale = there.versions.head.version
        stream = await a.open()
        for number in range(3):
            await stream.append(incoming(number * 2, 2))
            await stream.settle()
        await TableEraser(
            here, Erasure(predicate=In("id", (1,)), run="e/", grace_us=0, collect_us=0), Heard(), place.clock
        ).erase()
        late = Commit(id="late", kind=CommitKind.FENCE, time_us=place.clock.now_us())
        with pytest.raises(VersionTaken):
            await there.log.append(late, after=stale)
        with pytest.raises(LogTrimmed):
            await there.log.read_after(stale)
        monkeypatch.setattr(there.committer.landing, "log", Unsure(there.log))
        with pytest.raises(VersionTaken):
            await there.committer.landing.append(late, after=stale)
        monkeypatch.undo()
        fresh = await b.opened.fresh(NAME)
        assert ids(fresh) == [0, 2, 3, 4, 5]
        await stream.append(incoming(6, 2))
        await stream.finish()
        assert ids(await b.opened.fresh(NAME)) == [0, 2, 3, 4, 5, 6, 7]


async def test_no_plan_is_kept_from_before_an_erasure_of_another_replica(place: Place) -> None:
    async with two(place) as (a, b):
        here, there = await a.table(), await b.table()
        stream = await a.open()
        for number in range(3):
            await stream.append(incoming(number * 2, 2))
            await stream.settle()
        await stream.finish()
        await there.refresh()
        there.note_planned(there.head)
        what = Erasure(predicate=In("id", (1,)), run="e/", grace_us=0, collect_us=0)
        await TableEraser(here, what, Heard(), place.clock).erase()
        there = await b.opened.fresh(NAME)
        await b.upkeep.trim(there)
        assert [path for path, _ in await there.files.list_paths() if path.startswith(f"{plans.FOLDER}")] == []


async def test_a_named_reader_is_waited_for_by_every_replica(place: Place) -> None:
    async with two(place) as (a, b):
        readers = Pinned()
        a.upkeep._readers = b.upkeep._readers = readers
        stream = await a.open()
        await stream.append(incoming(0, 2))
        await stream.settle()
        readers.at["transform"] = (await a.table()).head
        for number in range(1, 25):
            await stream.append(incoming(number * 2, 2))
            await stream.settle()
        for hours in (0, 25, 25):
            place.clock.ahead_us += hours * HOUR_US
            for replica in (a, b):
                table = await replica.opened.fresh(NAME)
                await replica.upkeep.tend(table)
                assert table.oldest <= readers.at["transform"], replica.name
        await stream.finish()
