"""CSV files, ONCE and continuously: each row once, bad ones kept, nothing invented."""

from __future__ import annotations

from svc_extract.ports import RunState
from tests.unit.extract.conftest import World, files, finished


async def test_a_file_is_read_once_whole(world: World) -> None:
    (world.folder / "a.csv").write_text("id,name,price\n" + "".join(f"{i},n{i},{i / 4}\n" for i in range(50_000)))
    await world.put(files(world.folder, "*.csv"))
    async with world.working():
        first = finished(await world.run("r1"))
        again = finished(await world.run("r2"))
    assert first.state is again.state is RunState.SUCCEEDED
    assert [row["id"] for row in world.table.rows()] == list(range(50_000))
    assert first.progress.rows_written == first.progress.rows_read == 50_000
    assert again.progress.rows_written == 0
