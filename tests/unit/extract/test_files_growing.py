"""Files that grow, appear, shrink, move: each line once, and a stop with its reason where that cannot be promised."""

from __future__ import annotations

import asyncio
import gzip
import os
from pathlib import Path

import pytest

from millrace.errors import RequestIdReused
from svc_extract.ports import Position, RunState, WorkState
from tests.unit.extract.conftest import CAUGHT_UP, World, files, finished

HEADER = "id,name,price\n"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def ids(world: World) -> list[object]:
    return [row["id"] for row in world.table.rows()]


async def test_appended_lines_and_new_files_are_picked_up(world: World) -> None:
    path = world.folder / "a.csv"
    path.write_text(HEADER + "1,a,1\n2,b")
    await world.put(files(world.folder, "*.csv", continuous=True))
    async with world.working():
        await world.until(lambda: ids(world) == [1])
        append(path, ",2\n3,c,3\n")
        await world.until(lambda: ids(world) == [1, 2, 3])
        (world.folder / "b.csv").write_text(HEADER + "4,d,4\n")
        await world.until(lambda: ids(world) == [1, 2, 3, 4])
        await world.until(lambda: world.status().progress.rows_written == 4)
        await world.until(lambda: world.status().activity == "waiting for new lines")
        assert world.status().state is WorkState.IDLE


async def test_a_file_seen_empty_and_with_half_a_header_is_no_other_file(world: World) -> None:
    await world.put(files(world.folder, "*.csv", continuous=True))
    (world.folder / "a.csv").write_text(HEADER + "1,a,1\n")
    async with world.working():
        await world.until(lambda: ids(world) == [1])
        path = world.folder / "b.csv"
        path.touch()
        await world.until(lambda: world.status().activity == "waiting for new lines")
        for text in ("id,na", "me,price\n", "2,b", ",2\n"):
            await asyncio.sleep(0.05)  # a look between two writes is what this is about
            append(path, text)
        await world.until(lambda: ids(world) == [1, 2])
        assert world.status().state is not WorkState.PAUSED


async def test_a_restart_goes_on_behind_the_last_commit(world: World) -> None:
    path = world.folder / "a.csv"
    path.write_text(HEADER + "1,a,1\n2,b,2\n")
    await world.put(files(world.folder, "*.csv", continuous=True))
    async with world.working():
        await world.until(lambda: len(ids(world)) == 2)
    append(path, "3,c,3\n")
    async with world.working():
        await world.until(lambda: len(ids(world)) == 3)
    assert ids(world) == [1, 2, 3]


async def test_once_reads_an_unterminated_line_and_refuses_its_continuation(world: World) -> None:
    path = world.folder / "a.csv"
    path.write_text(HEADER + "1,a,1\n2,b,2")
    await world.put(files(world.folder, "*.csv"))
    async with world.working():
        finished(await world.run("r1"))
        assert ids(world) == [1, 2]
        append(path, "\n3,c,3\n4,d,4")
        finished(await world.run("r2"))
        assert ids(world) == [1, 2, 3, 4]
        append(path, "000\n")
        error = finished(await world.run("r3")).error
    assert error is not None
    assert "went on" in error.message


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda path: path.write_text(HEADER), "FILE_SHRANK"),
        (lambda path: path.write_text(HEADER + "9,z,9\n" * 50), "FILE_REPLACED"),
        (lambda path: _replace(path, HEADER + "9,z,9\n" * 50), "FILE_REPLACED"),
    ],
)
async def test_a_shrunk_or_replaced_file_pauses_the_source(world: World, change: object, cause: str) -> None:
    path = world.folder / "a.csv"
    path.write_text(HEADER + "1,a,1\n2,b,2\n3,c,3\n")
    await world.put(files(world.folder, "*.csv", continuous=True))
    async with world.working():
        await world.until(lambda: len(ids(world)) == 3)
        change(path)  # type: ignore[operator]
        source = await world.state(WorkState.PAUSED)
    assert source.status.cause.startswith(f"{cause}: `a.csv`")
    assert ids(world) == [1, 2, 3]


def _replace(path: Path, text: str) -> None:
    other = path.with_name("other.tmp")
    other.write_text(text)
    other.replace(path)


async def test_a_rotated_file_keeps_its_place(world: World) -> None:
    path = world.folder / "app.csv"
    path.write_text(HEADER + "1,a,1\n")
    await world.put(files(world.folder, "app.csv*", continuous=True, format=1))
    async with world.working():
        await world.until(lambda: ids(world) == [1])
        append(path, "2,b,2\n")
        path.rename(world.folder / "app.csv.1")
        path.write_text(HEADER + "3,c,3\n")
        await world.until(lambda: len(ids(world)) == 3)
        append(path, "4,d,4\n")
        await world.until(lambda: len(ids(world)) == 4)
    assert sorted(ids(world)) == [1, 2, 3, 4]  # type: ignore[type-var]


async def test_gzip_is_read_once_whole(world: World) -> None:
    path = world.folder / "a.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "".join(f"{i},n,{i}\n" for i in range(100_000))).encode()))
    await world.put(files(world.folder, "*.gz"))
    async with world.working():
        assert finished(await world.run("r1")).progress.rows_written == 100_000
        os.utime(path)
        assert finished(await world.run("r2")).progress.rows_read == 0


async def test_gzip_that_is_not_whole_yet_waits(world: World) -> None:
    whole = gzip.compress((HEADER + "".join(f"{i},n,{i}\n" for i in range(50_000))).encode())
    path = world.folder / "a.csv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    await world.put(files(world.folder, "*.gz", continuous=True))
    async with world.working():
        await world.state(WorkState.IDLE)
        path.write_bytes(whole)
        await world.until(lambda: len(ids(world)) == 50_000)
    assert ids(world) == list(range(50_000))


async def test_a_start_may_be_overridden_once(world: World) -> None:
    (world.folder / "a.csv").write_text(HEADER + "1,a,1\n2,b,2\n")
    await world.put(files(world.folder, "*.csv"))
    async with world.working():
        await world.run("r1")
        await world.run("again", start_override=Position({}))
        assert ids(world) == [1, 2, 1, 2]
        await world.run("again", start_override=Position({}))
        await world.run("r3")
        assert ids(world) == [1, 2, 1, 2], "the same request attaches; the next run starts at the committed position"
        with pytest.raises(RequestIdReused):
            await world.run("again")


async def test_until_caught_up_leaves_an_unterminated_line(world: World) -> None:
    (world.folder / "a.csv").write_text(HEADER + "1,a,1\n2,b,2")
    await world.put(files(world.folder, "*.csv"))
    async with world.working():
        assert finished(await world.run("r1", mode=CAUGHT_UP)).state is RunState.SUCCEEDED
    assert ids(world) == [1]
