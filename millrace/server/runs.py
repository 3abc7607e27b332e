"""Runs as stored resources (contracts.md section 3).

Whoever is asked creates a run or attaches to it, the holder of the lease works, any replica shows the events. A run lives in storage's
ResourceService under `namespaces/{namespace}/runs/{request_id}`: its spec is a RunSpec, its status a Run, its events RunEvents.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, KeysView
from dataclasses import dataclass
from functools import partial

from google.protobuf import timestamp_pb2

from millrace import errors
from millrace.client.channel import Connection
from millrace.client.resources import HeldBy, Resources
from millrace.client.watch import Deleted, Put, watch_resources
from millrace.server.identity import as_service
from millrace.server.lifecycle import HEARTBEAT_S
from millrace.server.status import to_status
from millrace.storage.v1 import resources_pb2
from millrace.types.v1 import run_pb2, types_pb2

PROGRESS_S = 1.0
ENDED = frozenset({run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED})
_SAME = ("kind", "subject", "once", "start_override", "full_refresh", "task")


def run_name(subject: str, request_id: str) -> str:
    """The run's full name, beside its subject."""
    return f"namespaces/{subject.split('/')[1]}/runs/{request_id}"


def run_of(resource: resources_pb2.Resource) -> run_pb2.Run:
    """The Run that a resource holds."""
    run = run_pb2.Run()
    resource.status.Unpack(run)
    run.name, run.last_sequence = resource.name, resource.last_event_sequence
    return run


def spec_of(resource: resources_pb2.Resource) -> run_pb2.RunSpec:
    spec = run_pb2.RunSpec()
    resource.spec.Unpack(spec)
    return spec


def now() -> timestamp_pb2.Timestamp:
    found = timestamp_pb2.Timestamp()
    found.FromNanoseconds(time.time_ns())
    return found


class Runs:
    """All runs, for servicers. Acts as the service: people may not write resources themselves."""

    def __init__(self, storage: Connection) -> None:
        self._connection, self._resources = storage, Resources(storage)

    async def start(self, spec: run_pb2.RunSpec, request_id: str) -> run_pb2.Run:
        """Creates the run, or attaches to the one of that id. Raises RequestIdReused when that one was asked for differently."""
        name = run_name(spec.subject, request_id)
        status = run_pb2.Run(
            kind=spec.kind,
            subject=spec.subject,
            state=run_pb2.RUN_STATE_PENDING,
            create_time=now(),
            requested_by=spec.requested_by,
        )
        with as_service():
            try:
                stored, _ = await self._resources.put(name, spec, status=status, on_behalf_of=spec.requested_by)
            except errors.ResourceExists:
                stored = await self._resources.get(name)
        before = spec_of(stored)
        if any(getattr(before, field) != getattr(spec, field) for field in _SAME):
            raise errors.RequestIdReused(
                f"the run `{request_id}` was asked for with another request",
                field="request_id",
                hint="use a new request_id, or repeat the same request to attach",
            )
        return run_of(stored)

    async def knows(self, spec: run_pb2.RunSpec, request_id: str) -> bool:
        """Is there a run of this id, whatever it was asked for?"""
        try:
            await self.get(run_name(spec.subject, request_id))
        except errors.RunNotFound:
            return False
        return True

    async def get(self, name: str) -> run_pb2.Run:
        """Raises RunNotFound."""
        with as_service():
            return run_of(await self._resources.get(name))

    async def cancel(self, name: str, request_id: str) -> run_pb2.Run:
        """Asks the run to end at its next commit; one that has ended stays as it is. Raises RunNotFound."""
        with as_service():
            for _ in range(10):
                resource = await self._resources.get(name)
                spec = spec_of(resource)
                if run_of(resource).state in ENDED or spec.cancel_requested:
                    return run_of(resource)
                spec.cancel_requested = True
                with contextlib.suppress(errors.EtagMismatch):
                    stored, _ = await self._resources.put(name, spec, etag=resource.etag, request_id=request_id)
                    return run_of(stored)
        raise errors.CommitConflict("the run keeps changing", hint="repeat", retry_after_ms=200)

    async def events(self, name: str, after_sequence: int) -> AsyncIterator[run_pb2.RunEvent]:
        """Stored events behind `after_sequence`, then new ones; `finished` is the last. A heartbeat at once and after 15 s of silence.

        Close it (`aclosing`). Raises RunNotFound."""
        with as_service():
            waiting = _Waiting(self._connection, name)
        try:
            yield _heartbeat()
            seen, first = after_sequence, True
            while True:
                with as_service():
                    resource, stored = await self._resources.get_with_events(name, after=seen)
                for entry in stored:
                    event = _event(entry)
                    if first or event.WhichOneof("event") == "finished":
                        event.run.CopyFrom(run_of(resource))
                    first, seen = False, entry.sequence
                    yield event
                    if event.WhichOneof("event") == "finished":
                        return
                if run_of(resource).state in ENDED and not stored:
                    yield _finished_again(run_of(resource))
                    return
                while not await waiting.changed(HEARTBEAT_S):
                    yield _heartbeat()
        finally:
            await waiting.close()


