"""Runs: asked for, attached to, followed and cancelled. The lease's holder carries them out (`session`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from millrace.errors import EtagMismatch, FieldInvalid, MillraceError, RequestIdReused, RunNotFound, SourcePaused
from svc_extract.domain.names import run_name, run_parts
from svc_extract.domain.reporting import failure_of
from svc_extract.domain.sources import Sources
from svc_extract.ports import Catalog, Clock, Failure, Finished, Progress, Run, RunEvent, RunMode, RunSpec, RunState
from svc_extract.ports import Position as Place


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWish:
    """What RunSource asks. `request_id` names the run."""

    source: str
    request_id: str
    mode: RunMode = RunMode.ONCE
    start_override: Place | None = None
    requested_by: str = ""


class Runs:
    def __init__(self, catalog: Catalog, sources: Sources, clock: Clock) -> None:
        self._catalog, self._sources, self._clock = catalog, sources, clock

    async def start(self, wish: RunWish) -> Run:
        """The run, new or attached to. Raises SourceNotFound, SourcePaused, RequestIdReused, FieldInvalid."""
        name = run_name(wish.source, wish.request_id)
        spec = RunSpec(
            source=wish.source, mode=wish.mode, start_override=wish.start_override, requested_by=wish.requested_by
        )
        found = await self._existing(name)
        if found is None:
            await self._check(wish)
            wanted = Run(name=name, spec=spec, create_us=self._clock.now_us())
            found, created = await self._catalog.create_run(wanted, owner=wish.requested_by)
            if created:
                return found
        asked = replace(found.spec, cancel_requested=False, requested_by=spec.requested_by)
        if found.foreign is not None or asked != spec:
            raise RequestIdReused(
                "this request_id names a run of another request", field="request_id", hint="send a new request_id"
            )
        return found

    async def _existing(self, name: str) -> Run | None:
        try:
            return await self._catalog.run(name)
        except RunNotFound:
            return None

    async def _check(self, wish: RunWish) -> None:
        source = await self._sources.get(wish.source)
        if self._sources.connector(source.spec).info.pushed:
            raise FieldInvalid(
                "rows are pushed to this source: there is nothing to run", field="source", hint="use Ingest"
            )
        if source.spec.paused:
            raise SourcePaused("the source is paused", field="source", hint="put it again with `paused: false`")

    async def rehearse(self, wish: RunWish) -> RunEvent:
        """Checks what a run would need, and runs nothing. Its one event is not stored."""
        try:
            await self._check(wish)
            source = await self._sources.get(wish.source)
            report = await self._sources.check(source.spec)
            bad = next((found for found in report.findings if found.fatal), None)
            failure = Failure(bad.reason, bad.message, bad.field) if bad else None
        except MillraceError as error:
            failure = failure_of(error)
        state = RunState.FAILED if failure else RunState.SUCCEEDED
        return RunEvent(0, self._clock.now_us(), Finished(state, Progress(), failure))

    async def get(self, name: str) -> Run:
        """Raises RunNotFound."""
        run_parts(name)
        return await self._catalog.run(name)

    async def follow(self, run: Run, *, after_sequence: int) -> AsyncGenerator[RunEvent]:
        """Events after `after_sequence` as they come; the last one is Finished, repeated for who has seen it already."""
        async with aclosing(self._catalog.events(run.name, after_sequence=after_sequence)) as events:
            if run.state.ended and run.last_sequence <= after_sequence:
                yield RunEvent(run.last_sequence, run.end_us or 0, Finished(run.state, run.progress, run.error))
                return
            async for event in events:
                yield event
                if isinstance(event.what, Finished):
                    return

    async def cancel(self, name: str, *, request_id: str) -> Run:
        """Asks the worker to end it at its next commit. Raises RunNotFound."""
        while True:
            run = await self.get(name)
            if run.state.ended or run.spec.cancel_requested:
                return run
            try:
                return await self._catalog.ask_to_cancel(run, request_id=request_id)
            except EtagMismatch:
                continue
