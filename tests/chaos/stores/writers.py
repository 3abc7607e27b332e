"""Programs that append numbered rows through the client, die now and then, and remember what they were told is stored."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from millrace import errors
from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection
from millrace.client.ledger import Reread
from millrace.types.v1 import types_pb2
from tests.contract.storage.backends import NAME, rows

SPAN = 10_000_000
"""Ids of writer n are n × SPAN + offset."""


@dataclass
class Writer:
    """`given`: rows that were handed to the client; `acked`: of those, what it said is stored."""

    number: int
    connection: Connection
    dice: random.Random
    rows_per_s: float
    deaths: int = 0
    given: int = 0
    acked: int = 0
    opens: int = 0
    reopened: int = 0

    @property
    def id(self) -> str:
        return f"writer-{self.number}"

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; everything given is acknowledged when this returns. Raises AssertionError when storage forgot something."""
        done = False
        while not done:
            self.opens += 1
            appender = Appender(
                self.connection, AppendOptions(table=NAME, writer_id=self.id, tries=80, commit_interval_s=0.1)
            )
            try:
                opened = await appender.open()
                self.check(opened.next_offset, opened.position)
                done = await self._push(appender, opened.next_offset, stop)
            except (Reread, errors.OffsetGap, errors.OffsetOverlap):
                continue  # what it held is older than what is stored: opens again under a new epoch
            finally:
                self.acked = max(self.acked, appender.acked_offset)
                self.reopened += appender.totals.reopened
                await appender.aclose()

    def check(self, offset: int, position: types_pb2.Position | None) -> None:
        at = int(position.positions["row"]) if position is not None and position.positions else 0
        if offset < self.acked:
            raise AssertionError(f"{self.id}: {self.acked} rows were acknowledged, storage has {offset}")
        if at != offset:
            raise AssertionError(f"{self.id}: position {at} at offset {offset}")

    async def _push(self, appender: Appender, offset: int, stop: asyncio.Event) -> bool:
        loop = asyncio.get_running_loop()
        dies_at = loop.time() + self.dice.uniform(0.5, 2.5) if self.deaths else float("inf")
        while not stop.is_set():
            if loop.time() > dies_at:
                self.deaths -= 1
                return False
            await asyncio.sleep(self.dice.uniform(0.02, 0.1))
            offset = await self._append(appender, offset, self.dice.randint(1, max(2, int(self.rows_per_s * 0.12))))
        while offset < self.given:  # what an earlier life gave and nobody stored
            offset = await self._append(appender, offset, min(100, self.given - offset))
        await appender.finish()
        return True

    async def _append(self, appender: Appender, offset: int, count: int) -> int:
        self.given = max(self.given, offset + count)
        position = types_pb2.Position(positions={"row": str(offset + count)})
        await appender.append(rows(count, self.number * SPAN + offset), position=position)
        self.acked = max(self.acked, appender.acked_offset)
        return offset + count
