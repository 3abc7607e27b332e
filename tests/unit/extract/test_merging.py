"""Many small files are few batches, and every record keeps its place."""

from __future__ import annotations

from tests.unit.extract.conftest import World, files, finished

HEADER = "id,name,price\n"


async def test_what_lies_before_a_file_that_is_refused_is_kept(world: World) -> None:
    (world.folder / "a.csv").write_text(f"{HEADER}1,a,1\n")
    (world.folder / "b.csv").write_text("id,color\n2,red\n")
    await world.put(files(world.folder, "*.csv"))
    async with world.working():
        done = finished(await world.run("r1"))
    assert done.error is not None
    assert done.error.reason == "SCHEMA_MISMATCH"
    assert [row["id"] for row in world.table.rows()] == [1]


async def test_small_files_share_batches(world: World) -> None:
    for number in range(300):
        (world.folder / f"{number:03d}.csv").write_text(f"{HEADER}{number},a,1\nx{number},b,2\n{number + 1000},c,3")
    await world.put(files(world.folder, "*.csv"))
    async with world.working():
        done = finished(await world.run("r1"))
        again = finished(await world.run("r2"))
    assert (done.progress.rows_written, done.progress.rows_dead_lettered, again.progress.rows_read) == (600, 300, 0)
    assert len(world.table.batches) == 1
    assert [row["id"] for row in world.table.rows()] == [
        one for number in range(300) for one in (number, number + 1000)
    ]
    assert [(one.row_index, one.raw) for one in world.table.letters] == [
        (3 * number + 1, f"x{number},b,2".encode()) for number in range(300)
    ]
