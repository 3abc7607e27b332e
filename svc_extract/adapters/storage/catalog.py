"""Sources and runs as resources of storage. Always with extract's own rights: people may not write resources."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from google.protobuf.message import Message

from millrace.client.channel import Connection
from millrace.client.resources import HeldBy, Resources
from millrace.client.watch import Deleted, Put, Synced, watch_resources
from millrace.errors import ResourceExists, RunNotFound
from millrace.extract.v1 import extract_pb2
from millrace.server.identity import caller_request_id
from millrace.storage.v1 import resources_pb2
from millrace.types.v1 import run_pb2
from svc_extract.convert import runs as convert_runs
from svc_extract.convert import sources as convert
from svc_extract.ports import Change, Happening, Run, RunEvent, Source, SourceStatus

SOURCES, RUNS = "namespaces/-/sources", "namespaces/-/runs"


class StorageCatalog:
    def __init__(self, as_extract: Connection) -> None:
        self._connection = as_extract
        self._resources = Resources(as_extract)

    # -- sources -------------------------------------------------------------------------------------------------------
    async def put_source(
        self, source: Source, *, request_id: str, owner: str, status: SourceStatus | None = None
    ) -> Source:
        stored, _ = await self._resources.put(
            source.name,
            convert.spec_to(source.spec),
            etag=source.etag,
            overwrite=not source.etag,
            status=convert.status_to(status or SourceStatus()),
            on_behalf_of=owner,
            request_id=caller_request_id(request_id),
        )
        return _source(stored)

    async def source(self, name: str) -> Source:
        return _source(await self._resources.get(name))

    async def sources(self, namespace: str, *, limit: int, page_token: str) -> tuple[Sequence[Source], str]:
        found, token = await self._resources.page(f"namespaces/{namespace}/sources", size=limit, token=page_token)
        return [_source(one) for one in found], token

    async def delete_source(self, name: str, *, etag: str, request_id: str) -> None:
        await self._resources.delete(name, etag=etag, request_id=caller_request_id(request_id))

    # -- runs ----------------------------------------------------------------------------------------------------------
    async def create_run(self, run: Run, *, owner: str) -> tuple[Run, bool]:
        try:
            stored, _ = await self._resources.put(
                run.name, convert_runs.spec_to(run.spec), status=convert_runs.run_to(run), on_behalf_of=owner
            )
        except ResourceExists:
            return await self.run(run.name), False
        return _run(stored), True

    async def run(self, name: str) -> Run:
        return _run(await self._resources.get(name))

    async def ask_to_cancel(self, run: Run, *, request_id: str) -> Run:
        stored = await self._resources.get(run.name)
        spec = run_pb2.RunSpec()
        stored.spec.Unpack(spec)
        spec.cancel_requested = True
        asked = caller_request_id(f"{stored.etag} {request_id}")  # after an EtagMismatch it asks something else
        changed, _ = await self._resources.put(run.name, spec, etag=stored.etag, request_id=asked)
        return _run(changed)

    # -- what workers tell ---------------------------------------------------------------------------------------------
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
        held = HeldBy(lease, epoch) if lease else None
        if run is not None:
            stored: Sequence[Message] = [convert_runs.happening_to(event) for event in events]
            await self._resources.update_status(
                run.name, convert_runs.run_to(run), events=stored, held=held, uid=run.uid
            )
        if source is not None and status is not None:
            await self._resources.update_status(source.name, convert.status_to(status), held=held, uid=source.uid)

    # -- what is told --------------------------------------------------------------------------------------------------
    async def events(self, run: str, *, after_sequence: int) -> AsyncGenerator[RunEvent]:
        at, there = after_sequence, False
        changes = watch_resources(self._connection, [run])
        async with aclosing(changes):
            async for change in changes:
                there = there or isinstance(change, Put)
                if isinstance(change, Deleted) or not there:
                    raise RunNotFound(f"`{run}` does not exist", field="name")
                if isinstance(change, Put) and change.resource.last_event_sequence > at:
                    _, stored = await self._resources.get_with_events(run, after=at)
                    for one in stored:
                        at = one.sequence
                        if (event := _event(one)) is not None:
                            yield event

    async def watch(self) -> AsyncGenerator[Change]:
        changes = watch_resources(self._connection, [SOURCES, RUNS])
        async with aclosing(changes):
            async for change in changes:
                if isinstance(change, Synced):
                    yield Change(caught_up=True)
                elif (found := _change(change)) is not None:
                    yield found


def _change(change: Put | Deleted) -> Change | None:
    resource, there = change.resource, isinstance(change, Put)
    if "/sources/" in resource.name:
        return Change(source=_source(resource), there=there)
    run = _run(resource)
    return Change(run=run, there=there) if run.foreign is None else None


def _source(resource: resources_pb2.Resource) -> Source:
    spec, status = extract_pb2.SourceSpec(), extract_pb2.SourceStatus()
    resource.spec.Unpack(spec)
    resource.status.Unpack(status)
    return Source(
        name=resource.name,
        spec=convert.spec_from(spec),
        uid=resource.uid,
        etag=resource.etag,
        generation=resource.generation,
        status=convert.status_from(status),
        owner=resource.owner,
    )


def _run(resource: resources_pb2.Resource) -> Run:
    spec, status = run_pb2.RunSpec(), run_pb2.Run()
    resource.spec.Unpack(spec)
    resource.status.Unpack(status)
    found = convert_runs.run_from(resource.name, spec, status)
    return replace(
        found, uid=resource.uid, etag=resource.etag, last_sequence=resource.last_event_sequence or found.last_sequence
    )


def _event(stored: resources_pb2.ResourceEvent) -> RunEvent | None:
    message = run_pb2.RunEvent()
    stored.event.Unpack(message)
    what = convert_runs.happening_from(message)
    if what is None:
        return None
    return RunEvent(stored.sequence, stored.time.seconds * 1_000_000 + stored.time.nanos // 1000, what)
