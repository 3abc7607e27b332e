"""Keeps a transform's output up to date: one worker per transform, in the one process that holds its lease."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from millrace.errors import FixRequest, LeaseLost, MillraceError, Missing, RetryLater, WriterFenced
from svc_transform.domain.run import Outcome, Runner
from svc_transform.ports import (
    Held,
    Leases,
    Observer,
    Plan,
    Recipe,
    Recipes,
    Report,
    Reports,
    RunLog,
    Runs,
    Spans,
    TableFacts,
    Tables,
    Written,
)

MIN_REFRESH_S = 30.0
"""A recipe that is not append-safe is run in full; not more often than this."""

_log = logging.getLogger(__name__)


class Manager:
    """Starts, restarts and stops a worker per stored transform."""

    def __init__(self, recipes: Recipes, worker: Worker) -> None:
        self._recipes, self._worker = recipes, worker
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    async def run(self) -> None:
        """Never returns; ends its workers when cancelled."""
        try:
            async for name, recipe in self._recipes.watch():
                await self._stop(name)
                if recipe is not None and not self._stopping:
                    self._tasks[name] = asyncio.create_task(self._worker.keep(recipe), name=name)
        finally:
            await asyncio.gather(*map(self._stop, tuple(self._tasks)))

    async def stop(self) -> None:
        """Ends all workers, so that their leases are free at once; starts none any more."""
        self._stopping = True
        await asyncio.gather(*map(self._stop, tuple(self._tasks)))

    async def _stop(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task}, timeout=10.0)


class Worker:
    """Runs one recipe whenever its inputs moved, for as long as it holds the lease."""

    def __init__(
        self,
        runner: Runner,
        tables: Tables,
        leases: Leases,
        reports: Reports,
        runs: Runs,
        spans: Spans,
        acting: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`acting`: around each run, for whom it is done."""
        self._runner, self._tables, self._leases, self._reports, self._runs = runner, tables, leases, reports, runs
        self._spans, self._acting = spans, acting

    async def keep(self, recipe: Recipe) -> None:
        """Until cancelled: takes the lease, works, takes it again when it was lost."""
        attempt = 0
        while True:
            try:
                async with self._leases.hold(recipe.lease) as held:
                    attempt = 0
                    await _until_lost(self._work(recipe, held), held)
            except (LeaseLost, WriterFenced) as error:
                _log.warning("%s: left to whoever holds the lease next: %s", recipe.name, error.message)
            except MillraceError as error:
                _log.warning("%s: %s", recipe.name, error.message)
            attempt += 1
            await asyncio.sleep(random.uniform(0.1, min(5.0, 0.2 * 2.0 ** min(attempt, 6))))

    async def _work(self, recipe: Recipe, held: Held) -> None:
        asked = _Asked()
        listening = asyncio.create_task(asked.collect(self._runs.requested(recipe, held.epoch)))
        try:
            attempt, causes = 0, list[str]()
            while True:
                if recipe.paused:
                    await self._reports.report(
                        recipe, Report(state="PAUSED", cause="paused in its spec", epoch=held.epoch)
                    )
                    await listening
                with self._spans.caused(recipe.name, causes):
                    done = await self._once(recipe, held, asked.next())
                if isinstance(done, Outcome):
                    attempt = 0
                    causes = await self._until_due(recipe, done, asked)
                else:
                    await asyncio.sleep(await self._failed(recipe, held, attempt, done))
                    attempt += 1
                if listening.done():
                    listening.result()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _once(self, recipe: Recipe, held: Held, run: RunLog | None) -> Outcome | Exception:
        """One run: how it went, or why it did not."""
        observer = self._reports.observer(recipe, held.epoch)
        try:
            if run is not None and run.cancelled:
                await run.finished(None, cancelled=True)
                run = None
            with self._acting(recipe.owner):
                if run is None:
                    outcome = await self._runner.run(recipe, held.epoch, observer)
                else:
                    outcome = await self._asked_for(run, recipe, held, observer)
        except (LeaseLost, WriterFenced):
            raise
        except Exception as error:
            if run is not None:
                await run.finished(error)
            return error
        await self._reports.report(
            recipe, Report(state="IDLE", epoch=held.epoch, step=outcome.step, judged=outcome.judged)
        )
        return outcome

    async def _asked_for(self, run: RunLog, recipe: Recipe, held: Held, observer: Observer) -> Outcome:
        await run.started()
        outcome = await self._runner.run(
            recipe, held.epoch, _Both(observer, run), refresh=run.full_refresh, stop=lambda: run.cancelled
        )
        await run.finished(None, cancelled=outcome.cancelled)
        return outcome

    async def _failed(self, recipe: Recipe, held: Held, attempt: int, error: Exception) -> float:
        pause = pause_after(error, attempt)
        cause = (
            f"{error.reason}: {error.message}"
            if isinstance(error, MillraceError)
            else f"UNEXPECTED: {type(error).__name__}"
        )
        level = logging.WARNING if isinstance(error, MillraceError) else logging.ERROR
        _log.log(level, "%s: %s; again in %.1f s", recipe.name, cause, pause, exc_info=level == logging.ERROR)
        await self._reports.report(recipe, Report(state="BACKING_OFF", cause=cause, pause_s=pause, epoch=held.epoch))
        return pause

    async def _until_due(self, recipe: Recipe, before: Outcome, asked: _Asked) -> list[str]:
        """Until an input that counts has moved (and the recipe's delay has passed), or a run was asked for. The trace contexts of
        what moved."""
        counting = [
            table
            for table in before.inputs
            if not before.judged.append_safe or table.name == recipe.driving_table or len(before.inputs) == 1
        ]
        moved, causes = asyncio.Event(), list[str]()
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._watch(recipe, table, before, moved, causes)) for table in counting
        ]
        tasks += [asyncio.create_task(asked.some.wait()), asyncio.create_task(moved.wait())]
        try:
            await asyncio.wait(tasks[-2:], return_when=asyncio.FIRST_COMPLETED)
            if moved.is_set() and not asked.some.is_set():
                delay_s = max(0.05, recipe.max_delay_ms / 1000)
                await asyncio.sleep(delay_s if before.judged.append_safe else max(delay_s, MIN_REFRESH_S))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return causes

    async def _watch(
        self, recipe: Recipe, table: TableFacts, before: Outcome, moved: asyncio.Event, causes: list[str]
    ) -> None:
        """Sets `moved` once there is something behind what the last run read, or the table is another one."""
        after = int(before.position.get(f"{table.name}@{table.uid}", -1))
        try:
            async for landed in self._tables.changes(table, after_version=after, reader=recipe.lease):
                if landed.version > after:
                    causes.append(landed.trace_context)
                    break
        except MillraceError as error:
            _log.info("%s: %s", recipe.name, error.message)
        moved.set()


