"""Keeps one source at work: takes its lease, runs sessions one after another, and decides what a failure means."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from millrace.errors import (
    LeaseHeld,
    LeaseLost,
    MillraceError,
    Missing,
    OutcomeUnknown,
    Reload,
    RetryLater,
    SourceUnavailable,
    WriterFenced,
    WriterSuperseded,
)
from svc_extract.domain.names import writer_of
from svc_extract.domain.reporting import Reporter, failure_of
from svc_extract.domain.session import Tools, Work, session
from svc_extract.ports import HeldLease, LeaseKeeping, Run, RunState, Source, WorkState

RUN_TRIES = 5
"""How often a run tries a source that cannot be reached, or a table that is not there. Storage is waited for without end."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """Pauses between tries: `first_s`, doubled up to `longest_s`, with jitter."""

    first_s: float
    longest_s: float

    def pause_s(self, failed: int) -> float:
        return min(self.longest_s, self.first_s * float(2 ** min(failed, 16))) * random.uniform(0.5, 1.0)


PACES: tuple[tuple[type[BaseException], Pace], ...] = (
    (Reload, Pace(0.05, 5.0)),
    (OutcomeUnknown, Pace(0.1, 5.0)),
    (SourceUnavailable, Pace(0.5, 30.0)),
    (RetryLater, Pace(0.2, 10.0)),
    (Missing, Pace(1.0, 30.0)),
    (Exception, Pace(1.0, 60.0)),
)
_TAKEN = (LeaseLost, WriterFenced, WriterSuperseded)
_AGAIN = (Reload, OutcomeUnknown, RetryLater, Missing)


@dataclass(slots=True)
class Wanted:
    """What a source should do. The supervisor changes it and sets `changed`."""

    source: Source
    runs: dict[str, Run] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def next_run(self) -> Run | None:
        """The oldest that has not ended."""
        waiting = [run for run in self.runs.values() if not run.state.ended]
        return min(waiting, key=lambda run: (run.create_us, run.name), default=None)


class SourceLoop:
    """`run` returns when there is nothing (more) to do; the supervisor starts it again when there is."""

    def __init__(self, wanted: Wanted, tools: Tools, leases: LeaseKeeping, still_open: Callable[[], bool]) -> None:
        self._wanted, self._tools, self._leases, self._open = wanted, tools, leases, still_open
        self._settled_generation = -1
        self._failed = 0
        self._work: Work | None = None

    def has_work(self) -> bool:
        source = self._wanted.source
        continuous = source.spec.continuous and not source.spec.paused and source.generation != self._settled_generation
        return self._wanted.next_run() is not None or continuous

    def heed(self) -> None:
        """Something about the source or its runs changed: stops a session that should do something else now."""
        self._wanted.changed.set()
        work = self._work
        if work is None:
            return
        if work.run is None:
            moved = self._wanted.source.generation != work.source.generation
            if moved or self._wanted.next_run() is not None:
                work.stop.set()
        elif self._is_cancelled(work.run):
            work.stop.set()

    def stop(self) -> None:
        """For a drain: the session commits what it has and ends."""
        if self._work is not None:
            self._work.stop.set()
        self._wanted.changed.set()

    async def run(self) -> None:
        while self._open() and self.has_work():
            self._wanted.changed.clear()
            try:
                async with self._leases.hold(writer_of(self._wanted.source.name)) as lease:
                    pause_s = await self._one(lease)
            except LeaseHeld as error:
                pause_s = min(2.0, (error.retry_after_ms or 1000) / 1000)
            except MillraceError as error:
                _log.info("no lease for %s: %s", self._wanted.source.name, error.message)
                self._failed += 1
                pause_s = PACES[3][1].pause_s(self._failed)
            if pause_s and self._open():
                await self._pause(pause_s)

    async def _pause(self, seconds: float) -> None:
        """Waits, or until something changed."""
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.changed.wait()
        except TimeoutError:
            pass

    # -- one session ---------------------------------------------------------------------------------------------------
    async def _one(self, lease: HeldLease) -> float:
        """Runs a session under `lease`; the pause before the next one."""
        work = await self._next_work()
        if work is None:
            return 0.0
        tools, self._work = self._tools, work
        reporter = Reporter(tools.catalog, tools.clock, tools.worker, work.source, work.run, lease)
        try:
            finished = await session(work, tools, lease, reporter)
        except _TAKEN as error:
            # Another worker goes on and tells the status; this one may ask for the lease again.
            _log.warning("%s: stopped, %s (%s)", work.source.name, error.message, error.reason)
            return 1.0
        except Exception as error:
            return await self._failure(work, reporter, error)
        finally:
            self._work = None
        self._failed = 0
        await self._ended(work, reporter, finished)
        return 0.0

    async def _next_work(self) -> Work | None:
        """From what is stored right now: what the watch told may be older than another worker's last word."""
        wanted, catalog = self._wanted, self._tools.catalog
        wanted.source = await catalog.source(wanted.source.name)
        run = wanted.next_run()
        if run is not None:
            run = wanted.runs[run.name] = await catalog.run(run.name)
        if not self._open() or not self.has_work() or (run is not None and run.state.ended):
            return None
        work = Work(wanted.source, run)
        if run is not None and run.spec.cancel_requested:
            work.stop.set()
        return work

    async def _ended(self, work: Work, reporter: Reporter, finished: bool) -> None:
        if work.run is None:
            if finished:
                self._settled_generation = work.source.generation
            return await reporter.ended(self._rest(work, finished))
        if finished or self._is_cancelled(work.run):
            state = RunState.SUCCEEDED if finished else RunState.CANCELLED
            self._forget(work.run)
            return await reporter.ended(WorkState.IDLE, run_state=state)
        return await reporter.ended(WorkState.IDLE)  # a drain: another replica goes on with the run

    def _rest(self, work: Work, finished: bool) -> WorkState:
        if finished:
            return WorkState.FINISHED
        return WorkState.PAUSED if self._wanted.source.spec.paused else WorkState.IDLE

    async def _failure(self, work: Work, reporter: Reporter, error: Exception) -> float:
        """Tells it; the pause before the next try."""
        self._failed += 1
        failure = failure_of(error)
        if not isinstance(error, MillraceError):
            _log.exception("%s: a bug ended the session", work.source.name)
        else:
            _log.warning("%s: %s (%s)", work.source.name, failure.message, failure.reason)
        if work.run is not None:
            return await self._run_failure(work.run, reporter, error)
        if isinstance(error, MillraceError) and not isinstance(error, _AGAIN):
            self._settled_generation = work.source.generation
            cause = replace(failure, reason=error.metadata.get("cause", failure.reason))
            await reporter.ended(WorkState.PAUSED, failure=cause)
            return 0.0
        pause_s = self._pause_s(error)
        next_us = self._tools.clock.now_us() + round(pause_s * 1e6)
        await reporter.ended(WorkState.BACKING_OFF, failure=failure, next_us=next_us)
        return pause_s

    async def _run_failure(self, run: Run, reporter: Reporter, error: Exception) -> float:
        failure = failure_of(error)
        patient = isinstance(error, (Reload, OutcomeUnknown)) or (
            isinstance(error, RetryLater) and not isinstance(error, SourceUnavailable)
        )
        again = patient or (self._failed < RUN_TRIES and isinstance(error, (SourceUnavailable, Missing)))
        if again and not self._is_cancelled(run):
            pause_s = self._pause_s(error)
            reporter.warned(failure)
            next_us = self._tools.clock.now_us() + round(pause_s * 1e6)
            await reporter.ended(WorkState.BACKING_OFF, failure=failure, next_us=next_us)
            return pause_s
        self._failed = 0
        self._forget(run)
        state = RunState.CANCELLED if self._is_cancelled(run) else RunState.FAILED
        await reporter.ended(WorkState.IDLE, failure=failure, run_state=state)
        return 0.0

    def _pause_s(self, error: Exception) -> float:
        told = error.retry_after_ms if isinstance(error, MillraceError) else None
        pace = next(pace for family, pace in PACES if isinstance(error, family))
        return max((told or 0) / 1000, pace.pause_s(self._failed))

    def _is_cancelled(self, run: Run) -> bool:
        newest = self._wanted.runs.get(run.name, run)
        return newest.spec.cancel_requested

    def _forget(self, run: Run) -> None:
        """It ended here; the watch will say so too, later."""
        newest = self._wanted.runs.get(run.name, run)
        self._wanted.runs[run.name] = replace(newest, state=RunState.SUCCEEDED)
