"""EraseRows beyond one table: what transforms derive from it is erased by the same columns, or made anew."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from millrace import errors
from svc_storage.domain.maintenance.erasing import Erasure, TableEraser
from svc_storage.domain.maintenance.reporting import TableReport, Teller
from svc_storage.domain.opened import Opened, OpenTable
from svc_storage.domain.reading.predicates import Predicate, bind
from svc_storage.ports import Clock, Lineage, Version

CACHED = (
    "copies that readers hold (caches of analysis and viz, files opened DIRECT before) live no longer than the process or "
    "the version they were made for"
)


@dataclass(frozen=True, slots=True)
class _Step:
    """A table to look at, and the transform that makes it ("" for the one that was asked for)."""

    table: str
    transform: str = ""


class Everywhere:
    """One erasure over a table and all that is derived from it, nearest first."""

    def __init__(self, opened: Opened, lineage: Lineage, teller: Teller, clock: Clock) -> None:
        self._opened, self._lineage, self._teller, self._clock = opened, lineage, teller, clock

    async def erase(self, table: str, what: Erasure, *, run: str, principal: str, derived: bool = True) -> Version:
        """Reports each table by itself. The first table's version. Raises TableNotFound, FieldInvalid for the first table only."""
        first: Version = 0
        steps, seen = deque([_Step(table)]), {table}
        while steps:
            step = steps.popleft()
            report = await self._step(step, what, run, principal)
            first = first or report.version
            await self._teller.report(report)
            if not derived:
                break
            for found in await self._lineage.derived(step.table):
                if found.output not in seen:
                    seen.add(found.output)
                    steps.append(_Step(found.output, found.transform))
        return first

    async def _step(self, step: _Step, what: Erasure, run: str, principal: str) -> TableReport:
        try:
            found = await self._opened.fresh(step.table)
        except errors.TableNotFound:
            if not step.transform:
                raise
            return TableReport(table=step.table, verified=True, notes=(f"{step.transform} has not made it yet",))
        predicate = _passed_through(found, what.predicate) if step.transform else what.predicate
        if predicate is None:
            return await self._refreshed(step, found, run, principal)
        report = await TableEraser(found, replace(what, predicate=predicate), self._teller, self._clock).erase()
        notes = (f"made by {step.transform}: erased by columns of the same name",) if step.transform else (CACHED,)
        return replace(report, notes=notes)

    async def _refreshed(self, step: _Step, found: OpenTable, run: str, principal: str) -> TableReport:
        asked = await self._lineage.ask_refresh(step.transform, f"{run}-{step.transform.rpartition('/')[2]}", principal)
        return TableReport(
            table=step.table,
            version=found.head,
            refresh=asked,
            notes=(f"{step.transform} makes it anew from what is left; its old files go a day after that",),
        )


def _passed_through(table: OpenTable, predicate: Predicate) -> Predicate | None:
    """The predicate over a derived table's columns of the same names, None when it lacks one or its type differs."""
    try:
        return bind(predicate, table.definition.schema)
    except errors.FieldInvalid:
        return None
