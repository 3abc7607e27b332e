"""Maintenance runs as stored resources, worked on by whoever holds `maintenance/<table>`: storage is here its own client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from millrace import errors
from millrace.client.channel import Connection
from millrace.client.leases import LeaseKeeper
from millrace.client.resources import HeldBy
from millrace.server import runs
from millrace.types.v1 import run_pb2
from svc_storage.convert import maintenance as convert
from svc_storage.domain.maintenance.reporting import Done, Fault, RunCancelled, TableReport
from svc_storage.domain.maintenance.work import Maintenance

MAX_FAULTS = 500
"""Of one run: its newest 1,000 events are kept."""
PAUSE_S = 2.0
_NONE: errors.MillraceError | None = None
_log = logging.getLogger(__name__)


class StoredTeller:
    """The Teller port over a run's events."""

    def __init__(self, reporter: runs.Reporter, held: LeaseKeeper, is_cancelled: Callable[[], bool]) -> None:
        self._reporter, self._held, self._is_cancelled = reporter, held, is_cancelled
        self._faults = 0

    async def progress(self, done: Done) -> None:
        await self._reporter.progress(convert.progress_to(done))

    async def report(self, report: TableReport) -> None:
        await self._reporter.report(convert.report_to(report))

    async def fault(self, fault: Fault) -> None:
        self._faults += 1
        if self._faults <= MAX_FAULTS:
            await self._reporter.fault(convert.fault_to(fault))

    def check(self) -> None:
        self._held.check()
        if self._is_cancelled():
            raise RunCancelled


class MaintenanceRuns:
    """What servicers ask (`ledger`) and what works in the background (`work`). Both from `connect` on."""

    def __init__(self, maintenance: Maintenance, worker: str, *, ttl_s: float = 5.0) -> None:
        self._maintenance, self._worker, self._ttl_s = maintenance, worker, ttl_s
        self._connection: Connection | None = None
        self._ledger: runs.Runs | None = None
        self._active: dict[str, asyncio.Task[None]] = {}  # by table
        self._done: set[str] = set()  # runs ended here; the watch may not have said so yet
        self._stopped = False

    def connect(self, storage: Connection) -> None:
        self._connection, self._ledger = storage, runs.Runs(storage)

    def ledger(self) -> runs.Runs:
        """Raises Starting before `connect`."""
        if self._ledger is None:
            raise errors.Starting("storage has just begun to listen", retry_after_ms=100)
        return self._ledger

    async def work(self) -> None:
        """Until cancelled: takes up every run that has not ended, one at a time per table."""
        if self._connection is None:
            raise errors.Starting("not connected")
        requests = runs.Requests(self._connection, *convert.KINDS)
        watch = asyncio.create_task(requests.watch(), name="maintenance requests")
        try:
            async with aclosing(requests.subjects()) as subjects:  # type: ignore[type-var]
                async for table in subjects:
                    self._begin(requests, table)
        finally:
            watch.cancel()
            await asyncio.gather(watch, *self._active.values(), return_exceptions=True)

    async def stop(self) -> None:
        """Ends what is under way between two steps and gives the leases back; another replica, or the next start, goes on."""
        self._stopped = True
        tasks = list(self._active.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, requests: runs.Requests, table: str) -> None:
        if self._stopped or table in self._active or not self._waiting(requests, table):
            return
        task = asyncio.create_task(self._tend(requests, table), name=f"maintenance of {table}")
        self._active[table] = task

        def ended(_: object) -> None:
            self._active.pop(table, None)
            self._begin(requests, table)  # what came while the lease was given back

        task.add_done_callback(ended)

    def _waiting(self, requests: runs.Requests, table: str) -> list[runs.Request]:
        return [request for request in requests.waiting(table) if request.name not in self._done]

    async def _tend(self, requests: runs.Requests, table: str) -> None:
        """Everything that waits for one table."""
        assert self._connection is not None
        keeper = LeaseKeeper(self._connection, f"maintenance/{table}", self._worker, ttl_s=self._ttl_s)
        try:
            await keeper.acquire(wait=True)
            while waiting := self._waiting(requests, table):
                keeper.check()
                await self._run(requests, keeper, waiting[0])
        except errors.MillraceError as failed:
            _log.warning("maintenance of %s stopped: %s", table, failed.message)
            await asyncio.sleep(PAUSE_S)
        finally:
            await asyncio.shield(keeper.release())

    async def _run(self, requests: runs.Requests, keeper: LeaseKeeper, request: runs.Request) -> None:
        assert self._connection is not None
        reporter = runs.Reporter(self._connection, request, HeldBy(keeper.name, keeper.epoch), self._worker)
        if reporter.run.state in runs.ENDED:
            self._done.add(request.name)
            return
        await reporter.started()
        state, error = run_pb2.RUN_STATE_SUCCEEDED, _NONE
        working = asyncio.create_task(self._do(requests, keeper, request, reporter))
        lost = asyncio.create_task(keeper.lost())
        try:
            await asyncio.wait({working, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise lost.result()
            working.result()
        except RunCancelled:
            state = run_pb2.RUN_STATE_CANCELLED
        except errors.LeaseLost:
            raise
        except (errors.RetryLater, errors.OutcomeUnknown) as failed:
            _log.warning("the run %s waits: %s", request.name, failed.message)
            await asyncio.sleep((failed.retry_after_ms or 1_000) / 1_000)
            return
        except errors.MillraceError as failed:
            state, error = run_pb2.RUN_STATE_FAILED, failed
        except Exception as failed:
            _log.exception("the run %s failed", request.name)
            state, error = run_pb2.RUN_STATE_FAILED, errors.Unexpected(f"the run failed: {type(failed).__name__}")
        finally:
            for task in (working, lost):
                task.cancel()
            await asyncio.gather(working, lost, return_exceptions=True)
        await reporter.finished(state, error)
        self._done.add(request.name)

    async def _do(
        self, requests: runs.Requests, keeper: LeaseKeeper, request: runs.Request, reporter: runs.Reporter
    ) -> None:
        teller = StoredTeller(reporter, keeper, lambda: requests.is_cancelled(request.name))
        task = convert.stored_task(request.spec)
        run = request.name.rpartition("/")[2]
        teller.check()
        await self._maintenance.run(request.spec.subject, task, teller, run=run, principal=request.spec.requested_by)
