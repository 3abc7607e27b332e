"""CheckTable on every backend: a sound table is sound, and each kind of damage is named by its version and file."""

from __future__ import annotations

from dataclasses import replace

from millrace import errors
from svc_storage.domain.maintenance.checking import Checker, CheckWish, log_faults
from svc_storage.domain.maintenance.compacting import compact_all
from svc_storage.domain.maintenance.reporting import Fault, Heard
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.upkeep import HOUR_US
from svc_storage.domain.writing.dead_letters import ClientDeadLetter
from svc_storage.ports import Commit, CommitKind, Committed, WriterState
from tests.contract.storage.backends import SCHEMA, Rig, incoming, rows


async def fill(rig: Rig, commits: int, *, dead: bool = False) -> None:
    stream = await rig.open(keep_bad=True)
    offset = stream.opened.next_offset
    for number in range(commits):
        letters = (ClientDeadLetter(0, "UNPARSEABLE", "", b"?"),) if dead and not number else ()
        await stream.append(incoming(offset, 3, positions={"f": str(offset)}, dead=letters))
        offset += 3 + len(letters)
        await stream.settle()
    await stream.finish()


async def check(rig: Rig, table: OpenTable, **wish: object) -> tuple[bool, list[Fault]]:
    heard = Heard()
    sound = await Checker(table, CheckWish(**wish), heard, rig.clock).check()  # type: ignore[arg-type]
    assert heard.reports[0].verified is sound
    return sound, heard.faults


async def test_a_sound_table_is_sound_after_all_that_happens_to_one(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 5, dead=True)
    await compact_all(table, Heard(), rig.clock, run="")
    await fill(rig, 2)
    assert await check(rig, table) == (True, [])
    table = await rig.restart()
    assert await check(rig, table) == (True, [])
    assert await check(rig, table, sample=0.1) == (True, [])


async def test_a_missing_file_of_the_newest_and_of_a_kept_version(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 3)
    old = next(iter(table.versions.head.files))
    kept = table.head
    await compact_all(table, Heard(), rig.clock, run="")
    await fill(rig, 1)
    new = list(table.versions.head.files)[-1]
    await table.files.remove([old, new])
    sound, faults = await check(rig, table)
    assert not sound
    assert {(fault.code, fault.path, fault.version) for fault in faults} == {
        ("FILE_MISSING", new, table.head),
        ("FILE_MISSING", old, kept),
    }


async def test_missing_dead_letters(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 1, dead=True)
    (letters,) = table.versions.head.dead_letters
    await table.files.remove([letters.path])
    sound, (fault,) = await check(rig, table)
    assert (sound, fault.code, fault.path, fault.version) == (False, "FILE_MISSING", letters.path, 2)


async def test_a_file_with_other_rows_than_the_log_says(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 2)
    path = next(iter(table.versions.head.files))
    await table.files.remove([path])
    await table.files.write(path, [rows(2)], SCHEMA)
    sound, faults = await check(rig, table)
    assert not sound
    assert [(fault.code, fault.path) for fault in faults] == [("FILE_DAMAGED", path)]
    assert await check(rig, table, sample=0.001) != (True, []), "the first file is always read"


async def test_statistics_that_hide_rows(rig: Rig) -> None:
    table = await rig.create()
    written = await table.files.write("l0-bad.parquet", [rows(3, 10)], table.definition.stored_schema.remove(4))
    lying = written.stats_json.replace('"id":12', '"id":11').replace('"status":0', '"status":1')
    assert lying != written.stats_json
    commit = Commit(
        id="x", kind=CommitKind.APPEND, time_us=rig.clock.now_us(), adds=(replace(written, stats_json=lying),)
    )
    await table.committer.turn(lambda: table.committer.commit(lambda: commit))
    sound, faults = await check(rig, table)
    assert not sound
    assert {fault.code for fault in faults} == {"STATISTICS_WRONG"}
    assert [fault.message for fault in faults] == [
        "column id has a value outside of its bounds",
        "column status has 0 NULLs, its statistics say 1",
    ]


async def test_a_position_that_no_rows_carry(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 1)
    state = table.versions.head.writers["w"]
    moved = replace(state, next_offset=state.next_offset + 7, marks=())
    commit = Commit(id="x", kind=CommitKind.APPEND, time_us=rig.clock.now_us(), writers={"w": moved})
    await table.committer.turn(lambda: table.committer.commit(lambda: commit))
    sound, (fault,) = await check(rig, table)
    assert (sound, fault.code, fault.version) == (False, "POSITION_WRONG", table.head)
    assert "writer w moved by 7 and wrote 0" in fault.message


async def test_a_torn_record(rig: Rig) -> None:
    table = await rig.create()
    await table.files.put_record("plans/1-2.json", b'{"base": {"ver')
    sound, (fault,) = await check(rig, table)
    assert (sound, fault.code, fault.path) == (False, "RECORD_DAMAGED", "_millrace/plans/1-2.json")


async def test_an_orphan_is_named_and_removed_only_when_it_is_old_and_asked_for(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 1)
    await table.files.write("l0-orphan.parquet", [rows(1)], SCHEMA)
    sound, (young,) = await check(rig, table, repair=True)
    assert (sound, young.code, young.path, young.harmless, young.repaired) == (
        True,
        "ORPHAN",
        "l0-orphan.parquet",
        True,
        False,
    )
    rig.clock.ahead_us += HOUR_US + 1_000_000
    assert (await check(rig, table))[1][0].repaired is False
    assert (await check(rig, table, repair=True))[1][0].repaired is True
    assert await check(rig, table) == (True, [])


async def test_a_log_that_lost_versions_under_a_running_service(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 5)

    class Lossy:
        capabilities = table.log.capabilities

        async def read_after(self, version: int) -> list[Committed]:
            found = list(await real.read_after(version))
            return [*found[:2], *found[3:-1]]

        async def checkpoints(self) -> list[int]:
            return list(await real.checkpoints())

    real, table.log = table.log, Lossy()  # type: ignore[assignment]
    sound, faults = await check(rig, table)
    table.log = real
    assert not sound
    assert [(fault.code, fault.version) for fault in faults] == [("LOG_GAP", 3), ("LOG_GAP", 6)]


async def test_a_log_that_cannot_be_read(rig: Rig) -> None:
    table = await rig.create()
    await fill(rig, 2)

    class Broken:
        capabilities = table.log.capabilities

        async def read_after(self, version: int) -> list[Committed]:
            raise errors.ChecksumMismatch("version 1 of the log is damaged")

        async def checkpoints(self) -> list[int]:
            return []

    real, table.log = table.log, Broken()  # type: ignore[assignment]
    sound, faults = await check(rig, table)
    table.log = real
    assert not sound
    assert faults[0] == Fault(code="LOG_DAMAGED", message="version 1 of the log is damaged")


def test_another_commit_in_a_served_ones_place_is_seen() -> None:
    def at(version: int, id: str) -> Committed:
        return Committed(version, Commit(id=id, kind=CommitKind.FENCE, time_us=1, writers={"w": WriterState(1)}))

    (fault,) = log_faults(0, [at(1, "a"), at(2, "b")], [at(1, "a"), at(2, "c")])
    assert (fault.code, fault.version) == ("LOG_CHANGED", 2)
