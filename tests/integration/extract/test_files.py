"""A CSV into a Delta table, through both services."""

from __future__ import annotations

from tests.integration.extract.pair import Pair, files


async def test_a_csv_lands_exactly_once(pair: Pair) -> None:
    (pair.folder / "a.csv").write_text(
        "id,name,price\n" + "".join(f"{i},n{i},{i / 4}\n" for i in range(20_000)) + "x,bad,1\n"
    )
    table = await pair.table()
    await pair.put(files(pair.folder, "*.csv"))
    first = await pair.run("r1")
    assert (first.progress.rows_written, first.progress.rows_dead_lettered) == (20_000, 1)
    again = await pair.run("r1")
    assert again.progress.rows_written == 20_000, "the same request attaches"
    other = await pair.run("r2")
    assert other.progress.rows_written == 0
    rows = await table.read().to_arrow()
    assert sorted(rows["id"].to_pylist()) == list(range(20_000))
