"""Compaction, checkpoints, log clean-up and garbage collection on every backend: rows, writers and pinned reads survive them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from millrace import errors
from svc_storage.domain.upkeep import DAY_US, Policy, Upkeep
from svc_storage.domain.writing import compaction
from svc_storage.domain.writing.dead_letters import ClientDeadLetter
from svc_storage.ports import CommitKind, Version
from tests.contract.storage.backends import NAME, Rig, ids, incoming, read

POLICY = Policy(checkpoint_every=10, keep_log_us=0, keep_versions=5, trim_every_us=0, collect_every_us=0)


class Readers:
    def __init__(self) -> None:
        self.at: Version | None = None

    async def slowest(self, table_uid: str) -> Version | None:
        return self.at

    async def of_table(self, table_uid: str) -> Sequence[tuple[str, Version]]:
        return [] if self.at is None else [("namespaces/default/readers/r", self.at)]


def upkeep(rig: Rig, readers: Readers | None = None) -> Upkeep:
    return Upkeep(rig.opened, rig.catalog, rig.backend, readers or Readers(), rig.clock, POLICY)


async def commits(rig: Rig, count: int, *, rows: int = 3, epoch: int = 0) -> None:
    stream = await rig.open(epoch=epoch, keep_bad=True)
    offset = stream.opened.next_offset
    for number in range(count):
        dead = (ClientDeadLetter(0, "UNPARSEABLE", "", b"?"),) if number % 10 == 9 else ()
        await stream.append(incoming(offset, rows, positions={"f": str(offset)}, dead=dead))
        offset += rows + len(dead)
        await stream.settle()
    await stream.finish()


async def test_compaction_keeps_rows_and_order(rig: Rig) -> None:
    table = await rig.create()
    await commits(rig, 70)
    before = read(table, table.versions.head)
    old = table.versions.head
    merges = await upkeep(rig).compact(table)
    assert merges == 2
    assert len(table.versions.head.files) == 2 + 70 - 64
    assert read(table, table.versions.head).equals(before)
    assert read(table, await table.snapshot(old.version)).equals(before), "a pinned version reads on"
    kinds = [found.commit.kind for found in table.commits_in(old.version, table.head)]
    assert kinds == [CommitKind.COMPACT] * 2
    assert sum(found.commit.rows_added for found in table.commits_in(old.version, table.head)) == 0
    table = await rig.restart()
    assert read(table, table.versions.head).equals(before)


async def test_levels_build_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FAN_IN", 4)
    table = await rig.create()
    for _ in range(4):
        await commits(rig, 4)
        await upkeep(rig).compact(table)
    assert [file.level for file in table.versions.head.files.values()] == [2]
    assert table.versions.head.row_count == 4 * 4 * 3


async def test_a_compaction_whose_inputs_left_changes_nothing(rig: Rig) -> None:
    table = await rig.create()
    await commits(rig, 32)
    what = compaction.pick(table.versions.head.files.values())
    assert what is not None
    assert await compaction.merge(table.committer, what, commit_id="a", now_us=1)
    assert await compaction.merge(table.committer, what, commit_id="b", now_us=1) is None
    assert table.versions.head.row_count == 96


async def test_the_log_is_cut_and_nothing_is_forgotten(rig: Rig) -> None:
    table = await rig.create()
    await commits(rig, 25)
    keeper = upkeep(rig)
    await keeper.tend(table)
    await commits(rig, 12)
    await keeper.tend(table)
    rig.clock.ahead_us += 1_000_000
    await keeper.tend(table)
    assert table.oldest > 0
    before, rows = table.versions.head, ids(table)
    assert before.writers["w"].next_offset == 37 * 3 + 3
    oldest = table.oldest
    with pytest.raises(errors.VersionExpired) as expired:
        await table.snapshot(oldest - 1)
    assert expired.value.metadata["oldest_version"] == str(oldest)
    table = await rig.restart()
    assert table.oldest == oldest
    assert table.versions.head == before
    assert ids(table) == rows
    await commits(rig, 3)
    assert (await table.snapshot(oldest)).version == oldest


async def test_a_slow_reader_keeps_the_log(rig: Rig) -> None:
    table = await rig.create()
    readers = Readers()
    readers.at = 4
    keeper = upkeep(rig, readers)
    for _ in range(3):
        await commits(rig, 15)
        await keeper.tend(table)
    assert table.oldest <= 4
    assert table.commits_in(4, table.head)[0].version == 5
    readers.at = None
    await keeper.tend(table)
    assert table.oldest > 4


async def test_a_planned_version_outlives_its_log_entry(rig: Rig) -> None:
    table = await rig.create()
    await commits(rig, 5)
    planned = table.versions.head
    table.note_planned(planned.version)
    rows = read(table, planned)
    keeper = upkeep(rig)
    for _ in range(3):
        await commits(rig, 15)
        await keeper.tend(table)
    table = await rig.restart()
    assert table.oldest > planned.version
    kept = await table.snapshot(planned.version)
    assert read(table, kept).equals(rows)
    assert kept.dead_letters == planned.dead_letters


async def test_garbage_goes_after_a_day_and_not_before(rig: Rig) -> None:
    table = await rig.create()
    await commits(rig, 40)
    keeper = upkeep(rig)
    await keeper.compact(table)
    rows = ids(table)
    assert await keeper.collect(table) == []
    rig.clock.ahead_us += DAY_US + 1_000_000
    compacted = next(v.version for v in table.commits_in(0, table.head) if v.commit.kind is CommitKind.COMPACT)
    assert len(await keeper.collect(table)) == 32
    assert ids(table) == rows
    assert table.oldest == compacted
    with pytest.raises(errors.VersionExpired):
        await table.snapshot(compacted - 1)
    view = await rig.opened.view(NAME + "$dead_letters")
    assert read(table, await view.snapshot()).num_rows == 4, "dead letters stay"


async def test_files_that_a_named_reader_has_yet_to_read_stay(rig: Rig) -> None:
    table = await rig.create()
    await commits(rig, 10)
    readers = Readers()
    readers.at = 6
    await commits(rig, 30)
    keeper = upkeep(rig, readers)
    await keeper.compact(table)
    rig.clock.ahead_us += DAY_US + 1_000_000
    assert await keeper.collect(table) == []
    assert table.oldest <= 6
    for found in table.commits_in(6, table.head):
        for file in found.commit.adds:
            assert sum(batch.num_rows for _, batch in table.files.batches(file, table.definition.stored_schema))
    readers.at = table.head
    assert len(await keeper.collect(table)) == 32


async def test_a_file_that_no_version_named_goes(rig: Rig) -> None:
    table = await rig.create()
    await commits(rig, 1)
    await table.files.write("l0-orphan.parquet", [], table.definition.stored_schema)
    keeper = upkeep(rig)
    assert await keeper.collect(table) == []
    rig.clock.ahead_us += DAY_US
    assert await keeper.collect(table) == ["l0-orphan.parquet"]


async def test_the_folder_of_a_deleted_table_goes_after_a_day(rig: Rig) -> None:
    table = await rig.create()
    await rig.tables.delete(NAME, etag="", request=rig.request())
    keeper = upkeep(rig)
    assert await keeper.collect_folders() == []
    rig.clock.ahead_us += DAY_US // 2
    assert await keeper.collect_folders() == []
    rig.clock.ahead_us += DAY_US
    assert await keeper.collect_folders() == [table.row.uid]
    assert await rig.backend.list_uids() == []
