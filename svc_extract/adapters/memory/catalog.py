"""Sources and runs in memory: for tests, and as the simplest thing that keeps the port's rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace

from millrace.errors import EtagMismatch, LeaseLost, RequestIdReused, RunNotFound, SourceNotFound
from svc_extract.ports import Change, Clock, Happening, Run, RunEvent, Source, SourceStatus


@dataclass(slots=True)
class _Kept:
    run: Run
    events: list[RunEvent] = field(default_factory=list)


class MemoryCatalog:
    """`current_epoch`: of a lease by name, as the leases' adapter knows it; 0 for none."""

    def __init__(self, clock: Clock, current_epoch: Callable[[str], int] = lambda name: 0) -> None:
        self._clock, self._epoch_of = clock, current_epoch
        self._sources: dict[str, Source] = {}
        self._runs: dict[str, _Kept] = {}
        self._answers: dict[str, tuple[object, Source]] = {}
        self._log: list[Change] = []
        self._changed = asyncio.Condition()
        self._count = 0

    async def put_source(
        self, source: Source, *, request_id: str, owner: str, status: SourceStatus | None = None
    ) -> Source:
        asked = (source.name, source.etag, source.spec)
        if (before := self._answers.get(request_id)) is not None:
            if before[0] != asked:
                raise RequestIdReused("the same request_id came with another request", field="request_id")
            return before[1]
        old = self._sources.get(source.name)
        if source.etag and old is None:
            raise SourceNotFound(f"`{source.name}` does not exist", field="source.name")
        if source.etag and old is not None and source.etag != old.etag:
            raise EtagMismatch("it was changed meanwhile", field="source.etag")
        self._count += 1
        stored = Source(
            name=source.name,
            spec=source.spec,
            uid=old.uid if old else f"u{self._count}",
            etag=f"e{self._count}",
            generation=old.generation + 1 if old else 1,
            status=old.status if old else status or SourceStatus(),
            owner=old.owner if old else owner,
        )
        self._sources[source.name] = stored
        self._answers[request_id] = (asked, stored)
        await self._tell(Change(source=stored))
        return stored

    async def source(self, name: str) -> Source:
        if (found := self._sources.get(name)) is None:
            raise SourceNotFound(f"`{name}` does not exist", field="name")
        return found

    async def sources(self, namespace: str, *, limit: int, page_token: str) -> tuple[Sequence[Source], str]:
        prefix = f"namespaces/{namespace}/sources/"
        names = sorted(name for name in self._sources if name.startswith(prefix) and name > page_token)
        page = [self._sources[name] for name in names[:limit]]
        return page, page[-1].name if len(names) > limit else ""

    async def delete_source(self, name: str, *, etag: str, request_id: str) -> None:
        found = await self.source(name)
        if etag and etag != found.etag:
            raise EtagMismatch("it was changed meanwhile", field="etag")
        del self._sources[name]
        await self._tell(Change(source=found, there=False))

    async def create_run(self, run: Run, *, owner: str) -> tuple[Run, bool]:
        if (kept := self._runs.get(run.name)) is not None:
            return kept.run, False
        self._count += 1
        stored = replace(run, uid=f"u{self._count}", etag=f"e{self._count}")
        self._runs[run.name] = _Kept(stored)
        await self._tell(Change(run=stored))
        return stored, True

    async def run(self, name: str) -> Run:
        return self._kept(name).run

    async def ask_to_cancel(self, run: Run, *, request_id: str) -> Run:
        kept = self._kept(run.name)
        if kept.run.etag != run.etag:
            raise EtagMismatch("it was changed meanwhile")
        self._count += 1
        kept.run = replace(kept.run, spec=replace(kept.run.spec, cancel_requested=True), etag=f"e{self._count}")
        await self._tell(Change(run=kept.run))
        return kept.run

    async def save(
        self,
        *,
        source: Source | None = None,
        status: SourceStatus | None = None,
        run: Run | None = None,
        events: Sequence[Happening] = (),
        lease: str = "",
        epoch: int = 0,
    ) -> None:
        if lease and self._epoch_of(lease) != epoch:
            raise LeaseLost(f"the lease `{lease}` has another epoch")
        if source is not None and status is not None:
            self._sources[source.name] = replace(await self.source(source.name), status=status)
            await self._tell(Change(source=self._sources[source.name]))
        if run is not None:
            kept = self._kept(run.name)
            for event in events:
                kept.events.append(RunEvent(len(kept.events) + 1, self._clock.now_us(), event))
            kept.run = replace(run, spec=kept.run.spec, etag=kept.run.etag, last_sequence=len(kept.events))
            await self._tell(Change(run=kept.run))

    async def events(self, run: str, *, after_sequence: int) -> AsyncGenerator[RunEvent]:
        kept = self._kept(run)
        at = after_sequence
        while True:
            while at < len(kept.events):
                at += 1
                yield kept.events[at - 1]
            async with self._changed:
                while at >= len(kept.events):
                    await self._changed.wait()

    async def watch(self) -> AsyncGenerator[Change]:
        at = len(self._log)
        for source in list(self._sources.values()):
            yield Change(source=source)
        for kept in list(self._runs.values()):
            yield Change(run=kept.run)
        yield Change(caught_up=True)
        while True:
            while at < len(self._log):
                at += 1
                yield self._log[at - 1]
            async with self._changed:
                while at >= len(self._log):
                    await self._changed.wait()

    def _kept(self, name: str) -> _Kept:
        if (kept := self._runs.get(name)) is None:
            raise RunNotFound(f"`{name}` does not exist", field="name")
        return kept

    async def _tell(self, change: Change) -> None:
        async with self._changed:
            self._log.append(change)
            self._changed.notify_all()
