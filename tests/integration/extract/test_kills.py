"""Real processes: storage killed while a source grows, extract stopped past its lease, extract killed at each of its steps."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pyarrow as pa
import pytest

from millrace.client.tables import Table, create_table
from tests.integration.extract.conftest import Postgres
from tests.integration.extract.grow_under_kills import (
    SCHEMA,
    SOURCE,
    TABLE,
    csv_spec,
    growing_csv,
    growing_table,
    run,
    table_spec,
)
from tests.integration.extract.processes import Process, another_extract, both, put_source, until


async def test_a_csv_grows_while_storage_is_killed(tmp_path: Path) -> None:
    storage, extract = both(tmp_path)
    try:
        grow = growing_csv(tmp_path / "files" / "a.csv")
        outcome = await run(
            storage, extract, csv_spec(tmp_path / "files"), grow, rows=20_000, seconds=4, kills=2, seed=7
        )
    finally:
        extract.kill()
        storage.kill()
    assert outcome.good(20_000), outcome


@pytest.mark.needs("postgres")
async def test_a_postgresql_table_grows_while_storage_is_killed(tmp_path: Path, postgres: Postgres) -> None:
    storage, extract = both(tmp_path, MILLRACE_SECRET_PG=postgres.uri)
    try:
        outcome = await run(
            storage, extract, table_spec(), growing_table(postgres.uri), rows=20_000, seconds=4, kills=2, seed=8
        )
    finally:
        extract.kill()
        storage.kill()
    assert outcome.good(20_000), outcome
    assert postgres.uri not in extract.log


async def test_one_that_slept_past_its_lease_is_refused(tmp_path: Path) -> None:
    storage, first = both(tmp_path)
    second = another_extract(tmp_path, storage)
    path = tmp_path / "files" / "a.csv"
    grow = growing_csv(path)
    try:
        storage.start()
        first.start()
        await storage.ready()
        await first.ready()
        connection = storage.connection()
        await create_table(connection, TABLE, SCHEMA)
        table = Table(connection, TABLE)
        await put_source(first, SOURCE, csv_spec(tmp_path / "files"))
        stop = asyncio.Event()
        given = [0]

        async def grow_on() -> None:
            while not stop.is_set():
                await asyncio.to_thread(grow, given[0], given[0] + 50)
                given[0] += 50
                await asyncio.sleep(0.02)

        growing = asyncio.create_task(grow_on())

        async def has(rows: int) -> bool:
            return (await table.info()).row_count >= rows

        await until(lambda: has(500), 30, "rows through the first")
        first.send(signal.SIGSTOP)
        second.start()
        await second.ready()
        mark = given[0]
        await until(lambda: has(mark), 40, "rows through the second")
        first.send(signal.SIGCONT)

        async def refused() -> bool:
            return any(
                word in first.log
                for word in ("WRITER_FENCED", "LEASE_LOST", "could not be renewed", "another epoch", "took over")
            )

        await until(refused, 20, "the first is refused")
        stop.set()
        await growing
        await until(lambda: has(given[0]), 40, "all rows")
        ids = (await table.read(columns=["id"]).to_arrow()).column("id")
        await connection.channel.close()
    finally:
        first.send(signal.SIGCONT)
        for process in (first, second, storage):
            process.kill()
    assert sorted(ids.to_pylist()) == list(range(given[0]))


STEPS = ("after_read", "after_append", "before_finish")
"""The runner in tests/chaos takes all of them; each costs the time of a lease."""


async def test_extract_dies_at_each_of_its_steps(tmp_path: Path) -> None:
    storage, extract = both(tmp_path)
    path = tmp_path / "files" / "a.csv"
    grow = growing_csv(path)
    rows = 3000
    try:
        storage.start()
        await storage.ready()
        connection = storage.connection()
        await create_table(connection, TABLE, pa.schema(list(SCHEMA)))
        table = Table(connection, TABLE)
        extract.start()
        await extract.ready()
        await put_source(extract, SOURCE, csv_spec(tmp_path / "files"))
        for number, step in enumerate(STEPS):
            extract.kill()
            await asyncio.to_thread(grow, number * rows, (number + 1) * rows)
            extract.start(MILLRACE_FAILPOINTS=f"extract.{step}=kill")
            if step in ("before_finish", "after_finish"):
                await extract.ready()
                await asyncio.sleep(1.5)
                extract.send(signal.SIGTERM)
            await until(lambda: _dead(extract), 30, f"the kill at {step}")
        extract.kill()
        extract.start()

        async def all_there() -> bool:
            return (await table.info()).row_count >= rows * len(STEPS)

        await until(all_there, 40, "all rows")
        ids = (await table.read(columns=["id"]).to_arrow()).column("id")
        await connection.channel.close()
    finally:
        extract.kill()
        storage.kill()
    assert sorted(ids.to_pylist()) == list(range(rows * len(STEPS)))


async def _dead(process: Process) -> bool:
    return process.ended()
