"""What a worker tells while it works: the source's status and the run's events, at most once a second."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from millrace.errors import LeaseLost, MillraceError, Missing
from svc_extract.ports import (
    Catalog,
    Chunk,
    Clock,
    Committed,
    Failure,
    Finished,
    Happening,
    HeldLease,
    Position,
    Progress,
    Run,
    RunState,
    Source,
    SourceStatus,
    Started,
    Warned,
    WorkState,
)

EVERY_S = 1.0
RATE_WINDOW_S = 5.0

_log = logging.getLogger(__name__)


def failure_of(error: BaseException) -> Failure:
    """What people may see of it. A bug's text stays in the log."""
    if isinstance(error, MillraceError):
        return Failure(error.reason, error.message, error.field, error.hint)
    return Failure("UNEXPECTED", f"{type(error).__name__}: a bug, see the log")


class Reporter:
    """Of one session of one source. `run` None: a continuous session."""

    def __init__(
        self, catalog: Catalog, clock: Clock, worker: str, source: Source, run: Run | None, lease: HeldLease
    ) -> None:
        self._catalog, self._clock = catalog, clock
        self._source, self._run, self._lease = source, run, lease
        self._base = source.status.progress
        self._run_base = run.progress if run else Progress()
        self._here = Progress()
        self._status = replace(
            source.status,
            state=WorkState.RUNNING,
            cause="",
            worker=worker,
            epoch=lease.epoch,
            observed_generation=source.generation,
            next_attempt_us=None,
            rows_per_second=0.0,
            activity="",
        )
        self._events: list[Happening] = []
        self._rates: deque[tuple[float, int]] = deque()
        self._dirty = True
        self._saved_progress: Progress | None = None

    # -- what happened -------------------------------------------------------------------------------------------------
    def started(self, position: Position | None, next_offset: int) -> None:
        """`next_offset`: what storage has of this writer; commits that nobody heard of (a kill, a lost lease) count from here on."""
        before = self._base
        unheard = max(0, next_offset - before.rows_written - before.rows_dead_lettered)
        self._base = _with_unheard(before, unheard)
        if self._run is not None:
            if self._run.start_us is not None:
                self._run_base = _with_unheard(self._run_base, unheard)
            self._run = replace(self._run, state=RunState.RUNNING, start_us=self._run.start_us or self._clock.now_us())
            self._events.append(Started(self._status.worker, position))
        self._dirty = True

    def read(self, chunk: Chunk) -> None:
        here = self._here
        self._here = replace(
            here,
            rows_read=here.rows_read + chunk.records,
            source_bytes=here.source_bytes + chunk.source_bytes,
            lag_us=chunk.lag_us if chunk.records or chunk.lag_us is not None else here.lag_us,
            fraction=chunk.fraction,
        )
        state = WorkState.RUNNING if chunk.records or not chunk.activity else WorkState.IDLE
        self._show(state, chunk.activity, chunk.replay_time_us)
        self._dirty = self._dirty or bool(chunk.records)

    def _show(self, state: WorkState, activity: str, replay_time_us: int | None) -> None:
        status = self._status
        shown = replace(status, state=state, activity=activity, replay_time_us=replay_time_us or status.replay_time_us)
        self._dirty = self._dirty or shown != status
        self._status = shown

    def committed(self, done: Committed) -> None:
        here = self._here
        self._here = replace(
            here,
            rows_written=here.rows_written + done.rows_written,
            rows_dead_lettered=here.rows_dead_lettered + done.rows_dead_lettered,
            position=done.position or here.position,
            version=done.version,
        )
        self._status = replace(self._status, commit_time_us=done.time_us)
        self._rates.append((self._clock.monotonic_s(), done.rows_written))
        self._dirty = True

    def warned(self, failure: Failure) -> None:
        if self._run is not None:
            self._events.append(Warned(failure.reason, failure.message))
            self._dirty = True

    # -- telling it ----------------------------------------------------------------------------------------------------
    async def tell(self) -> None:
        """Saves once a second while something changed, for ever. Raises LeaseLost, and what is Missing; other failures wait."""
        while True:
            await self._clock.sleep(EVERY_S)
            if not self._dirty and not self._rates:
                continue
            try:
                await self.save()
            except (LeaseLost, Missing):
                raise
            except MillraceError as error:
                self._dirty = True
                _log.info("the status of %s waits: %s", self._source.name, error.message)

    async def save(self) -> None:
        """Now. Raises what the catalog raises; nothing is lost then."""
        self._dirty = False
        told = len(self._events)
        events = list(self._events)
        run = self._run
        if run is not None:
            run = replace(run, progress=_sum(self._run_base, self._here))
            if run.progress != self._saved_progress and not run.state.ended:
                events.append(run.progress)
        status = replace(self._status, progress=_sum(self._base, self._here), rows_per_second=self._rate())
        await self._save(status, run, events)
        self._saved_progress = run.progress if run else None
        del self._events[:told]

    async def _save(self, status: SourceStatus, run: Run | None, events: Sequence[Happening]) -> None:
        await self._catalog.save(
            source=self._source,
            status=status,
            run=run,
            events=events,
            lease=self._lease.name,
            epoch=self._lease.epoch,
        )

    async def ended(
        self,
        state: WorkState,
        *,
        failure: Failure | None = None,
        run_state: RunState | None = None,
        next_us: int | None = None,
    ) -> None:
        """The session's last word. Repeats until it is stored; gives up when another holds the lease, or nobody may write any more."""
        cause = f"{failure.reason}: {failure.message}" if failure and state is not WorkState.IDLE else ""
        self._status = replace(self._status, state=state, cause=cause, next_attempt_us=next_us)
        if self._run is not None and run_state is not None:
            run = replace(self._run, state=run_state, end_us=self._clock.now_us())
            self._run = replace(run, error=failure if run_state is RunState.FAILED else None)
            self._events.append(Finished(run_state, _sum(self._run_base, self._here), self._run.error))
        pause = 0.1
        while True:
            try:
                await self.save()
                return
            except (LeaseLost, Missing):
                _log.info("the status of %s is told by another worker, or by none any more", self._source.name)
                return
            except MillraceError as error:
                _log.info("the last status of %s waits: %s", self._source.name, error.message)
            await asyncio.sleep(pause)
            pause = min(5.0, pause * 2)

    def _rate(self) -> float:
        now = self._clock.monotonic_s()
        while self._rates and self._rates[0][0] < now - RATE_WINDOW_S:
            self._rates.popleft()
        return sum(rows for _, rows in self._rates) / RATE_WINDOW_S


def _with_unheard(before: Progress, rows: int) -> Progress:
    written = before.rows_written + rows
    read = max(before.rows_read, written + before.rows_dead_lettered)
    return replace(before, rows_written=written, rows_read=read)


def _sum(before: Progress, here: Progress) -> Progress:
    return replace(
        here,
        rows_read=before.rows_read + here.rows_read,
        rows_written=before.rows_written + here.rows_written,
        rows_dead_lettered=before.rows_dead_lettered + here.rows_dead_lettered,
        source_bytes=before.source_bytes + here.source_bytes,
        position=here.position or before.position,
        version=here.version or before.version,
        fraction=here.fraction,
    )
