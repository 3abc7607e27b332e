"""Follows a table's versions, or resources, across breaks: nothing is skipped, nothing is told twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from millrace import errors
from millrace.client.channel import Connection
from millrace.client.resume import Resumed, resumable
from millrace.storage.v1 import resources_pb2, resources_pb2_grpc, storage_pb2, storage_pb2_grpc

Change = storage_pb2.TableVersion | storage_pb2.Bookmark | storage_pb2.TableDeleted


async def watch_table(
    connection: Connection, request: storage_pb2.WatchTableRequest, *, tries: int = 10
) -> AsyncGenerator[Change, None]:
    """Versions and bookmarks in ascending order, each number covered once; a TableDeleted is the last. Close it (`aclosing`).

    Raises VersionExpired (read in full, watch from there), VersionInFuture, TableRecreated, TableNotFound."""
    stub = storage_pb2_grpc.StorageServiceStub(connection.channel)
    asked = storage_pb2.WatchTableRequest()
    asked.CopyFrom(request)
    events: Resumed[storage_pb2.WatchTableResponse] = Resumed(
        lambda: stub.WatchTable(asked, metadata=connection.metadata(request.table)), tries=tries
    )
    try:
        async for event in events:
            match event.WhichOneof("event"):
                case "version":
                    covered = asked.after_version if asked.HasField("after_version") else -1
                    if event.version.number <= covered:
                        continue
                    asked.after_version = event.version.number
                    yield event.version
                case "bookmark":
                    asked.after_version = max(event.bookmark.version, asked.after_version)
                    yield event.bookmark
                case "deleted":
                    events.finish()
                    yield event.deleted
    finally:
        await events.aclose()


@dataclass(frozen=True, slots=True)
class Put:
    """Created or changed, as it is now."""

    resource: resources_pb2.Resource


@dataclass(frozen=True, slots=True)
class Deleted:
    """Gone; its last known state."""

    resource: resources_pb2.Resource


@dataclass(frozen=True, slots=True)
class Synced:
    """All that there was has been told."""


async def watch_resources(
    connection: Connection, collections: Sequence[str], *, tries: int = 10
) -> AsyncGenerator[Put | Deleted | Synced, None]:
    """All resources of `collections`, then Synced, then changes, for ever. Close it (`aclosing`).

    When storage no longer knows the changes missed in a break, everything is listed again inside; consumers only see what differs:
    newer Puts, Deleted for what vanished."""
    watch = _ResourceWatch(connection, collections, tries)
    try:
        async for event in watch.events:
            for change in watch.changes(event):
                yield change
    finally:
        await watch.events.aclose()


class _ResourceWatch:
    """The state behind `watch_resources`: where to go on, and what the consumer knows."""

    def __init__(self, connection: Connection, collections: Sequence[str], tries: int) -> None:
        self._connection = connection
        self._stub = resources_pb2_grpc.ResourceServiceStub(connection.channel)
        self._request = resources_pb2.WatchResourcesRequest(collections=collections, send_initial=True)
        self._known: dict[str, resources_pb2.Resource] = {}
        self._listed: set[str] = set()
        self._synced = False
        self.events: Resumed[resources_pb2.WatchResourcesResponse] = Resumed(
            self._open, retries=self._retries, tries=tries
        )

    def _open(self) -> object:
        self._listed.clear()
        return self._stub.WatchResources(self._request, metadata=self._connection.metadata())

    def _retries(self, error: errors.MillraceError) -> bool:
        expired = isinstance(error, errors.RevisionExpired)
        if expired:
            self._request.send_initial = True
            self._request.ClearField("after_revision")
        return expired or resumable(error)

    def changes(self, event: resources_pb2.WatchResourcesResponse) -> list[Put | Deleted | Synced]:
        found: list[Put | Deleted | Synced] = []
        match event.WhichOneof("event"):
            case "put":
                found = self._put(event.put)
            case "deleted":
                self._known.pop(event.deleted.name, None)
                found = [Deleted(event.deleted)]
            case "initial_end":
                found = self._initial_end()
        if not self._request.send_initial:
            self._request.after_revision = event.revision
        elif event.WhichOneof("event") == "initial_end":
            self._request.send_initial = False
            self._request.after_revision = event.revision
        return found

    def _put(self, resource: resources_pb2.Resource) -> list[Put | Deleted | Synced]:
        self._listed.add(resource.name)
        before = self._known.get(resource.name)
        if before is not None and (before.uid, before.revision) == (resource.uid, resource.revision):
            return []
        self._known[resource.name] = resource
        return [Put(resource)]

    def _initial_end(self) -> list[Put | Deleted | Synced]:
        gone = [self._known.pop(name) for name in sorted(set(self._known) - self._listed)]
        first, self._synced = not self._synced, True
        return [*map(Deleted, gone), *([Synced()] if first else [])]
