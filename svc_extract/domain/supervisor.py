"""Which sources this process works on: follows what is stored, and keeps one loop per source that has something to do."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from millrace.errors import MillraceError
from svc_extract.domain.loop import SourceLoop, Wanted
from svc_extract.domain.session import Tools
from svc_extract.ports import Change, LeaseKeeping, Run, Source

DRAIN_S = 10.0

_log = logging.getLogger(__name__)


class Supervisor:
    """`run` for ever as background work; `drain` once before the process ends."""

    def __init__(self, tools: Tools, leases: LeaseKeeping) -> None:
        self._tools, self._leases = tools, leases
        self._loops: dict[str, SourceLoop] = {}
        self._wanted: dict[str, Wanted] = {}
        self._orphans: dict[str, dict[str, Run]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._draining = False

    @property
    def working(self) -> int:
        """Sources that are worked on, or waited for, right now."""
        return len(self._tasks)

    async def run(self) -> None:
        failed = 0
        while not self._draining:
            try:
                async with aclosing(self._tools.catalog.watch()) as changes:
                    async for change in changes:
                        failed = 0
                        self._take(change)
            except MillraceError as error:
                failed += 1
                _log.info("sources are not watched right now: %s", error.message)
                await self._tools.clock.sleep(min(5.0, 0.2 * 2**failed))

    async def drain(self) -> None:
        """Takes no more work; sessions commit what they have, end, and give their leases back."""
        self._draining = True
        for loop in self._loops.values():
            loop.stop()
        tasks = tuple(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=DRAIN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- what the watch tells ------------------------------------------------------------------------------------------
    def _take(self, change: Change) -> None:
        if change.source is not None:
            if change.there:
                self._source(change.source)
            else:
                self._gone(change.source.name)
        if change.run is not None:
            self._run_changed(change.run, there=change.there)

    def _source(self, source: Source) -> None:
        wanted = self._wanted.get(source.name)
        if wanted is None or wanted.source.uid != source.uid:
            self._gone(source.name)
            wanted = self._wanted[source.name] = Wanted(source, self._orphans.pop(source.name, {}))
            self._loops[source.name] = SourceLoop(wanted, self._tools, self._leases, lambda: not self._draining)
        moved = wanted.source.generation < source.generation
        if source.generation >= wanted.source.generation:
            wanted.source = source
        if moved or source.name not in self._tasks:
            self._heed(source.name)

    def _run_changed(self, run: Run, *, there: bool) -> None:
        wanted = self._wanted.get(run.spec.source)
        runs = wanted.runs if wanted is not None else self._orphans.setdefault(run.spec.source, {})
        if not there or run.state.ended:
            runs.pop(run.name, None)
            return
        before = runs.get(run.name)
        if before is None or (not before.state.ended and run.spec.cancel_requested != before.spec.cancel_requested):
            runs[run.name] = run
            self._heed(run.spec.source)

    def _gone(self, name: str) -> None:
        wanted = self._wanted.pop(name, None)
        self._loops.pop(name, None)
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
        if wanted is not None and wanted.runs:
            self._orphans[name] = wanted.runs

    def _heed(self, name: str) -> None:
        loop = self._loops.get(name)
        if loop is None or self._draining:
            return
        loop.heed()
        if name not in self._tasks and loop.has_work():
            task = asyncio.create_task(loop.run(), name=f"work {name}")
            self._tasks[name] = task
            task.add_done_callback(lambda done: self._ended(name, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is task:
            del self._tasks[name]
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            _log.error("the loop of %s died", name, exc_info=error)
        self._heed(name)
