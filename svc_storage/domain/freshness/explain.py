"""Walks from a table up to its sources and down to its readers, and says of each hop how it is. It changes nothing.

It answers in `LIMIT_S`, whatever does not: what is asked is asked at once, and what has not answered by then is an UNKNOWN hop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from millrace import errors
from svc_storage.domain.control.leases import LeaseSight
from svc_storage.domain.freshness import judging
from svc_storage.domain.freshness.hops import Cause, Hop, Kind, State, short, verdict
from svc_storage.domain.freshness.judging import TableSight, Waiting
from svc_storage.domain.freshness.works import LeaseSights, Pipelines, ReaderSight, Work
from svc_storage.domain.opened import Opened, OpenTable
from svc_storage.ports import Clock, Committed

T = TypeVar("T")
LIMIT_S = 1.2
LOOK_AGAIN_S = 0.3
"""A worker lets go of its lease for a moment between two tries."""
COMMITS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """`hops` from sources to readers. `version`, `rows_us`: of the table, as far as known."""

    verdict: Hop | None
    hops: Sequence[Hop]
    time_us: int
    version: int = 0
    rows_us: int | None = None


@dataclass(frozen=True, slots=True)
class _Way:
    """What lies before a table: works and tables with their distance to it."""

    works: Mapping[Work, int]
    tables: Mapping[str, int]


class Freshness:
    def __init__(self, opened: Opened, pipelines: Pipelines, leases: LeaseSights, clock: Clock) -> None:
        self._opened, self._pipelines, self._leases, self._clock = opened, pipelines, leases, clock

    async def explain(self, name: str) -> Explained:
        """Raises TableNotFound."""
        try:
            async with asyncio.timeout(LIMIT_S / 3):
                works = await self._pipelines.works()
        except (TimeoutError, errors.RetryLater, errors.OutcomeUnknown) as error:
            return self._without_catalog(name, error)
        way = _way(name, works)
        sights, leases = await asyncio.gather(self._sights(way.tables), self._held(way.works))
        if isinstance(gone := sights[name], errors.TableNotFound):
            raise gone
        now_us = self._clock.now_us()
        hops = [
            *(self._work(work, far, leases, sights, now_us) for work, far in way.works.items()),
            *(self._table(table, far, way, sights, now_us) for table, far in way.tables.items()),
        ]
        # Of one distance the table comes last: it is what the works before it write to.
        hops.sort(key=lambda hop: (-hop.distance, hop.kind is Kind.TABLE, hop.name))
        found = sights[name]
        if isinstance(found, Exception):
            return Explained(verdict=verdict(hops), hops=hops, time_us=now_us)
        hops += await self._readers(found, now_us)
        rows_us = judging.rows_time_us(_commits(found))
        return Explained(
            verdict=verdict(hops), hops=hops, time_us=now_us, version=found.versions.head.version, rows_us=rows_us
        )

    def _without_catalog(self, name: str, error: BaseException) -> Explained:
        """The catalog is on the store: where it does not answer, nothing else can be told."""
        now_us = self._clock.now_us()
        hop = judging.of_table(name, TableSight(head=0, failure=_failure(error)), {}, now_us)
        return Explained(verdict=hop, hops=[hop], time_us=now_us)

    # -- asking -------------------------------------------------------------------------------------------------------
    async def _sights(self, tables: Mapping[str, int]) -> Mapping[str, OpenTable | Exception]:
        async def one(name: str) -> OpenTable | Exception:
            try:
                async with asyncio.timeout(LIMIT_S / 2):
                    return await self._opened.fresh(name)
            except (TimeoutError, errors.MillraceError) as error:
                return error

        return dict(zip(tables, await asyncio.gather(*map(one, tables)), strict=True))

    async def _held(self, works: Mapping[Work, int]) -> Mapping[str, LeaseSight | None]:
        async def one(name: str) -> LeaseSight | None:
            found = await _in_time(self._leases.sight(name))
            if found is not None and not found.held:
                await asyncio.sleep(LOOK_AGAIN_S)
                found = await _in_time(self._leases.sight(name))
            return found

        names = [work.lease for work in works]
        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))

    async def _readers(self, table: OpenTable, now_us: int) -> Sequence[Hop]:
        readers = await _in_time(self._pipelines.readers(table.row.uid))
        return [
            judging.of_reader(reader, table.head, _unread_us(table, reader), now_us)
            for reader in sorted(readers or (), key=lambda one: one.name)
        ]

    # -- judging ------------------------------------------------------------------------------------------------------
    def _work(
        self,
        work: Work,
        distance: int,
        leases: Mapping[str, LeaseSight | None],
        sights: Mapping[str, OpenTable | Exception],
        now_us: int,
    ) -> Hop:
        lease = leases[work.lease]
        if work.kind == "source":
            return replace(judging.of_work(work, lease, now_us), distance=distance)
        waiting = _waiting(work, sights)
        return replace(judging.of_transform(work, lease, waiting, now_us), distance=distance)

    def _table(
        self, name: str, distance: int, way: _Way, sights: Mapping[str, OpenTable | Exception], now_us: int
    ) -> Hop:
        found = sights[name]
        if isinstance(found, errors.TableNotFound):
            text = f"the table {short(name)} does not exist"
            hop = Hop(kind=Kind.TABLE, name=name, state=State.UNKNOWN, cause=Cause.NO_ANSWER, summary=text)
            return replace(hop, distance=distance)
        if isinstance(found, Exception):
            sight = TableSight(head=0, failure=_failure(found))
        else:
            sight = self._sight(found)
        told = {
            judging.reason_of(work.cause): work
            for work in way.works
            if work.output == name and work.state == "BACKING_OFF" and judging.stops_at_the_table(work.cause)
        }
        return replace(judging.of_table(name, sight, told, now_us), distance=distance)

    def _sight(self, table: OpenTable) -> TableSight:
        now_s, troubles = self._clock.monotonic_s(), table.committer.troubles
        trying_s, trouble = troubles.trying_since_s, troubles.now
        return TableSight(
            head=table.head,
            commits=_commits(table),
            trouble=trouble,
            trouble_us=int((now_s - trouble.since_s) * 1e6) if trouble else 0,
            trying_us=int((now_s - trying_s) * 1e6) if trying_s is not None else 0,
        )


def _way(name: str, works: Sequence[Work]) -> _Way:
    """Breadth first; a table that was met is not entered again, so that circles end."""
    before: dict[Work, int] = {}
    tables = {name: 0}
    ahead = [name]
    for table in ahead:
        for work in works:
            if work.output != table or work in before:
                continue
            before[work] = tables[table]
            for source in work.inputs:
                if source not in tables:
                    tables[source] = tables[table] + 1
                    ahead.append(source)
    return _Way(before, tables)


def _waiting(work: Work, sights: Mapping[str, OpenTable | Exception]) -> Sequence[Waiting]:
    """What of its inputs the output does not hold, by what the output's own log says of the transform's place."""
    output = sights.get(work.output)
    if not isinstance(output, OpenTable):
        return ()
    state = output.versions.head.writers.get(work.lease)
    found = []
    for name in work.driving:
        table = sights.get(name)
        if not isinstance(table, OpenTable):
            continue
        done = int((state.positions if state else {}).get(f"{name}@{table.row.uid}", 0))
        since_us = _first_rows_us(table, done)
        if since_us is not None:
            found.append(Waiting(name, done, table.head, since_us))
    return found


def _unread_us(table: OpenTable, reader: ReaderSight) -> int | None:
    return _first_rows_us(table, reader.version)


def _first_rows_us(table: OpenTable, after: int) -> int | None:
    """When the first version after `after` that moves rows was committed; None: none does."""
    start = max(after, table.oldest)
    if start >= table.head:
        return None
    moved = (one.commit.time_us for one in table.commits_in(start, table.head) if judging.moves_rows(one))
    return next(moved, None)


def _commits(table: OpenTable) -> Sequence[Committed]:
    return table.commits_in(max(table.oldest, table.head - COMMITS), table.head)


async def _in_time(asked: Awaitable[T]) -> T | None:
    with contextlib.suppress(TimeoutError, errors.MillraceError):
        async with asyncio.timeout(LIMIT_S / 4):
            return await asked
    return None


def _failure(error: BaseException) -> str:
    if isinstance(error, errors.MillraceError):
        return f"{error.reason}: {error.message}"
    return "no answer in time"
