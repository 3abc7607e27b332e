"""Rows as a multiset under any sequence of what can happen to a table, against a model: what a version showed, it shows until it is
gone, and it is gone only when somebody or retention said so. Pinned readers are never touched."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from svc_storage.domain.maintenance.checking import Checker, CheckWish
from svc_storage.domain.maintenance.compacting import compact_all
from svc_storage.domain.maintenance.erasing import Erasure, TableEraser
from svc_storage.domain.maintenance.expiring import ExpireWish, expire
from svc_storage.domain.maintenance.reporting import Heard
from svc_storage.domain.maintenance.restoring import restore
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.reading.predicates import In
from svc_storage.domain.upkeep import DAY_US, HOUR_US, Policy, Upkeep
from svc_storage.domain.writing import compaction
from svc_storage.ports import Version
from tests.contract.storage.backends import BACKENDS, NAME, Rig, ids, incoming, read

POLICY = Policy(checkpoint_every=5, keep_log_us=0, keep_versions=6, trim_every_us=0, collect_every_us=0)


class Pins:
    def __init__(self) -> None:
        self.at: dict[str, Version] = {}

    async def slowest(self, table_uid: str) -> Version | None:
        return min(self.at.values(), default=None)

    async def of_table(self, table_uid: str) -> Sequence[tuple[str, Version]]:
        return list(self.at.items())


class TableMachine(RuleBasedStateMachine):
    """`versions`: what each version showed; `erased`: what no version may show any more."""

    backend = "memory"
    pins = Bundle("pins")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        self.versions: dict[Version, Counter[int]] = {}
        self.next_id = self.count = 0
        self.readers = Pins()
        self.expired_below = 0

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        pool = ThreadPoolExecutor(2)
        backend = self.run(self.stack.enter_async_context(BACKENDS[self.backend](folder, pool)))
        self.rig = Rig(folder, backend, pool)
        self.table: OpenTable = self.run(self.rig.create())
        self._note()

    @property
    def upkeep(self) -> Upkeep:
        return Upkeep(self.rig.opened, self.rig.catalog, self.rig.backend, self.readers, self.rig.clock, POLICY)

    def _note(self, rows: Counter[int] | None = None) -> None:
        """Versions since the last note show what the newest does; `rows`: what that must be."""
        now = Counter(ids(self.table))
        if rows is not None:
            assert now == rows
        known = max(self.versions, default=-1)
        for version in range(known + 1, self.table.head + 1):
            self.versions[version] = now

    @property
    def rows(self) -> Counter[int]:
        return Counter(self.versions[max(self.versions)])

    @rule(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4))
    def append(self, sizes: list[int]) -> None:
        async def work() -> None:
            stream = await self.rig.open()
            offset = stream.opened.next_offset
            assert offset == self.next_id, "writers never go back"
            for size in sizes:
                await stream.append(incoming(offset, size))
                await stream.settle()
                offset += size
                self.versions[self.table.head - 1] = self.versions.get(self.table.head - 1, self.rows)
                self.versions[self.table.head] = self.rows + Counter(range(offset - size, offset))
            await stream.finish()

        self.versions[self.table.head + 1] = self.rows  # the fence
        self.run(work())
        self.next_id += sum(sizes)
        self._note(self.rows)

    @rule()
    def compact(self) -> None:
        self.run(compact_all(self.table, Heard(), self.rig.clock, run="c/"))
        self._note(self.rows)

    @rule()
    def tend(self) -> None:
        self.run(self.upkeep.tend(self.table))
        self._note(self.rows)

    @rule(back=st.integers(0, 8))
    def restore(self, back: int) -> None:
        wanted = max(self.table.oldest, self.table.head - back)
        rows = self.versions[wanted]
        self.run(restore(self.table, wanted, Heard(), self.rig.clock, run=f"r{self._count()}/", keep_files_us=DAY_US))
        self._note(rows)

    @rule(dice=st.randoms(use_true_random=False))
    def erase(self, dice: random.Random) -> None:
        gone = tuple(sorted({dice.randrange(max(1, self.next_id)) for _ in range(3)}))
        what = Erasure(
            predicate=In("id", gone), run=f"e{self._count()}/", grace_us=dice.choice([0, HOUR_US]), collect_us=0
        )
        report = self.run(TableEraser(self.table, what, Heard(), self.rig.clock).erase())
        rows = Counter({id: n for id, n in self.rows.items() if id not in gone})
        assert report.rows_erased == sum(n for id, n in self.rows.items() if id in gone)
        self.expired_below = report.oldest_version
        self.versions[self.table.head] = rows
        self._note(rows)
        self.readers.at = {name: at for name, at in self.readers.at.items() if at >= self.expired_below}

    @rule(keep=st.integers(1, 6))
    def expire(self, keep: int) -> None:
        self.run(expire(self.table, ExpireWish(keep=keep), self.readers, Heard(), self.rig.clock, keep_files_us=DAY_US))
        self._note(self.rows)

    @rule(target=pins, name=st.sampled_from("abc"))
    def pin(self, name: str) -> str:
        self.readers.at[name] = self.table.head
        return name

    @rule(name=consumes(pins))
    def unpin(self, name: str) -> None:
        self.readers.at.pop(name, None)

    @rule(hours=st.sampled_from([0, 1, 13, 25]), trim=st.booleans())
    def collect(self, hours: int, trim: bool) -> None:
        self.rig.clock.ahead_us += hours * HOUR_US

        async def work() -> None:
            if trim:
                await self.upkeep.checkpoint(self.table)
                await self.upkeep.trim(self.table)
            await self.upkeep.collect(self.table)

        self.run(work())
        self._note(self.rows)

    @rule()
    def restart(self) -> None:
        self.table = self.run(self.rig.restart())
        assert self.table.head == max(self.versions)

    def _count(self) -> int:
        self.count += 1
        return self.count

    @invariant()
    def every_version_that_is_served_shows_what_it_showed(self) -> None:
        if not self.versions:
            return
        for version in range(self.table.oldest, self.table.head + 1):
            snapshot = self.run(self.table.snapshot(version))
            shown = Counter(read(self.table, snapshot).column("id").to_pylist())
            assert shown == self.versions[version], f"version {version}"
        for name, at in self.readers.at.items():
            assert self.table.oldest <= at, f"the reader {name} was left behind"
            for found in self.table.commits_in(at, self.table.head):
                for file in found.commit.adds:
                    if found.commit.kind == "APPEND":
                        assert sum(b.num_rows for _, b in self.table.files.batches(file, self.table.definition.schema))

    def teardown(self) -> None:
        try:
            if self.versions:
                heard = Heard()
                assert self.run(Checker(self.table, CheckWish(), heard, self.rig.clock).check()), heard.faults
                self.run(self.rig.close())
        finally:
            self.run(self.stack.aclose())
            self.loop.close()


class LocalTableMachine(TableMachine):
    backend = "local"


CALM = [HealthCheck.too_slow, HealthCheck.data_too_large]
TestMemory = TableMachine.TestCase
TestMemory.settings = settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=CALM)
TestLocal = LocalTableMachine.TestCase
TestLocal.settings = settings(max_examples=6, stateful_step_count=15, deadline=None, suppress_health_check=CALM)


async def test_two_compactors_an_eraser_and_an_appender_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FAN_IN", 4)
    table = await rig.create()
    ended = asyncio.Event()

    async def append() -> None:
        stream = await rig.open()
        for number in range(40):
            await stream.append(incoming(number * 5, 5))
            await stream.settle()
        await stream.finish()
        ended.set()

    async def compactor(name: str) -> None:
        while not ended.is_set():
            if name == "all":
                await compact_all(table, Heard(), rig.clock, run="all/")
            else:
                await Upkeep(rig.opened, rig.catalog, rig.backend, Pins(), rig.clock, POLICY).compact(table)
            await asyncio.sleep(0.001)

    async def eraser() -> int:
        gone = 0
        while not ended.is_set():
            what = Erasure(predicate=In("id", tuple(range(0, 200, 7))), run="e/", grace_us=HOUR_US, collect_us=0)
            gone = (await TableEraser(table, what, Heard(), rig.clock).erase()).rows_erased
            await asyncio.sleep(0.02)
        return gone

    await asyncio.gather(append(), compactor("due"), compactor("all"), compactor("all"), eraser())
    last = Erasure(predicate=In("id", tuple(range(0, 200, 7))), run="e/", grace_us=HOUR_US, collect_us=0)
    await TableEraser(table, last, Heard(), rig.clock).erase()
    assert ids(table) == [id for id in range(200) if id % 7]
    assert table.versions.head.writers["w"].next_offset == 200
    heard = Heard()
    assert await Checker(table, CheckWish(), heard, rig.clock).check(), heard.faults
    table = await rig.restart()
    assert ids(table) == [id for id in range(200) if id % 7]
    assert (await rig.opened.table(NAME)).head == table.head