class _Waiting:
    """Notices changes of one resource."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._watch(connection, name))

    async def _watch(self, connection: Connection, name: str) -> None:
        async with contextlib.aclosing(watch_resources(connection, [name])) as changes:
            async for _ in changes:
                self._changed.set()

    async def changed(self, timeout_s: float) -> bool:
        """True as soon as the resource changed since the last call; False after `timeout_s`. Raises what ended the watch."""
        waiting = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({waiting, self._task}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._task.done():
            self._task.result()
        found = self._changed.is_set()
        self._changed.clear()
        return found

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _event(entry: resources_pb2.ResourceEvent) -> run_pb2.RunEvent:
    event = run_pb2.RunEvent()
    entry.event.Unpack(event)
    event.sequence = entry.sequence
    event.time.CopyFrom(entry.time)
    return event


def _heartbeat() -> run_pb2.RunEvent:
    return run_pb2.RunEvent(time=now(), heartbeat=types_pb2.Heartbeat(time=now()))


def _finished_again(run: run_pb2.Run) -> run_pb2.RunEvent:
    """For who asks after the last event: the end once more, so that every stream has one."""
    finished = run_pb2.RunFinished(state=run.state, progress=run.progress)
    if run.HasField("error"):
        finished.error.CopyFrom(run.error)
    return run_pb2.RunEvent(run=run, sequence=run.last_sequence, time=run.end_time, finished=finished)


@dataclass(frozen=True, slots=True)
class Request:
    """A run that waits to be done."""

    name: str
    spec: run_pb2.RunSpec
    run: run_pb2.Run


class Requests:
    """Runs that somebody asked for, by subject, as they come: for the workers of a process. One watch feeds all of them."""

    def __init__(self, storage: Connection, *kinds: int) -> None:
        self._connection, self._kinds = storage, frozenset(kinds)
        self._open: dict[str, Request] = {}
        self._changed = asyncio.Condition()
        self._cancelled: set[str] = set()

    async def watch(self) -> None:
        """Never returns, however long storage is away; background work."""
        watch = watch_resources(self._connection, ["namespaces/-/runs"], tries=sys.maxsize)
        async with contextlib.aclosing(watch) as changes:
            async for change in changes:
                if isinstance(change, Put):
                    self._put(change.resource)
                elif isinstance(change, Deleted):
                    self._open.pop(change.resource.name, None)
                async with self._changed:
                    self._changed.notify_all()

    def _put(self, resource: resources_pb2.Resource) -> None:
        spec, run = spec_of(resource), run_of(resource)
        if spec.kind not in self._kinds or run.state in ENDED:
            self._open.pop(resource.name, None)
            self._cancelled.discard(resource.name)
            return
        self._open[resource.name] = Request(resource.name, spec, run)
        if spec.cancel_requested:
            self._cancelled.add(resource.name)

    def is_cancelled(self, name: str) -> bool:
        return name in self._cancelled

    def waiting(self, subject: str) -> list[Request]:
        """Runs of `subject` that have not ended as far as is known, oldest first."""
        found = [request for request in self._open.values() if request.spec.subject == subject]
        return sorted(found, key=lambda request: request.run.create_time.ToNanoseconds())

    async def subjects(self) -> AsyncIterator[str]:
        """What runs have not ended for, again and again as that changes: for a process without a worker per subject. Never ends."""
        while True:
            before = dict(self._open)
            for subject in dict.fromkeys(request.spec.subject for request in before.values()):
                yield subject
            async with self._changed:
                await self._changed.wait_for(partial(self._has_more_than, before.keys()))

    def _has_more_than(self, names: KeysView[str]) -> bool:
        return bool(self._open.keys() - names)

    async def of(self, subject: str) -> AsyncIterator[Request]:
        """Runs of `subject` that have not ended, oldest first, then new ones; each once. Never ends."""
        given: set[str] = set()
        while True:
            for request in [request for request in self.waiting(subject) if request.name not in given]:
                given.add(request.name)
                yield request
            async with self._changed:
                if not any(r.spec.subject == subject and r.name not in given for r in self._open.values()):
                    await self._changed.wait()


class Reporter:
    """Writes one run's status and events, as the holder of a lease. Every method raises LeaseLost once another has it."""

    def __init__(self, storage: Connection, request: Request, held: HeldBy, worker: str) -> None:
        self._resources, self._name, self._held, self._worker = Resources(storage), request.name, held, worker
        self.run = run_pb2.Run()
        self.run.CopyFrom(request.run)
        self._last_progress = 0.0

    async def started(self, position: types_pb2.Position | None = None) -> None:
        self.run.state = run_pb2.RUN_STATE_RUNNING
        if not self.run.HasField("start_time"):
            self.run.start_time.CopyFrom(now())
        started = run_pb2.RunStarted(worker=self._worker)
        if position is not None:
            started.position.CopyFrom(position)
        await self._write(run_pb2.RunEvent(started=started))

    async def planned(self, planned: run_pb2.RunPlanned) -> None:
        await self._write(run_pb2.RunEvent(planned=planned))

    async def progress(self, progress: run_pb2.RunProgress) -> None:
        """At most one a second is stored; the totals of `finished` are always the last ones told."""
        self.run.progress.CopyFrom(progress)
        if time.monotonic() - self._last_progress >= PROGRESS_S:
            self._last_progress = time.monotonic()
            await self._write(run_pb2.RunEvent(progress=progress))

    async def report(self, report: run_pb2.TableReport) -> None:
        await self._write(run_pb2.RunEvent(report=report))

    async def fault(self, fault: run_pb2.TableFault) -> None:
        await self._write(run_pb2.RunEvent(fault=fault))

    async def finished(self, state: int, error: BaseException | None = None) -> None:
        """`state`: SUCCEEDED, FAILED or CANCELLED."""
        self.run.state = run_pb2.RunState.ValueType(state)
        self.run.end_time.CopyFrom(now())
        finished = run_pb2.RunFinished(state=self.run.state, progress=self.run.progress)
        if error is not None:
            known = (
                error if isinstance(error, errors.MillraceError) else errors.Unexpected("the run failed unexpectedly")
            )
            self.run.error.CopyFrom(to_status(known))
            finished.error.CopyFrom(self.run.error)
        await self._write(run_pb2.RunEvent(finished=finished))

    async def _write(self, event: run_pb2.RunEvent) -> None:
        await self._resources.update_status(self._name, self.run, events=[event], held=self._held)
