"""Specs and statuses of everything that is not a table. Each change carries a request id, so it may be repeated."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from google.protobuf import any_pb2
from google.protobuf.message import Message

from millrace.client.channel import Connection, call
from millrace.storage.v1 import resources_pb2 as pb
from millrace.storage.v1 import resources_pb2_grpc


def new_request_id() -> str:
    return uuid.uuid4().hex


def packed(message: Message) -> any_pb2.Any:
    """`message` as an Any."""
    found = any_pb2.Any()
    found.Pack(message)
    return found


@dataclass(frozen=True, slots=True)
class HeldBy:
    """A lease that a change depends on: with another current epoch it is refused (LeaseLost)."""

    lease: str
    epoch: int


class Resources:
    """Storage's ResourceService. For services and admins."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = resources_pb2_grpc.ResourceServiceStub(connection.channel)

    async def put(
        self,
        name: str,
        spec: Message,
        *,
        etag: str = "",
        overwrite: bool = False,
        status: Message | None = None,
        on_behalf_of: str = "",
        request_id: str = "",
    ) -> tuple[pb.Resource, bool]:
        """The stored resource and whether it is new. Raises EtagMismatch, ResourceExists (no etag, no overwrite, and it is there)."""
        resource = pb.Resource(
            name=name, etag=etag, spec=packed(spec), status=packed(status) if status is not None else None
        )
        request = pb.PutResourceRequest(
            request_id=request_id or new_request_id(), resource=resource, overwrite=overwrite, on_behalf_of=on_behalf_of
        )
        answer = await call(
            self._connection, self._stub.PutResource, request, resource=name, answer=pb.PutResourceResponse
        )
        return answer.resource, answer.created

    async def get(self, name: str) -> pb.Resource:
        """Raises Missing with the reason of its collection."""
        return (await self._get(pb.GetResourceRequest(name=name))).resource

    async def get_with_events(self, name: str, *, after: int = 0) -> tuple[pb.Resource, Sequence[pb.ResourceEvent]]:
        """With its events of a sequence above `after`, oldest first, at most 1,000."""
        answer = await self._get(pb.GetResourceRequest(name=name, events_after=after))
        return answer.resource, answer.events

    async def _get(self, request: pb.GetResourceRequest) -> pb.GetResourceResponse:
        return await call(
            self._connection, self._stub.GetResource, request, resource=request.name, answer=pb.GetResourceResponse
        )

    async def list(self, parent: str) -> AsyncGenerator[pb.Resource, None]:
        """All resources of `namespaces/{namespace}/{collection}`, by name, page by page."""
        request = pb.ListResourcesRequest(parent=parent, page_size=1_000)
        while True:
            answer = await call(self._connection, self._stub.ListResources, request, answer=pb.ListResourcesResponse)
            for resource in answer.resources:
                yield resource
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def page(self, parent: str, *, size: int = 0, token: str = "") -> tuple[Sequence[pb.Resource], str]:
        """One page of `namespaces/{namespace}/{collection}`, by name, and the token of the next; "" on the last. `size` 0 means 50."""
        request = pb.ListResourcesRequest(parent=parent, page_size=size, page_token=token)
        answer = await call(self._connection, self._stub.ListResources, request, answer=pb.ListResourcesResponse)
        return answer.resources, answer.next_page_token

    async def update_status(
        self,
        name: str,
        status: Message | None = None,
        *,
        events: Sequence[Message] = (),
        held: HeldBy | None = None,
        uid: str = "",
        request_id: str = "",
    ) -> pb.Resource:
        """Replaces the status (None keeps it) and appends `events`. Raises LeaseLost when `held` is no longer so."""
        request = pb.UpdateResourceStatusRequest(
            request_id=request_id or new_request_id(),
            name=name,
            status=packed(status) if status is not None else None,
            append_events=map(packed, events),
            lease=held.lease if held else "",
            lease_epoch=held.epoch if held else 0,
            uid=uid,
        )
        answer = await call(
            self._connection,
            self._stub.UpdateResourceStatus,
            request,
            resource=name,
            answer=pb.UpdateResourceStatusResponse,
        )
        return answer.resource

    async def delete(self, name: str, *, etag: str = "", request_id: str = "") -> None:
        """Raises Missing, EtagMismatch."""
        request = pb.DeleteResourceRequest(request_id=request_id or new_request_id(), name=name, etag=etag)
        await call(
            self._connection, self._stub.DeleteResource, request, resource=name, answer=pb.DeleteResourceResponse
        )
