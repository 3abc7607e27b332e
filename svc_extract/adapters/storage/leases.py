"""Leases of storage, renewed by the client's keeper."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from millrace.client.channel import Connection
from millrace.client.leases import LeaseKeeper


class _Held:
    def __init__(self, keeper: LeaseKeeper) -> None:
        self._keeper = keeper
        self.name, self.epoch = keeper.name, keeper.epoch

    async def lost(self) -> None:
        await self._keeper.lost()


class StorageLeases:
    """`holder`: unique for this process ("extract@host:pid:nonce")."""

    def __init__(self, as_extract: Connection, holder: str, ttl_ms: int) -> None:
        self._connection, self._holder, self._ttl_s = as_extract, holder, ttl_ms / 1000
        self._keepers: dict[str, LeaseKeeper] = {}
        self.lost = 0

    def held(self) -> list[tuple[str, int, float]]:
        """Name, epoch, and when it was last renewed (monotonic seconds)."""
        return [(one.name, one.epoch, one.renewed_at) for one in self._keepers.values()]

    def _count(self, _: object) -> None:
        self.lost += 1

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[_Held]:
        made = LeaseKeeper(self._connection, name, self._holder, ttl_s=self._ttl_s, on_lost=self._count)
        async with made as keeper:
            self._keepers[name] = keeper
            try:
                yield _Held(keeper)
            finally:
                self._keepers.pop(name, None)
