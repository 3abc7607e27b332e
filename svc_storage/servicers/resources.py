"""ResourceService: for services and admins. A person's other token would reach Put past PutSource's checks."""

from __future__ import annotations

from typing import Any

from millrace.errors import NotAllowed
from millrace.server.identity import Caller, require_admin_or_service
from millrace.storage.v1 import resources_pb2 as pb
from millrace.storage.v1 import resources_pb2_grpc as grpc_pb
from svc_storage.convert import resources as convert
from svc_storage.convert.paging import after_of, fitting, page_size_of, token_after
from svc_storage.convert.requests import heartbeat_s, request_mark
from svc_storage.domain.control.changes import follow
from svc_storage.domain.control.resource_names import parse_parent
from svc_storage.domain.control.resources import Resources
from svc_storage.domain.streams import closing
from svc_storage.ports import Clock


class ResourceServicer(grpc_pb.ResourceServiceServicer):
    def __init__(self, resources: Resources, clock: Clock) -> None:
        self._resources, self._clock = resources, clock

    async def PutResource(self, request: pb.PutResourceRequest, context: Any) -> pb.PutResourceResponse:
        caller = require_admin_or_service()
        wish = convert.wish_from(request, _owner(caller, request.on_behalf_of))
        resource, created = await self._resources.put(wish, request_mark(request, caller.principal))
        return pb.PutResourceResponse(resource=convert.resource_to(resource), created=created)

    async def GetResource(self, request: pb.GetResourceRequest, context: Any) -> pb.GetResourceResponse:
        require_admin_or_service()
        after = request.events_after if request.HasField("events_after") else None
        resource, events = await self._resources.get(request.name, events_after=after)
        return pb.GetResourceResponse(resource=convert.resource_to(resource), events=map(convert.event_to, events))

    async def ListResources(self, request: pb.ListResourcesRequest, context: Any) -> pb.ListResourcesResponse:
        require_admin_or_service()
        what, size = parse_parent(request.parent), page_size_of(request.page_size)
        after_name = after_of(request.page_token, "resources", request.parent)
        found, revision = await self._resources.page(what, after_name=after_name, limit=size + 1)
        page = fitting(map(convert.resource_to, found[:size]))
        return pb.ListResourcesResponse(
            resources=page,
            next_page_token=token_after(page[-1].name, "resources", request.parent) if len(found) > len(page) else "",
            revision=revision,
        )

    async def UpdateResourceStatus(
        self, request: pb.UpdateResourceStatusRequest, context: Any
    ) -> pb.UpdateResourceStatusResponse:
        caller = require_admin_or_service()
        mark = request_mark(request, caller.principal)
        resource = await self._resources.update_status(convert.update_from(request), mark)
        return pb.UpdateResourceStatusResponse(resource=convert.resource_to(resource))

    async def DeleteResource(self, request: pb.DeleteResourceRequest, context: Any) -> pb.DeleteResourceResponse:
        caller = require_admin_or_service()
        mark = request_mark(request, caller.principal)
        await self._resources.delete(request.name, etag=request.etag, request=mark)
        return pb.DeleteResourceResponse()

    async def WatchResources(self, request: pb.WatchResourcesRequest, context: Any) -> None:
        require_admin_or_service()
        news = follow(
            self._resources,
            convert.selections_from(request.collections),
            after=request.after_revision if request.HasField("after_revision") else None,
            initial=request.send_initial,
            heartbeat_s=heartbeat_s(request),
        )
        async with closing(news):
            async for one in news:
                await context.write(convert.watch_response(one, self._clock.now_us()))


def _owner(caller: Caller, on_behalf_of: str) -> str:
    if on_behalf_of and not caller.is_service:
        raise NotAllowed("only services act on behalf of others", field="on_behalf_of")
    return on_behalf_of or caller.principal
