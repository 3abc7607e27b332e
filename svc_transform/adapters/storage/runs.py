"""Runs that somebody asked for, and leases: the client's core and the server's ledger behind transform's ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from millrace.client.channel import Connection
from millrace.client.leases import LeaseKeeper
from millrace.client.resources import HeldBy
from millrace.server import runs
from millrace.server.admin import HeldLease
from millrace.types.v1 import run_pb2
from svc_transform.convert.specs import planned_to_proto
from svc_transform.ports import Plan, Recipe, Written


class StoredRuns:
    """The Runs port."""

    def __init__(self, storage: Connection, requests: runs.Requests, worker: str) -> None:
        self._connection, self._requests, self._worker = storage, requests, worker

    async def requested(self, recipe: Recipe, epoch: int) -> AsyncIterator[StoredRun]:
        held = HeldBy(recipe.lease, epoch)
        async for request in self._requests.of(recipe.name):
            reporter = runs.Reporter(self._connection, request, held, self._worker)
            yield StoredRun(reporter, request, lambda name=request.name: self._requests.is_cancelled(name))  # type: ignore[misc]


class StoredRun:
    """The RunLog port."""

    def __init__(self, reporter: runs.Reporter, request: runs.Request, cancelled: Callable[[], bool]) -> None:
        self._reporter, self._cancelled = reporter, cancelled
        self.full_refresh = request.spec.full_refresh

    @property
    def cancelled(self) -> bool:
        return self._cancelled()

    async def started(self) -> None:
        await self._reporter.started()

    async def planned(self, step: Plan) -> None:
        await self._reporter.planned(planned_to_proto(step))

    async def progress(self, rows_read: int, written: Written) -> None:
        await self._reporter.progress(
            run_pb2.RunProgress(
                rows_read=rows_read,
                rows_written=written.rows,
                rows_dead_lettered=written.dead_lettered,
                version=written.version,
            )
        )

    async def finished(self, error: BaseException | None, *, cancelled: bool = False) -> None:
        if cancelled or (error is not None and self.cancelled):
            await self._reporter.finished(run_pb2.RUN_STATE_CANCELLED)
        elif error is not None:
            await self._reporter.finished(run_pb2.RUN_STATE_FAILED, error)
        else:
            await self._reporter.finished(run_pb2.RUN_STATE_SUCCEEDED)


@dataclass(slots=True)
class StoredHeld:
    """The Held port."""

    epoch: int
    lost: asyncio.Future[None]


class StoredLeases:
    """The Leases port."""

    def __init__(self, storage: Connection, holder: str, *, ttl_s: float) -> None:
        self._connection, self._holder, self._ttl_s = storage, holder, ttl_s
        self._held: dict[str, LeaseKeeper] = {}
        self.lost = 0

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[StoredHeld]:
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def gone(_: object) -> None:
            self.lost += 1
            if not lost.done():
                lost.set_result(None)

        keeper = LeaseKeeper(self._connection, name, self._holder, ttl_s=self._ttl_s, on_lost=gone)
        epoch = await keeper.acquire(wait=True)
        self._held[name] = keeper
        try:
            yield StoredHeld(epoch, lost)
        finally:
            self._held.pop(name, None)
            await asyncio.shield(keeper.release())

    def held(self) -> tuple[HeldLease, ...]:
        """For GetStatus."""
        return tuple(HeldLease(name, keeper.epoch, keeper.renewed_at) for name, keeper in self._held.items())
