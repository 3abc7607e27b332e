"""Where an episode's rows come from: a growing CSV, a program that pushes, a PostgreSQL table that grows.

Each keeps its own account of what it gave: good rows by id, bad ones by a mark that is in their bytes.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from millrace import errors
from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection
from millrace.client.ledger import Reread
from millrace.types.v1 import types_pb2

TABLE = "namespaces/default/tables/orders"
OUTPUT = "namespaces/default/tables/doubled"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("amount", pa.int64(), nullable=False),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("note", pa.string()),
    ]
)
FIRST_ID = {"file": 0, "push": 10_000_000, "pg": 20_000_000}
STRANGERS = 5_000_000
"""Number of the first row that nobody may ever see in the table."""
EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def amount_of(number: int) -> int:
    return number * 7919 % 1009


@dataclass(slots=True)
class Account:
    """What a source gave so far. Good rows are all numbers below `given` without the bad ones."""

    origin: str
    given: int = 0
    bad: set[int] = field(default_factory=set)

    @property
    def good(self) -> list[int]:
        """Ids, ascending."""
        first = FIRST_ID[self.origin]
        return [first + number for number in range(self.given) if number not in self.bad]

    @property
    def marks(self) -> list[str]:
        """One for each bad row."""
        return [f"bad-{self.origin}-{number}." for number in sorted(self.bad)]


@dataclass(slots=True)
class Pace:
    """How many rows are due, when they come at a rate that may change."""

    _last: float = field(default_factory=time.monotonic)
    _owed: float = 0.0

    def due(self, rows_per_s: float) -> int:
        """Since the call before."""
        now = time.monotonic()
        self._owed += (now - self._last) * rows_per_s
        self._last = now
        whole = int(self._owed)
        self._owed -= whole
        return whole


@dataclass
class CsvSource:
    """Appends lines to files of `folder`, sometimes half of one. `planted`: some lines are bad."""

    folder: Path
    dice: random.Random
    rows_per_s: float
    planted: bool = True
    account: Account = field(default_factory=lambda: Account("file"))
    _part: int = 0

    async def run(self, stop: asyncio.Event, limit: int | None = None) -> None:
        """Until `stop`, or `limit` rows. `rows_per_s` may change meanwhile."""
        pace = Pace()
        while not stop.is_set() and (limit is None or self.account.given < limit):
            await asyncio.sleep(self.dice.uniform(0.02, 0.08))
            due = pace.due(self.rows_per_s)
            due = due if limit is None else min(due, limit - self.account.given)
            if due > 0:
                await self._append(due)

    async def _append(self, count: int) -> None:
        if self.planted and self.dice.random() < 0.02:
            self._part += 1
        path = self.folder / f"orders-{self._part:03d}.csv"
        lines = [] if path.exists() else ["id,origin,amount,at,note\n"]
        lines += [self._line(number) for number in range(self.account.given, self.account.given + count)]
        data = "".join(lines).encode()
        half = self.dice.randint(0, len(data)) if self.planted and self.dice.random() < 0.3 else len(data)
        with path.open("ab", buffering=0) as file:
            file.write(data[:half])
            if half < len(data):
                await asyncio.sleep(self.dice.uniform(0.0, 0.1))
                file.write(data[half:])
        self.account.given += count

    def _line(self, number: int) -> str:
        moment = (EPOCH + dt.timedelta(seconds=number)).isoformat()
        if self.planted and number % 53 == 17:
            self.account.bad.add(number)
            return f"bad-file-{number}.,file,1,{moment},\n"
        if self.planted and number % 71 == 5:
            self.account.bad.add(number)
            return f"bad-file-{number}.,file\n"
        if self.planted and number % 89 == 11:
            self.account.bad.add(number)
            return f"{number},file,,{moment},bad-file-{number}.\n"
        return f"{number},file,{amount_of(number)},{moment},n\n"


def push_rows(first: int, count: int) -> pa.RecordBatch:
    """Rows by their number in the writer; a few break the table's contract."""
    numbers = range(first, first + count)
    bad = [number % 61 == 7 for number in numbers]
    return pa.RecordBatch.from_pydict(
        {
            "id": [FIRST_ID["push"] + number for number in numbers],
            "origin": ["push"] * count,
            "amount": [None if broken else amount_of(number) for number, broken in zip(numbers, bad, strict=True)],
            "at": [EPOCH + dt.timedelta(seconds=number) for number in numbers],
            "note": [f"bad-push-{number}." if broken else "p" for number, broken in zip(numbers, bad, strict=True)],
        },
        schema=pa.schema([column.with_nullable(True) for column in SCHEMA]),
    )


