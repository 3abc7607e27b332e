"""The ports of a table on every backend: one winner per number, whole commits, repeats by id, files that never change."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest

from millrace import errors
from svc_storage.domain.versions import LogView
from svc_storage.ports import (
    BatchMark,
    Commit,
    CommitKind,
    CommitLog,
    DeadLetterFile,
    LogTrimmed,
    TableFiles,
    VersionTaken,
    WriterState,
)
from tests.contract.storage.backends import SCHEMA, Rig, rows

UID = "0123456789abcdef"


@pytest.fixture
async def table(rig: Rig) -> tuple[CommitLog, TableFiles]:
    await rig.backend.create(UID, SCHEMA, time_us=1_000)
    log, files = rig.backend.open(UID)
    await log.recover()
    return log, files


def commit(name: str, **more: object) -> Commit:
    return replace(Commit(id=name, kind=CommitKind.APPEND, time_us=2_000), **more)


async def test_a_new_table_is_at_version_0(rig: Rig, table: tuple[CommitLog, TableFiles]) -> None:
    tail = await table[0].recover()
    assert (tail.base.version, tail.commits, tail.base.time_us) == (0, (), 1_000)
    assert tail.base.schema.names == SCHEMA.names
    await rig.backend.create(UID, SCHEMA, time_us=9)  # repeating it is no error
    assert (await table[0].recover()).base.time_us == 1_000


async def test_one_of_two_racing_commits_wins(rig: Rig, table: tuple[CommitLog, TableFiles]) -> None:
    other, _ = rig.backend.open(UID)
    await other.recover()
    outcomes = await asyncio.gather(
        table[0].append(commit("a"), after=0), other.append(commit("b"), after=0), return_exceptions=True
    )
    assert Counter(type(outcome) for outcome in outcomes) == {int: 1, VersionTaken: 1}
    assert len((await table[0].recover()).commits) == 1


async def test_a_commit_may_be_repeated_by_its_id(table: tuple[CommitLog, TableFiles]) -> None:
    assert await table[0].append(commit("a"), after=0) == 1
    assert await table[0].append(commit("a"), after=0) == 1
    with pytest.raises(VersionTaken):
        await table[0].append(commit("b"), after=0)
    assert [found.commit.id for found in await table[0].read_after(0)] == ["a"]


async def test_a_commit_comes_back_as_it_went(rig: Rig, table: tuple[CommitLog, TableFiles]) -> None:
    log, files = table
    file = await files.write("l0-a.parquet", [rows(5)], SCHEMA)
    marks = (BatchMark(0, 5, 77),)
    writer = WriterState(3, 5, {"f": "1", "ä": '"'}, 9_000_000, marks, "ada", "sources/x")
    went = commit("a", adds=(file,), writers={"w/1": writer}, event_time_high_us=4, trace_context="00-ab-cd-01")
    await log.append(went, after=0)
    fresh, _ = rig.backend.open(UID)
    (came,) = (await fresh.recover()).commits
    assert came.version == 1
    assert came.commit == replace(went, adds=(replace(file, added_in=1),))
    assert LogView(await fresh.recover()).head.writers == {"w/1": writer}


async def test_a_checkpoint_is_a_base_and_trim_forgets_what_is_below(
    rig: Rig, table: tuple[CommitLog, TableFiles]
) -> None:
    log, files = table
    view = LogView(await log.recover())
    for number in range(6):
        file = await files.write(f"l0-{number}.parquet", [rows(2)], SCHEMA)
        state = WriterState(1, number + 1, {}, None, (BatchMark(number, 1, number),), "ada")
        version = await log.append(commit(str(number), adds=(file,), writers={"w": state}), after=number)
        view.publish((await log.read_after(version - 1))[0])
        if number == 2:
            await log.checkpoint(view.head, {"gone.parquet": 5})
    assert list(await log.checkpoints())[-1] == 3
    await log.trim(3)
    fresh, _ = rig.backend.open(UID)
    tail = await fresh.recover()
    assert (tail.base.version, [found.version for found in tail.commits]) == (3, [4, 5, 6])
    assert tail.removed_us == {"gone.parquet": 5}
    assert LogView(tail).head == view.head


async def test_a_dropped_checkpoint_is_no_base_any_more(rig: Rig, table: tuple[CommitLog, TableFiles]) -> None:
    log, _ = table
    view = LogView(await log.recover())
    for number in range(6):
        version = await log.append(commit(str(number)), after=number)
        view.publish((await log.read_after(version - 1))[0])
        if number % 2:
            await log.checkpoint(view.head, {})
    known = list(await log.checkpoints())
    assert known[-3:] == [2, 4, 6]
    await log.drop_checkpoints([4])
    await log.drop_checkpoints([4])
    assert list(await log.checkpoints()) == [version for version in known if version != 4]
    await log.trim(2)
    fresh, _ = rig.backend.open(UID)
    assert LogView(await fresh.recover()).head == view.head


async def test_who_slept_while_the_log_was_cut_hears_so(rig: Rig, table: tuple[CommitLog, TableFiles]) -> None:
    sleeper, _ = table
    other, _ = rig.backend.open(UID)
    view = LogView(await other.recover())
    for number in range(4):
        version = await other.append(commit(str(number), writers={"w": WriterState(1, number + 1)}), after=number)
        view.publish((await other.read_after(version - 1))[0])
        if number == 2:
            await other.checkpoint(view.head, {})
    await other.trim(3)
    with pytest.raises(VersionTaken):
        await sleeper.append(commit("late"), after=0)
    with contextlib.suppress(LogTrimmed):
        # A log may keep for a while what it has cut: then all of it is told, else there is a gap.
        assert [found.version for found in await sleeper.read_after(0)] in ([4], [1, 2, 3, 4])
    assert (await sleeper.recover()).base.version == 3
    assert await sleeper.append(commit("late", writers={"w": WriterState(1, 9)}), after=4) == 5


async def test_files_are_whole_and_stay(table: tuple[CommitLog, TableFiles]) -> None:
    files = table[1]
    written = await files.write("l1-a.parquet", [rows(3), rows(2, 3)], SCHEMA, level=1)
    assert (written.row_count, written.level) == (5, 1)
    assert sum(batch.num_rows for _, batch in files.batches(written, SCHEMA)) == 5
    middle = list(files.batches(written, SCHEMA.empty_table().select(["id"]).schema, 1, 4))
    assert [(row, batch.to_pydict()["id"]) for row, batch in middle] in ([(1, [1, 2, 3])], [(1, [1, 2]), (3, [3])])
    assert [path for path, _ in await files.list_paths()] == ["l1-a.parquet"]
    await files.remove(["l1-a.parquet", "never.parquet"])
    with pytest.raises(errors.FileMissing):
        list(files.batches(written, SCHEMA))


async def test_a_file_that_fails_half_way_is_not_there(table: tuple[CommitLog, TableFiles]) -> None:
    def broken() -> object:
        yield rows(3)
        raise ValueError("the source broke")

    with pytest.raises(ValueError, match="broke"):
        await table[1].write("l0-a.parquet", broken(), SCHEMA)  # type: ignore[arg-type]
    assert [path for path, _ in await table[1].list_paths()] == []


async def test_records_are_replaced_whole(table: tuple[CommitLog, TableFiles]) -> None:
    files = table[1]
    assert await files.get_record("plans/1.json") is None
    await files.put_record("plans/1.json", b"a")
    await files.put_record("plans/1.json", b"b")
    assert await files.get_record("plans/1.json") == b"b"


async def test_a_dropped_table_is_gone(rig: Rig, table: tuple[CommitLog, TableFiles]) -> None:
    assert await rig.backend.list_uids() == [UID]
    await rig.backend.drop(UID)
    await rig.backend.drop(UID)
    assert await rig.backend.list_uids() == []


async def test_every_type_survives_a_file(rig: Rig) -> None:
    kinds = {
        "a": pa.bool_(), "b": pa.int8(), "c": pa.float32(), "d": pa.decimal128(38, 10), "e": pa.binary(), "f": pa.date32(),
        "g": pa.timestamp("us"), "h": pa.timestamp("us", "UTC"), "i": pa.list_(pa.int16()), "j": pa.map_(pa.string(), pa.int64()),
        "k": pa.struct([pa.field("x", pa.list_(pa.string()))]),
    }  # fmt: skip
    schema = pa.schema(kinds)
    await rig.backend.create(UID, schema, time_us=1)
    log, files = rig.backend.open(UID)
    assert (await log.recover()).base.schema.names == schema.names
    batch = pa.RecordBatch.from_pydict(
        {
            "a": [True, None], "b": [-128, None], "c": [0.1, None], "d": [None, None], "e": [b"\x00", None], "f": [0, None],
            "g": [1, None], "h": [1, None], "i": [[1, None], None], "j": [[("k", None)], None], "k": [{"x": ["y"]}, None],
        },
        schema=schema,
    )  # fmt: skip
    file = await files.write("l0-t.parquet", [batch], schema)
    await log.append(commit("a", adds=(file,)), after=0)
    assert [row for _, found in files.batches(file, schema) for row in found.to_pylist()] == batch.to_pylist()


async def test_what_an_erasure_says_comes_back(rig: Rig, table: tuple[CommitLog, TableFiles]) -> None:
    log, files = table
    letters = [await files.write(f"_millrace/dead_letters/{name}.parquet", [rows(2)], SCHEMA) for name in "ab"]
    dead = tuple(DeadLetterFile(file.path, file.size_bytes, file.row_count) for file in letters)
    await log.append(commit("a", dead_letters=dead[:1]), after=0)
    ending = {"dead_letters_removed": dead[:1], "dead_letters": dead[1:], "expire_below": 1, "gone_us": 1_500}
    await log.append(commit("b", kind=CommitKind.MERGE, **ending), after=1)
    await log.append(commit("c", kind=CommitKind.FENCE, expire_below=2), after=2)
    reopened, _ = rig.backend.open(UID)
    tail = await reopened.recover()
    _, erased, expired = (found.commit for found in tail.commits)
    assert erased.dead_letters_removed[0].path == dead[0].path
    assert (erased.expire_below, erased.gone_us, expired.expire_below, expired.gone_us) == (1, 1_500, 2, 0)
    view = LogView(tail)
    assert [file.path for file in view.head.dead_letters] == [dead[1].path]
    assert (view.oldest, view.erased_below) == (2, 1)
    assert view.goes_us(dead[0].path, 9_999) == 1_500
