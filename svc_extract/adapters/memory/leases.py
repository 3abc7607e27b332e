"""Leases in memory, shared by the workers of one test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from millrace.errors import LeaseHeld


class MemoryLease:
    def __init__(self, name: str, epoch: int) -> None:
        self.name, self.epoch = name, epoch
        self.gone = asyncio.Event()

    async def lost(self) -> None:
        await self.gone.wait()


class MemoryLeases:
    """`take(name)` is what another holder's Acquire after the ttl would do. `floors`: epochs that writers took by themselves."""

    def __init__(self) -> None:
        self._epochs: dict[str, int] = {}
        self._held: dict[str, MemoryLease] = {}

    def current_epoch(self, name: str) -> int:
        return self._epochs.get(name, 0)

    def take(self, name: str, *, tell: bool = True) -> MemoryLease:
        """Takes it from whoever holds it; with `tell` that one notices at once."""
        before = self._held.pop(name, None)
        if before is not None and tell:
            before.gone.set()
        lease = MemoryLease(name, self.current_epoch(name) + 1)
        self._epochs[name], self._held[name] = lease.epoch, lease
        return lease

    def release(self, lease: MemoryLease) -> None:
        if self._held.get(lease.name) is lease:
            del self._held[lease.name]

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[MemoryLease]:
        if name in self._held:
            raise LeaseHeld(f"another holder has the lease `{name}`", retry_after_ms=50)
        lease = self.take(name)
        try:
            yield lease
        finally:
            self.release(lease)
