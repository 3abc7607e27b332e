"""Several replicas of storage in one process, without the network: each has its own view, leases and committers over one shared store."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from millrace import errors
from svc_storage.adapters.memory.backend import MemoryBackend
from svc_storage.adapters.memory.control import MemoryControl
from svc_storage.domain.control.catalog import TableRows
from svc_storage.domain.control.leadership import Fleet, Leadership
from svc_storage.domain.control.leases import Leases
from svc_storage.domain.definition import define
from svc_storage.domain.opened import Opened, OpenTable
from svc_storage.domain.tables import Tables
from svc_storage.domain.upkeep import Policy, Upkeep
from svc_storage.domain.writing import commit_codec
from svc_storage.domain.writing.appending import AppendStream, OpenRequest
from svc_storage.ports import Backend, Clock, ControlStore, Proposal, RequestMark, TableRow, Version
from tests.contract.storage.backends import BACKENDS, NAME, SCHEMA, Nobody, WallClock

TTL_MS = 5_000 if os.environ.get("FLEET_FULL") else 1_500  # of the committers' leases


class Readers:
    async def slowest(self, table_uid: str) -> Version | None:
        return None


@dataclass
class Network:
    """Who is reached where. `cut`: addresses that are not, `hung`: that never answer. `sent`: proposals that arrived. `lose_answers`: of
    the next ones."""

    replicas: dict[str, Replica] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)
    sent: int = 0
    lose_answers: int = 0

    async def send(self, holder: str, table: TableRow, proposal: Proposal) -> Version:
        if holder in self.cut or holder not in self.replicas:
            raise errors.StoreUnavailable(f"{holder} is not reached")
        if holder in self.hung:
            await asyncio.Event().wait()
        self.sent += 1
        found = await self.replicas[holder].take(table, commit_codec.decode(commit_codec.encode(proposal)))
        if self.lose_answers:
            self.lose_answers -= 1
            raise errors.OutcomeUnknown("the answer was lost")
        return found


class Replica:
    def __init__(
        self, name: str, backend: Backend, control: ControlStore, network: Network, *, policy: Policy, clock: Clock
    ) -> None:
        self.name, self.network = name, network
        self.leases = Leases(control, clock)
        self.leadership = Leadership(self.leases, clock, name=name, address=name, ttl_ms=TTL_MS)
        self.catalog = TableRows(control, clock)
        fleet = Fleet(leader=self.leadership, route=network, replica=name)
        self.opened = Opened(self.catalog, backend, self.leases, clock, fleet)
        self.tables = Tables(self.catalog, backend, self.opened, Nobody(), clock)
        self.upkeep = Upkeep(self.opened, self.catalog, backend, Readers(), clock, policy)
        self._renewing: asyncio.Task[None] | None = None
        network.replicas[name] = self

    async def start(self) -> None:
        await self.leases.start()
        self._renewing = asyncio.create_task(self.leadership.run())

    async def take(self, row: TableRow, proposal: Proposal) -> Version:
        if await self.leadership.holder(row.uid):
            raise errors.LeaseLost("another replica holds it")
        table = await self.opened.table(row.name, uid=row.uid)
        return await table.committer.take(proposal)

    async def table(self, name: str = NAME) -> OpenTable:
        return await self.opened.table(name)

    async def open(self, writer: str = "w", epoch: int = 0, **more: object) -> AppendStream:
        request = OpenRequest(writer=writer, epoch=epoch, principal="tester", **more)  # type: ignore[arg-type]
        return await (await self.table()).committer.open(request)

    def die(self) -> None:
        """As by kill -9: it is not reached, renews nothing, commits nothing more."""
        self.network.cut.add(self.name)
        self.network.replicas.pop(self.name, None)
        for task in (self._renewing, *(table.committer._task for table in self.opened.now_open())):
            if task is not None:
                task.cancel()

    async def close(self) -> None:
        """As by a drain."""
        await self.opened.close()
        await self.leadership.close()
        if self._renewing is not None:
            self._renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewing


@dataclass
class Place:
    """A shared store and whoever runs over it."""

    backend: Backend
    control: ControlStore
    many: int = 10_000  # versions of the full run
    network: Network = field(default_factory=Network)
    clock: WallClock = field(default_factory=WallClock)
    policy: Policy = field(
        default_factory=lambda: Policy(checkpoint_every=10, trim_every_us=0, keep_log_us=0, keep_versions=20)
    )

    async def replica(self, name: str, backend: Backend | None = None) -> Replica:
        made = Replica(name, backend or self.backend, self.control, self.network, policy=self.policy, clock=self.clock)
        await made.start()
        return made

    async def create(self, at: Replica, name: str = NAME) -> OpenTable:
        mark = RequestMark(f"create {name}", "tester", hashlib.sha256(name.encode()).hexdigest())
        await at.tables.create(name, define(SCHEMA, event_time_column="at"), mark)
        return await at.table(name)


@asynccontextmanager
async def two(place: Place) -> AsyncIterator[tuple[Replica, Replica]]:
    a, b = await place.replica("a"), await place.replica("b")
    await place.create(a)
    try:
        yield a, b
    finally:
        for one in (a, b):
            if one.name not in place.network.cut:
                await one.close()


@asynccontextmanager
async def _memory(folder: Path, pool: Executor) -> AsyncIterator[Backend]:
    yield MemoryBackend(shared=True)


_PLACES = {**BACKENDS, "memory": _memory}
SHARED = [name for name in os.environ.get("TEST_BACKENDS", "memory,s3").split(",") if name in _PLACES]
"""As the contract suite's: `TEST_BACKENDS=cassandra`. A backend that one process owns is skipped."""


@asynccontextmanager
async def shared(name: str, folder: Path) -> AsyncIterator[Place]:
    pool = ThreadPoolExecutor(8)
    async with _PLACES[name](folder, pool) as backend:
        if not backend.shared:
            pytest.skip("one process owns this store")
        yield Place(backend, MemoryControl(), many=100_000 if backend.name == "memory" else 10_000)
    pool.shutdown()
