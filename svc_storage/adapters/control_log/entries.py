"""What a store must offer to hold the log, and the same in memory for tests and for several replicas in one process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol


class Entries(Protocol):
    """Numbered entries without gaps, from 1. An entry is whole and durable as soon as anybody can see it, and never changes."""

    async def put_if_absent(self, n: int, data: bytes) -> bytes | None:
        """None: `data` stands at `n` now. Else what stood there before it; that may be `data` itself, from an earlier try.

        Raises StoreUnavailable (nothing happened) and OutcomeUnknown (it may have happened, or may still)."""

    async def read_from(self, n: int, limit: int) -> Sequence[bytes]:
        """Entries n, n + 1, … up to the first that is not there, at most `limit`. Sees every put that was answered before the call."""

    async def put_snapshot(self, n: int, data: bytes) -> None:
        """The state after entry n. Visible only whole; putting it twice is no error."""

    async def snapshots(self) -> Sequence[int]:
        """The numbers of those there are, ascending."""

    async def get_snapshot(self, n: int) -> bytes | None: ...

    async def trim(self, below: int, *, snapshots_below: int) -> None:
        """Forgets entries below `below`, the lowest first, and snapshots below `snapshots_below`. It may keep some of them."""

    async def close(self) -> None: ...


class MemoryEntries:
    """May be given to several stores of one event loop: each of them is a replica then. `delay_s`: of each call."""

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self.entries: dict[int, bytes] = {}
        self.held: dict[int, bytes] = {}
        self.delay_s = delay_s
        self.calls = 0

    async def put_if_absent(self, n: int, data: bytes) -> bytes | None:
        await self._travel()
        before = self.entries.setdefault(n, data)
        await self._travel()
        return None if before is data else before

    async def read_from(self, n: int, limit: int) -> Sequence[bytes]:
        await self._travel()
        found: list[bytes] = []
        while len(found) < limit and (data := self.entries.get(n + len(found))) is not None:
            found.append(data)
        await self._travel()
        return found

    async def put_snapshot(self, n: int, data: bytes) -> None:
        await self._travel()
        self.held[n] = data

    async def snapshots(self) -> Sequence[int]:
        await self._travel()
        return sorted(self.held)

    async def get_snapshot(self, n: int) -> bytes | None:
        await self._travel()
        return self.held.get(n)

    async def trim(self, below: int, *, snapshots_below: int) -> None:
        await self._travel()
        for n in [n for n in self.entries if n < below]:
            del self.entries[n]
        for n in [n for n in self.held if n < snapshots_below]:
            del self.held[n]

    async def close(self) -> None:
        return None

    async def _travel(self) -> None:
        self.calls += 1
        await asyncio.sleep(self.delay_s / 2)
