"""Resources and their events between proto and domain."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import any_pb2

from millrace.errors import FieldInvalid, FieldRequired
from millrace.storage.v1 import resources_pb2 as pb
from millrace.wire.clock import timestamp_proto
from svc_storage.domain.control.changes import Initial, InitialEnd, ResourceChange, ResourceNews, RevisionBookmark
from svc_storage.domain.control.resource_names import Selection, parse_selection
from svc_storage.domain.control.resources import ResourceWish, StatusUpdate
from svc_storage.ports import Packed, Resource, ResourceEvent

MAX_SELECTIONS = 20


def packed_from(message: any_pb2.Any, *, field: str) -> Packed:
    if not message.type_url:
        raise FieldInvalid("an Any names its message in `type_url` (in JSON: `@type`)", field=field)
    return Packed(message.type_url, message.value)


def any_from(packed: Packed) -> any_pb2.Any:
    return any_pb2.Any(type_url=packed.type_url, value=packed.value)


def resource_to(resource: Resource) -> pb.Resource:
    return pb.Resource(
        name=resource.name,
        uid=resource.uid,
        etag=resource.etag,
        revision=resource.revision,
        generation=resource.generation,
        spec=any_from(resource.spec) if resource.spec else None,
        status=any_from(resource.status) if resource.status else None,
        create_time=timestamp_proto(resource.created_us),
        update_time=timestamp_proto(resource.updated_us),
        owner=resource.owner,
        last_event_sequence=resource.last_event,
    )


def event_to(event: ResourceEvent) -> pb.ResourceEvent:
    return pb.ResourceEvent(sequence=event.sequence, time=timestamp_proto(event.time_us), event=any_from(event.event))


def wish_from(request: pb.PutResourceRequest, owner: str) -> ResourceWish:
    resource = request.resource
    if not resource.HasField("spec"):
        raise FieldRequired("the resource needs a spec", field="resource.spec")
    return ResourceWish(
        name=resource.name,
        spec=packed_from(resource.spec, field="resource.spec"),
        status=packed_from(resource.status, field="resource.status") if resource.HasField("status") else None,
        etag=resource.etag,
        overwrite=request.overwrite,
        owner=owner,
    )


def update_from(request: pb.UpdateResourceStatusRequest) -> StatusUpdate:
    return StatusUpdate(
        name=request.name,
        status=packed_from(request.status, field="status") if request.HasField("status") else None,
        events=tuple(
            packed_from(event, field=f"append_events[{index}]") for index, event in enumerate(request.append_events)
        ),
        lease=request.lease,
        lease_epoch=request.lease_epoch,
        uid=request.uid,
    )


def selections_from(collections: Sequence[str]) -> list[Selection]:
    if not 1 <= len(collections) <= MAX_SELECTIONS:
        raise FieldInvalid(f"name 1 to {MAX_SELECTIONS} collections", field="collections")
    return [parse_selection(text, field=f"collections[{index}]") for index, text in enumerate(collections)]


def watch_response(news: ResourceNews, now_us: int) -> pb.WatchResourcesResponse:
    match news:
        case Initial(resource):
            return pb.WatchResourcesResponse(put=resource_to(resource))
        case ResourceChange(True, resource):
            return pb.WatchResourcesResponse(put=resource_to(resource), revision=resource.revision)
        case ResourceChange(_, resource):
            return pb.WatchResourcesResponse(deleted=resource_to(resource), revision=resource.revision)
        case InitialEnd(revision):
            return pb.WatchResourcesResponse(initial_end=pb.InitialEnd(), revision=revision)
        case RevisionBookmark(revision):
            bookmark = pb.ResourceBookmark(time=timestamp_proto(now_us))
            return pb.WatchResourcesResponse(bookmark=bookmark, revision=revision)
