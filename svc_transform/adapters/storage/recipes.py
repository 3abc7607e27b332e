"""Stored transforms and their states: resources `namespaces/{namespace}/transforms/{transform}`."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing

from millrace.client.channel import Connection
from millrace.client.resources import HeldBy, Resources
from millrace.client.watch import Deleted, Put, watch_resources
from millrace.errors import LeaseLost, MillraceError
from millrace.server.runs import now
from millrace.transform.v1 import transform_pb2
from millrace.types.v1 import run_pb2
from svc_transform.adapters.storage.tables import Readers
from svc_transform.convert.specs import planned_to_proto, recipe_from, status_to_proto
from svc_transform.ports import Plan, Recipe, Report, Written

REPORT_S = 1.0
RATE_WINDOW_S = 5.0

_log = logging.getLogger(__name__)


class StoredRecipes:
    """The Recipes port."""

    def __init__(self, storage: Connection) -> None:
        self._connection = storage

    async def watch(self) -> AsyncIterator[tuple[str, Recipe | None]]:
        generations: dict[str, tuple[str, int]] = {}
        # However long storage is away, the workers stay: they wait for it themselves.
        changes = watch_resources(self._connection, ["namespaces/-/transforms"], tries=sys.maxsize)
        async with aclosing(changes) as events:
            async for change in events:
                if isinstance(change, Deleted):
                    generations.pop(change.resource.name, None)
                    yield change.resource.name, None
                elif isinstance(change, Put):
                    seen = (change.resource.uid, change.resource.generation)
                    if generations.get(change.resource.name) != seen:
                        generations[change.resource.name] = seen
                        yield change.resource.name, recipe_from(change.resource)


class StoredReports:
    """The Reports port. Keeps the totals of this process's workers; a worker that took over goes on from the stored ones."""

    def __init__(self, storage: Connection, worker: str) -> None:
        self._resources, self._readers, self._worker = Resources(storage), Readers(storage), worker
        self._states: dict[str, _State] = {}

    def observer(self, recipe: Recipe, epoch: int) -> _State:
        key = f"{recipe.name}@{recipe.uid}"
        state = self._states.get(key)
        if state is None or state.epoch != epoch or state.recipe.generation != recipe.generation:
            before = state.status if state is not None else None
            state = self._states[key] = _State(self._resources, recipe, epoch, self._worker, before)
        state.run_begins()
        return state

    async def report(self, recipe: Recipe, report: Report) -> None:
        state = self.observer(recipe, report.epoch)
        status_to_proto(report, state.status)
        await state.tell(force=True)
        if report.step is not None and not report.step.empty:
            for part in report.step.inputs:
                await self._readers.moved(recipe.lease, part.table, part.uid, part.version)

    def counters(self) -> dict[str, float]:
        return {"rows_written": float(sum(state.status.progress.rows_written for state in self._states.values()))}


class _State:
    """One transform's status, and the Observer of its runs."""

    def __init__(
        self,
        resources: Resources,
        recipe: Recipe,
        epoch: int,
        worker: str,
        before: transform_pb2.TransformStatus | None,
    ) -> None:
        self._resources, self.recipe, self.epoch = resources, recipe, epoch
        self.status = transform_pb2.TransformStatus(worker=worker, epoch=epoch, observed_generation=recipe.generation)
        self._before = before
        self._loaded = before is not None
        if before is not None:
            self.status.progress.CopyFrom(before.progress)
        self._base = (0, 0, 0)
        self._told = float("-inf")
        self._rates: deque[tuple[float, int]] = deque()

    def run_begins(self) -> None:
        progress = self.status.progress
        self._base = (progress.rows_read, progress.rows_written, progress.rows_dead_lettered)

    async def _load(self) -> None:
        """Totals that a worker before left behind."""
        self._loaded = True
        stored = transform_pb2.TransformStatus()
        resource = await self._resources.get(self.recipe.name)
        if resource.HasField("status") and resource.status.Unpack(stored):
            self.status.progress.CopyFrom(stored.progress)
            self.run_begins()

    async def planned(self, step: Plan) -> None:
        if not self._loaded:
            await self._load()
        planned = planned_to_proto(step)
        self.status.state = run_pb2.WORK_STATE_RUNNING
        self.status.ClearField("inputs")
        self.status.inputs.extend(planned.inputs)
        await self.tell()

    async def progress(self, rows_read: int, written: Written) -> None:
        progress = self.status.progress
        progress.rows_read = self._base[0] + rows_read
        progress.rows_written = self._base[1] + written.rows
        progress.rows_dead_lettered = self._base[2] + written.dead_lettered
        if written.version:
            progress.version = written.version
            self.status.commit_time.CopyFrom(now())
        self.status.rows_per_second = self._rate(progress.rows_written)
        await self.tell()

    def _rate(self, rows: int) -> float:
        moment = time.monotonic()
        self._rates.append((moment, rows))
        while self._rates and moment - self._rates[0][0] > RATE_WINDOW_S:
            self._rates.popleft()
        began, first = self._rates[0]
        return (rows - first) / max(moment - began, 1.0)

    async def tell(self, *, force: bool = False) -> None:
        if not force and time.monotonic() - self._told < REPORT_S:
            return
        self._told = time.monotonic()
        held = HeldBy(self.recipe.lease, self.epoch)
        try:
            await self._resources.update_status(self.recipe.name, self.status, held=held, uid=self.recipe.uid)
        except LeaseLost:
            raise
        except MillraceError as error:
            _log.warning("%s: its state could not be told: %s", self.recipe.name, error.message)
