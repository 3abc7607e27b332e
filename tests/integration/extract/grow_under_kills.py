"""A CSV, or a PostgreSQL table, grows while storage is killed with -9 again and again; at the end every row is there once.

`python -m tests.integration.extract.grow_under_kills --rows 1000000 --seconds 120 --kills 20 [--postgres]` says what happened,
and exits 1 on loss.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from adbc_driver_postgresql import dbapi

from millrace.client.tables import Table, create_table
from millrace.errors import MillraceError
from millrace.extract.v1 import extract_pb2 as pb
from tests.integration.extract.processes import Process, both, put_source, until

TABLE, SOURCE = "namespaces/default/tables/grown", "namespaces/default/sources/grown"
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("text", pa.string())])
Grow = Callable[[int, int], None]
"""Adds the rows [first, last) to the source. Blocking."""


@dataclass
class Outcome:
    rows: int = 0
    distinct: int = 0
    kills: int = 0
    kills_with_rows_under_way: int = 0
    dead_letters: int = 0
    seconds: float = 0.0

    def good(self, rows: int) -> bool:
        return self.rows == self.distinct == rows and not self.dead_letters


def growing_csv(path: Path) -> Grow:
    path.write_text("id,text\n")

    def grow(first: int, last: int) -> None:
        with path.open("a") as file:
            file.write("".join(f"{number},{number}\n" for number in range(first, last)))

    return grow


def growing_table(uri: str) -> Grow:
    """Through a driver: a process with gRPC's threads does not fork for each statement."""

    def run(sql: str) -> None:
        with dbapi.connect(uri, autocommit=True) as database, database.cursor() as cursor:
            cursor.execute(sql)

    run("DROP TABLE IF EXISTS grown")
    run("CREATE TABLE grown (id bigint PRIMARY KEY, text text)")

    def grow(first: int, last: int) -> None:
        run(f"INSERT INTO grown SELECT n, n::text FROM generate_series({first}::bigint, {last - 1}::bigint) n")

    return grow


def csv_spec(folder: Path) -> pb.SourceSpec:
    message = pb.FilesConnector(path=str(folder / "*.csv"))
    message.poll_interval.FromMilliseconds(200)
    return pb.SourceSpec(table=TABLE, files=message, continuous=True)


def table_spec() -> pb.SourceSpec:
    message = pb.SqlConnector(
        driver="postgresql", connection="env:MILLRACE_SECRET_PG", table="grown", cursor_column="id", key_columns=["id"]
    )
    message.poll_interval.FromMilliseconds(200)
    return pb.SourceSpec(table=TABLE, sql=message, continuous=True)


async def _kill_again_and_again(
    storage: Process, kills: int, dice: random.Random, given: list[int], outcome: Outcome
) -> None:
    for _ in range(kills):
        await storage.ready()
        await asyncio.sleep(dice.uniform(1.0, 3.0))
        outcome.kills_with_rows_under_way += await _rows(storage) < given[0]
        storage.kill()
        outcome.kills += 1
        storage.start()


async def _rows(storage: Process) -> int:
    """0 while storage does not answer."""
    connection = storage.connection()
    try:
        return int((await Table(connection, TABLE).info()).row_count)
    except MillraceError:
        return 0
    finally:
        await connection.channel.close()


async def run(
    storage: Process,
    extract: Process,
    spec: pb.SourceSpec,
    grow: Grow,
    *,
    rows: int,
    seconds: float,
    kills: int,
    seed: int,
) -> Outcome:
    """`rows` spread over at least `seconds`, `kills` kills of storage, each 1 to 3 s after it was ready."""
    outcome, dice, began, given = Outcome(), random.Random(seed), time.monotonic(), [0]
    storage.start()
    extract.start()
    await storage.ready()
    connection = storage.connection()
    await create_table(connection, TABLE, SCHEMA)
    await extract.ready()
    await put_source(extract, SOURCE, spec)
    killing = asyncio.create_task(_kill_again_and_again(storage, kills, dice, given, outcome))
    while given[0] < rows or not killing.done():
        if killing.done():
            killing.result()
        due = min(rows, int((time.monotonic() - began) * rows / seconds))
        if due > given[0]:
            await asyncio.to_thread(grow, given[0], due)
            given[0] = due
        await asyncio.sleep(0.1)
    killing.result()
    await storage.ready()

    async def all_there() -> bool:
        return await _rows(storage) >= rows

    await until(all_there, 120, f"all {rows} rows in the table")
    found = await Table(connection, TABLE).read(columns=["id"]).to_arrow()
    outcome.dead_letters = (await Table(connection, TABLE).info()).dead_letter_count
    await connection.channel.close()
    outcome.rows, outcome.distinct = found.num_rows, len(found.column("id").unique())
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


async def _main(options: argparse.Namespace, home: Path, uri: str) -> Outcome:
    storage, extract = both(home, **({"MILLRACE_SECRET_PG": uri} if uri else {}))
    spec, grow = (
        (table_spec(), growing_table(uri)) if uri else (csv_spec(home / "files"), growing_csv(home / "files" / "a.csv"))
    )
    try:
        return await run(
            storage,
            extract,
            spec,
            grow,
            rows=options.rows,
            seconds=options.seconds,
            kills=options.kills,
            seed=options.seed,
        )
    finally:
        extract.kill()
        storage.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--postgres", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve()
        if options.postgres:
            from tests.integration.extract.conftest import serve_postgres

            with closing(serve_postgres()) as served:  # type: ignore[type-var]
                outcome = asyncio.run(_main(options, home, next(served).uri))
        else:
            outcome = asyncio.run(_main(options, home, ""))
    print(outcome)
    return 0 if outcome.good(options.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
