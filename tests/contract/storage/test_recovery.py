"""Opening a Delta table after kills, power losses and strangers: contracts.md W4 (a) to (c). Files are real."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake

from millrace import errors
from svc_storage.adapters.delta.log import DeltaLog
from svc_storage.adapters.delta.place import LocalPlace
from svc_storage.domain.upkeep import Policy, Upkeep
from svc_storage.ports import Commit, CommitKind
from tests.contract.storage.backends import BACKENDS, Rig, ids, incoming, rows
from tests.contract.storage.test_upkeep import Readers


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Rig]:
    pool = ThreadPoolExecutor(4)
    async with BACKENDS["local"](tmp_path, pool) as backend:
        built = Rig(tmp_path, backend, pool)
        yield built
        await built.close()


async def filled(rig: Rig, commits: int) -> Path:
    table = await rig.create()
    stream = await rig.open()
    for number in range(commits):
        await stream.append(incoming(number * 3, 3))
        await stream.settle()
    return rig.folder / "tables" / table.row.uid


def log_file(folder: Path, version: int) -> Path:
    return folder / "_delta_log" / f"{version:020d}.json"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b'{"commitInfo":{"ti', b"\x00" * 512], ids=["empty", "blank", "torn", "zeros"]
)
async def test_a_newest_commit_that_is_torn_was_never_acknowledged(local: Rig, content: bytes) -> None:
    folder = await filled(local, 4)
    log_file(folder, 5).write_bytes(content)
    table = await local.restart()
    assert table.head == 4
    assert ids(table) == list(range(9))
    stream = await local.open(epoch=1)
    assert stream.opened.next_offset == 9
    await stream.append(incoming(9, 3))
    await stream.finish()
    assert DeltaTable(folder).count() == 12
    assert list((folder / "_millrace" / "quarantine").iterdir())


async def test_a_newest_commit_that_ends_after_its_first_line_is_torn(local: Rig) -> None:
    folder = await filled(local, 4)
    whole = log_file(folder, 5).read_text()
    log_file(folder, 5).write_text(whole.splitlines(keepends=True)[0])
    table = await local.restart()
    assert (table.head, ids(table)) == (4, list(range(9)))


async def test_a_damaged_table_is_still_listed(local: Rig) -> None:
    folder = await filled(local, 3)
    await local.create(name="namespaces/default/tables/whole")
    log_file(folder, 2).write_bytes(b"")
    local.opened._open.clear()
    listed = await local.tables.list("default", after_name="", limit=10)
    assert [state.row.name.rpartition("/")[2] for state in listed] == ["orders", "whole"]
    with pytest.raises(errors.ChecksumMismatch):
        await local.tables.get("namespaces/default/tables/orders")


async def test_a_hint_to_a_missing_checkpoint_goes(local: Rig) -> None:
    folder = await filled(local, 4)
    (folder / "_delta_log" / "_last_checkpoint").write_text('{"version":3,"size":7}')
    table = await local.restart()
    assert ids(table) == list(range(12))
    assert not (folder / "_delta_log" / "_last_checkpoint").exists()


async def test_a_torn_checkpoint_is_moved_aside(local: Rig) -> None:
    folder = await filled(local, 4)
    table = await local.restart()
    policy = Policy(checkpoint_every=1, keep_log_us=0)
    await Upkeep(local.opened, local.catalog, local.backend, Readers(), local.clock, policy).checkpoint(table)
    checkpoint = folder / "_delta_log" / f"{table.head:020d}.checkpoint.parquet"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    table = await local.restart()
    assert ids(table) == list(range(12))
    assert DeltaTable(folder).count() == 12


async def test_an_empty_commit_in_the_middle_is_said(local: Rig) -> None:
    folder = await filled(local, 4)
    log_file(folder, 3).write_bytes(b"")
    with pytest.raises(errors.ChecksumMismatch):
        await local.restart()


async def test_a_missing_commit_in_the_middle_is_said(local: Rig) -> None:
    folder = await filled(local, 4)
    log_file(folder, 3).unlink()
    with pytest.raises(errors.ChecksumMismatch):
        await local.restart()


async def test_a_commit_is_known_by_its_id_when_the_answer_was_lost(local: Rig) -> None:
    folder = await filled(local, 1)
    table = await local.restart()
    log = DeltaLog(LocalPlace(folder), local.pool)
    commit = Commit(id="same", kind=CommitKind.FENCE, time_us=table.versions.head.time_us)
    version = await log.append(commit, after=table.head)
    assert await log.append(commit, after=table.head) == version
    assert DeltaTable(folder).version() == version


async def test_another_programs_commits_are_taken_in(local: Rig) -> None:
    folder = await filled(local, 2)
    table = await local.opened.table("namespaces/default/tables/orders")
    stored = table.definition.stored_schema
    foreign = rows(2, 100).append_column("_ingested_at", rows(2).column("at"))
    write_deltalake(folder, foreign.cast(stored), mode="append")
    stream = await local.open("other")  # its fence loses the race, reloads, wins
    await stream.append(incoming(0, 1))
    await stream.finish()
    assert table.versions.head.row_count == 9
    assert [found.commit.kind for found in table.commits_in(3, table.head)] == [
        CommitKind.APPEND,
        CommitKind.FENCE,
        CommitKind.APPEND,
    ]


async def test_any_delta_reader_opens_the_table(local: Rig) -> None:
    folder = await filled(local, 3)
    table = DeltaTable(folder)
    assert table.to_pyarrow_table().num_rows == 9
    assert table.transaction_version("w") == 1 << 40 | 9
    assert table.metadata().configuration["delta.enableExpiredLogCleanup"] == "false"
    stats = table.get_add_actions(flatten=True)
    assert "min.id" in stats.schema.names
    info = json.loads(log_file(folder, 3).read_text().splitlines()[0])["commitInfo"]
    assert json.loads(info["millrace"])["writers"]["w"][:2] == [1, 6]
