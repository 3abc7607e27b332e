"""A million rows, paced, while storage is killed with -9 again and again; afterwards each is there once.

    python -m tests.chaos.million --through push|csv|postgres [--rows 1000000 --seconds 120 --kills 20 --seed 1]

`push`: a program appends through the client. `csv`, `postgres`: extract follows a file, or a table, that grows. The services
are started as a user starts them. Ends 0 when count and distinct are as given.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection
from millrace.client.tables import Table, create_table
from millrace.extract.v1 import extract_pb2, extract_pb2_grpc
from tests.chaos.episode import insist
from tests.chaos.fleet import Fleet
from tests.chaos.nursery import Nursery
from tests.chaos.postgres import Server
from tests.chaos.sources import FIRST_ID, SCHEMA, TABLE, CsvSource, Pace, PostgresSource

SETTLE_LIMIT_S = 300.0
SOURCE = "namespaces/default/sources/million"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """`rows` over at least `seconds`, and `kills` of storage meanwhile, each 1 to 3 s after it was ready."""

    through: str
    rows: int = 1_000_000
    seconds: float = 120.0
    kills: int = 20
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    through: str
    given: int = 0
    count: int = 0
    distinct: int = 0
    lowest: int = 0
    highest: int = 0
    kills: int = 0
    kills_with_unacknowledged_rows: int = 0
    giving_s: float = 0.0
    seconds: float = 0.0
    versions: int = 0

    def good(self, rows: int) -> bool:
        return self.given == self.count == self.distinct == rows and self.highest - self.lowest == rows - 1


class Million:
    """One run. `given` and `stored` say how far the source and storage are."""

    def __init__(
        self, task: Task, folder: Path, postgres: tuple[str, Callable[[str], object]] | None, nursery: Nursery | None
    ) -> None:
        self.task, self.dice = task, random.Random(task.seed)
        env = {"extract": {"MILLRACE_SECRET_PG": postgres[0]}} if postgres else {}
        self.fleet = Fleet(folder, self.dice, nursery=nursery, env=env)
        self.outcome = Outcome(task.through)
        rate = task.rows / task.seconds
        self.csv = CsvSource(self.fleet.files, self.dice, rate, planted=False)
        self.pg = PostgresSource(postgres[1], self.dice, rate) if postgres else None
        self.given: Callable[[], int] = lambda: 0
        self.stored: Callable[[], Any] = self._row_count
        self.storage: Connection
        self._began = 0.0

    async def run(self) -> Outcome:
        fleet, began = self.fleet, time.monotonic()
        await fleet.start_proxies()
        self.storage = fleet.connect(fleet.storage.target)
        try:
            fleet.storage.spawn()
            await fleet.storage.ready()
            await create_table(self.storage, TABLE, SCHEMA, event_time_column="at")
            self._began = time.monotonic()
            giving = await (self._push() if self.task.through == "push" else self._extract())
            await asyncio.gather(giving, self._kill())
            await self._settled()
            await self._count()
            self.outcome.seconds = round(time.monotonic() - began, 1)
            return self.outcome
        finally:
            await fleet.close()

    def _rate(self) -> float:
        """Rows a second, so that what is left lasts as long as the time and the kills that are left."""
        task, passed = self.task, time.monotonic() - self._began
        one_kill_s = passed / self.outcome.kills if self.outcome.kills else 4.0
        left_s = max(task.seconds - passed, (task.kills - self.outcome.kills) * one_kill_s, 1.0)
        return (task.rows - self.given()) / left_s + 50.0

    async def _kill(self) -> None:
        storage = self.fleet.storage
        for _ in range(self.task.kills):
            await storage.ready()
            await asyncio.sleep(self.dice.uniform(1.0, 3.0))
            ends = time.monotonic() + 0.5
            while not (unacked := self.given() > await self.stored()) and time.monotonic() < ends:
                await asyncio.sleep(0.002)
            storage.kill()
            self.outcome.kills += 1
            self.outcome.kills_with_unacknowledged_rows += unacked
            storage.spawn()
        await storage.ready()

    # -- push ----------------------------------------------------------------------------------------------------------
    async def _push(self) -> asyncio.Task[None]:
        writer = Appender(self.storage, AppendOptions(table=TABLE, writer_id="million", tries=100))
        await writer.open()

        async def acked() -> int:
            return writer.acked_offset

        self.given, self.stored = lambda: writer.next_offset, acked
        return asyncio.create_task(self._send(writer))

    async def _send(self, writer: Appender) -> None:
        at, pace = 0, Pace()
        while at < self.task.rows:
            await asyncio.sleep(self.dice.uniform(0.01, 0.1))
            if count := min(pace.due(self._rate()), self.task.rows - at):
                await writer.append(batch_of(at, count))
                at += count
        await writer.finish()
        self.outcome.given, self.outcome.giving_s = at, round(time.monotonic() - self._began, 1)

    # -- through extract -------------------------------------------------------------------------------------------------
    async def _extract(self) -> asyncio.Task[None]:
        extract = self.fleet.extract
        extract.spawn()
        await extract.ready()
        spec = extract_pb2.SourceSpec(table=TABLE, continuous=True)
        if self.pg is not None:
            await self.pg.create()
            spec.sql.CopyFrom(extract_pb2.SqlConnector(driver="postgresql", connection="env:MILLRACE_SECRET_PG", table="src",
                                                       cursor_column="id", key_columns=["id"]))  # fmt: skip
            spec.sql.poll_interval.FromMilliseconds(200)
        else:
            spec.files.path = str(self.fleet.files / "*.csv")
            spec.files.poll_interval.FromMilliseconds(200)
        connection = self.fleet.connect(extract.target)
        stub: Any = extract_pb2_grpc.ExtractServiceStub(connection.channel)
        request = extract_pb2.PutSourceRequest(request_id="put", source=extract_pb2.Source(name=SOURCE, spec=spec))
        await insist(connection, stub.PutSource, request)
        source = self.pg or self.csv
        self.given = lambda: source.account.given
        return asyncio.create_task(self._grow(source))

    async def _grow(self, source: CsvSource | PostgresSource) -> None:
        adjusting = asyncio.create_task(self._adjust(source))
        await source.run(asyncio.Event(), self.task.rows)
        adjusting.cancel()
        self.outcome.given, self.outcome.giving_s = source.account.given, round(time.monotonic() - self._began, 1)

    async def _adjust(self, source: CsvSource | PostgresSource) -> None:
        while True:
            source.rows_per_s = self._rate()
            await asyncio.sleep(0.2)

    async def _row_count(self) -> int:
        return (await Table(self.storage, TABLE).info()).row_count

    # -- the end -----------------------------------------------------------------------------------------------------------
    async def _settled(self) -> None:
        ends = time.monotonic() + SETTLE_LIMIT_S
        while await self._row_count() < self.task.rows:
            if time.monotonic() > ends:
                raise AssertionError(f"{await self._row_count()} of {self.task.rows} rows after {SETTLE_LIMIT_S:g} s")
            await asyncio.sleep(0.2)

    async def _count(self) -> None:
        result = await Table(self.storage, TABLE).read(columns=["id"]).result()
        ids, outcome = result.table.column("id"), self.outcome
        bounds = pc.min_max(ids).as_py()
        outcome.count, outcome.distinct = len(ids), pc.count_distinct(ids).as_py()
        outcome.lowest, outcome.highest = bounds["min"], bounds["max"]
        outcome.versions = (await Table(self.storage, TABLE).info()).version


def batch_of(first: int, count: int) -> pa.RecordBatch:
    numbers = np.arange(first, first + count, dtype=np.int64)
    at = pa.array(numbers * 1_000_000 + 1_767_225_600_000_000).cast(pa.timestamp("us", "UTC"))
    columns = [
        pa.array(numbers + FIRST_ID["push"]),
        pa.array(["push"] * count),
        pa.array(numbers % 1009),
        at,
        pa.array(["n"] * count),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


async def play(task: Task, nursery: Nursery | None = None) -> Outcome:
    """Without a nursery the services are started as a user starts them."""
    with tempfile.TemporaryDirectory(prefix="millrace-million-") as folder, Server() as server:
        postgres = server.address() if task.through == "postgres" else None
        return await Million(task, Path(folder) / "home", postgres, nursery).run()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.million", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--through", choices=("push", "csv", "postgres"), default="push")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    task = Task(**vars(parser.parse_args()))
    outcome = asyncio.run(play(task))
    print(json.dumps(asdict(outcome)))
    return 0 if outcome.good(task.rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