@dataclass
class Pusher:
    """A program that pushes. It dies sometimes (`deaths`), and starts where storage says that it stands.

    Some deaths are only believed in: the old writer still lives, and later sends rows of its own. It must be refused (`refused`)."""

    connection: Connection
    dice: random.Random
    rows_per_s: float
    deaths: int = 0
    account: Account = field(default_factory=lambda: Account("push"))
    acked: int = 0
    opens: int = 0
    reopened: int = 0
    refused: int = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, then finishes: everything is acknowledged when this returns."""
        done, ghost, haunting = False, None, set[asyncio.Task[None]]()
        while not done:
            self.opens += 1
            writer = Appender(
                self.connection,
                AppendOptions(table=TABLE, writer_id="pusher", dead_letter=True, tries=60, commit_interval_s=0.1),
            )
            try:
                opened = await writer.open()
                if opened.next_offset < self.acked:
                    raise AssertionError(f"{self.acked} rows were acknowledged, storage has {opened.next_offset}")
                self._check_position(opened.position, opened.next_offset)
                if ghost is not None:
                    haunting.add(asyncio.create_task(self._haunt(ghost)))
                    ghost = None
                done = await self._push(writer, opened.next_offset, stop)
                if not done and self.dice.random() < 0.6:
                    ghost = writer
            except (Reread, errors.Reload) as lost:
                if not isinstance(lost, Reread | errors.OffsetGap | errors.OffsetOverlap):
                    raise
            finally:
                self.acked = max(self.acked, writer.acked_offset)
                self.reopened += writer.totals.reopened
                if ghost is not writer:
                    await writer.aclose()
        for told in asyncio.as_completed(haunting):
            await told

    async def _haunt(self, ghost: Appender) -> None:
        """An old writer wakes up behind the back of its successor. Raises AssertionError when storage takes a row from it."""
        await asyncio.sleep(self.dice.uniform(0.3, 1.5))
        try:
            async with asyncio.timeout(60):
                await ghost.append(push_rows(STRANGERS, 5), position=types_pb2.Position(positions={"row": "0"}))
                await ghost.flush()
        except (errors.WriterFenced, errors.WriterSuperseded):
            self.refused += 1
            return
        finally:
            await ghost.aclose()
        raise AssertionError("storage took rows from a writer that has a successor")

    def _check_position(self, position: types_pb2.Position | None, offset: int) -> None:
        at = int(position.positions["row"]) if position is not None and position.positions else 0
        if at != offset:
            raise AssertionError(f"position {at} at offset {offset}")

    async def _push(self, writer: Appender, offset: int, stop: asyncio.Event) -> bool:
        loop = asyncio.get_running_loop()
        dies_at = loop.time() + self.dice.uniform(1.0, 4.0) if self.deaths else float("inf")
        began, base = loop.time(), offset
        while not stop.is_set():
            if loop.time() > dies_at:
                self.deaths -= 1
                return False
            await asyncio.sleep(self.dice.uniform(0.02, 0.08))
            due = base + int((loop.time() - began) * self.rows_per_s) - offset
            while due > 0:
                count = min(due, self.dice.randint(1, 60))
                await self._append(writer, offset, count)
                offset, due = offset + count, due - count
        while offset < self.account.given:  # what an earlier life gave and nobody stored
            count = min(60, self.account.given - offset)
            await self._append(writer, offset, count)
            offset += count
        await writer.finish()
        return True

    async def _append(self, writer: Appender, offset: int, count: int) -> None:
        self.account.bad |= {number for number in range(offset, offset + count) if number % 61 == 7}
        self.account.given = max(self.account.given, offset + count)
        position = types_pb2.Position(positions={"row": str(offset + count)})
        await writer.append(push_rows(offset, count), position=position)
        self.acked = max(self.acked, writer.acked_offset)


@dataclass
class PostgresSource:
    """A table that grows by transactions of its own."""

    run_sql: Callable[[str], object]
    dice: random.Random
    rows_per_s: float
    account: Account = field(default_factory=lambda: Account("pg"))

    async def create(self) -> None:
        await asyncio.to_thread(
            self.run_sql,
            'DROP TABLE IF EXISTS src; CREATE TABLE src (id bigint PRIMARY KEY, origin text, amount bigint, "at" timestamptz, note text)',
        )

    async def run(self, stop: asyncio.Event, limit: int | None = None) -> None:
        pace = Pace()
        while not stop.is_set() and (limit is None or self.account.given < limit):
            await asyncio.sleep(self.dice.uniform(0.05, 0.2))
            due = pace.due(self.rows_per_s)
            due = due if limit is None else min(due, limit - self.account.given)
            if due > 0:
                await asyncio.to_thread(self.run_sql, _insert(self.account.given, due))
                self.account.given += due


def _insert(first: int, count: int) -> str:
    base = FIRST_ID["pg"]
    return (
        f"INSERT INTO src SELECT {base} + n, 'pg', n * 7919 % 1009, timestamptz '2026-01-01 00:00:00+00' + n * interval '1 second', 'd' "
        f"FROM generate_series({first}::bigint, {first + count - 1}::bigint) n"
    )


Source = CsvSource | Pusher | PostgresSource


def expected(accounts: list[Account]) -> pa.Table:
    """The rows that the table has to hold, by id."""
    ids = [one for account in accounts for one in account.good]
    numbers = [one % 10_000_000 for one in ids]
    origins = [account.origin for account in accounts for _ in account.good]
    columns: dict[str, Any] = {"id": ids, "origin": origins, "amount": [amount_of(number) for number in numbers]}
    return pa.table(columns).sort_by("id")