class _Asked:
    """Runs that wait to be done, oldest first. `some` is set while there are any."""

    def __init__(self) -> None:
        self.some = asyncio.Event()
        self._waiting: deque[RunLog] = deque()

    async def collect(self, runs: AsyncIterator[RunLog]) -> None:
        async for run in runs:
            self._waiting.append(run)
            self.some.set()

    def next(self) -> RunLog | None:
        run = self._waiting.popleft() if self._waiting else None
        if not self._waiting:
            self.some.clear()
        return run


def pause_after(error: Exception, attempt: int) -> float:
    """Seconds until the next try: what the error asks for, else by its family, doubling, with jitter."""
    if isinstance(error, RetryLater) and error.retry_after_ms is not None:
        return max(0.05, error.retry_after_ms / 1000)
    needs_a_person = isinstance(error, FixRequest | Missing) or not isinstance(error, MillraceError)
    first, longest = (5.0, 60.0) if needs_a_person else (0.2, 30.0)
    return random.uniform(0.5, 1.0) * min(longest, first * 2.0 ** min(attempt, 10))


class _Both:
    """Tells two observers."""

    def __init__(self, first: Observer, second: Observer) -> None:
        self._observers = (first, second)

    async def planned(self, step: Plan) -> None:
        for observer in self._observers:
            await observer.planned(step)

    async def progress(self, rows_read: int, written: Written) -> None:
        for observer in self._observers:
            await observer.progress(rows_read, written)


async def _until_lost(work: Coroutine[Any, Any, None], held: Held) -> None:
    """Raises what `work` raises, or LeaseLost as soon as the lease is gone."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task, held.lost}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise LeaseLost("the lease was lost")
        task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
