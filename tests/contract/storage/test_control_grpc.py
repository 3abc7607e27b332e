"""ResourceService and LeaseService through pytest-grpc: the servicers on a real aio server behind every layer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from millrace.storage.v1 import leases_pb2, leases_pb2_grpc, resources_pb2, resources_pb2_grpc
from millrace.types.v1 import pipeline_pb2
from svc_storage.adapters.clock import SystemClock
from svc_storage.adapters.memory.control import MemoryControl
from svc_storage.domain.control.leases import Leases
from svc_storage.domain.control.resources import Resources
from svc_storage.servicers.leases import LeaseServicer
from svc_storage.servicers.resources import ResourceServicer

SOURCE = "namespaces/default/sources/orders"


class _Both(ResourceServicer, LeaseServicer):
    def __init__(self) -> None:
        control, clock = MemoryControl(), SystemClock()
        ResourceServicer.__init__(self, Resources(control, clock), clock)
        LeaseServicer.__init__(self, Leases(control, clock))


@pytest.fixture(scope="module")
def grpc_servicer() -> Any:
    async def make() -> _Both:
        return _Both()

    return make


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[[Any, Any], None]:
    def add(servicer: Any, server: Any) -> None:
        resources_pb2_grpc.add_ResourceServiceServicer_to_server(servicer, server)
        leases_pb2_grpc.add_LeaseServiceServicer_to_server(servicer, server)

    return add


@pytest.fixture
def resources(grpc_create_channel: Callable[..., grpc.Channel]) -> Any:
    return resources_pb2_grpc.ResourceServiceStub(grpc_create_channel("extract"))


@pytest.fixture
def leases(grpc_create_channel: Callable[..., grpc.Channel]) -> Any:
    return leases_pb2_grpc.LeaseServiceStub(grpc_create_channel("extract"))


def packed(message: Message) -> any_pb2.Any:
    found = any_pb2.Any()
    found.Pack(message)
    return found


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    status = rpc_status.from_call(refused.value)
    assert status is not None, f"a bare status: {refused.value}"
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return refused.value.code(), info.reason


def test_resources_live_watch_and_die(resources: Any) -> None:
    spec = packed(pipeline_pb2.ReaderSpec(table="t", table_uid="u"))
    wish = resources_pb2.Resource(name=SOURCE, spec=spec)
    put = resources_pb2.PutResourceRequest(request_id="r1", resource=wish, on_behalf_of="ada")
    first = resources.PutResource(put)
    assert (first.created, first.resource.owner, first.resource.generation) == (True, "ada", 1)
    assert resources.PutResource(put) == first
    watch = resources.WatchResources(
        resources_pb2.WatchResourcesRequest(collections=["namespaces/-/sources"], send_initial=True)
    )
    assert next(watch).put == first.resource
    assert next(watch).WhichOneof("event") == "initial_end"
    update = resources_pb2.UpdateResourceStatusRequest(
        request_id="r2", name=SOURCE, status=packed(pipeline_pb2.ReaderStatus(version=7)), append_events=[spec, spec]
    )
    updated = resources.UpdateResourceStatus(update).resource
    assert (updated.etag, updated.last_event_sequence) == (first.resource.etag, 2)
    told = next(watch)
    assert (told.put, told.revision) == (updated, updated.revision)
    got = resources.GetResource(resources_pb2.GetResourceRequest(name=SOURCE, events_after=1))
    assert [event.sequence for event in got.events] == [2]
    listed = resources.ListResources(resources_pb2.ListResourcesRequest(parent="namespaces/default/sources"))
    assert (list(listed.resources), listed.next_page_token, listed.revision) == ([updated], "", updated.revision)
    resources.DeleteResource(resources_pb2.DeleteResourceRequest(request_id="r3", name=SOURCE))
    assert next(watch).deleted.uid == updated.uid
    watch.cancel()
    gone = refusal(lambda: resources.GetResource(resources_pb2.GetResourceRequest(name=SOURCE)))
    assert gone == (grpc.StatusCode.NOT_FOUND, "SOURCE_NOT_FOUND")


def test_pages_of_resources(resources: Any) -> None:
    spec = packed(pipeline_pb2.ReaderSpec())
    for name in "cab":
        wish = resources_pb2.Resource(name=f"namespaces/paged/sources/{name}", spec=spec)
        resources.PutResource(resources_pb2.PutResourceRequest(request_id=f"page {name}", resource=wish))
    names, token = [], ""
    while True:
        ask = resources_pb2.ListResourcesRequest(parent="namespaces/paged/sources", page_size=2, page_token=token)
        page = resources.ListResources(ask)
        names += [resource.name[-1] for resource in page.resources]
        if not (token := page.next_page_token):
            break
        other = resources_pb2.ListResourcesRequest(parent="namespaces/paged/runs", page_token=token)
        assert refusal(lambda other=other: resources.ListResources(other))[1] == "TOKEN_MISMATCH"  # type: ignore[misc]
    assert names == ["a", "b", "c"]


SPEC = packed(pipeline_pb2.ReaderSpec())


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (resources_pb2.PutResourceRequest(), "FIELD_REQUIRED"),
        (
            resources_pb2.PutResourceRequest(request_id="a", resource=resources_pb2.Resource(name=SOURCE)),
            "FIELD_REQUIRED",
        ),
        (
            resources_pb2.PutResourceRequest(request_id="a", resource=resources_pb2.Resource(name="x", spec=SPEC)),
            "FIELD_INVALID",
        ),
        (
            resources_pb2.PutResourceRequest(
                request_id="a" * 129, resource=resources_pb2.Resource(name=SOURCE, spec=SPEC)
            ),
            "FIELD_INVALID",
        ),
        (
            resources_pb2.PutResourceRequest(
                request_id="a", resource=resources_pb2.Resource(name=SOURCE, spec=any_pb2.Any(value=b"x"))
            ),
            "FIELD_INVALID",
        ),
    ],
)
def test_malformed_puts_are_refused(resources: Any, request_: resources_pb2.PutResourceRequest, reason: str) -> None:
    assert refusal(lambda: resources.PutResource(request_)) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


def test_a_revision_that_is_not_known_says_to_list_again(resources: Any) -> None:
    ask = resources_pb2.WatchResourcesRequest(collections=["namespaces/-/runs"], after_revision=1 << 40)
    assert refusal(lambda: next(resources.WatchResources(ask))) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_EXPIRED")
    ask = resources_pb2.WatchResourcesRequest(
        collections=["namespaces/-/runs"], heartbeat=duration_pb2.Duration(seconds=1)
    )
    assert refusal(lambda: next(resources.WatchResources(ask)))[1] == "FIELD_INVALID"


def test_people_without_the_role_are_refused(grpc_create_channel: Callable[..., grpc.Channel]) -> None:
    guest = resources_pb2_grpc.ResourceServiceStub(grpc_create_channel("guest"))
    leases = leases_pb2_grpc.LeaseServiceStub(grpc_create_channel("guest"))
    denied = (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED")
    parent = "namespaces/default/sources"
    assert refusal(lambda: guest.ListResources(resources_pb2.ListResourcesRequest(parent=parent))) == denied
    assert refusal(lambda: leases.RenewLease(leases_pb2.RenewLeaseRequest(name="a", epoch=1))) == denied
    watch = resources_pb2.WatchResourcesRequest(collections=[parent])
    assert refusal(lambda: next(guest.WatchResources(watch))) == denied
    local = resources_pb2_grpc.ResourceServiceStub(grpc_create_channel("local"))
    wish = resources_pb2.Resource(name=SOURCE, spec=SPEC)
    borrowed = resources_pb2.PutResourceRequest(request_id="b", resource=wish, on_behalf_of="eve")
    assert refusal(lambda: local.PutResource(borrowed)) == denied


def test_leases(leases: Any) -> None:
    def ask(holder: str, request_id: str) -> leases_pb2.AcquireLeaseRequest:
        return leases_pb2.AcquireLeaseRequest(
            request_id=request_id, name="sources/a", holder=holder, ttl=duration_pb2.Duration(seconds=10)
        )

    first = leases.AcquireLease(ask("a", "1")).lease
    assert (first.epoch, first.holder, first.ttl.seconds) == (1, "a", 10)
    assert 5 < first.expire_time.seconds - time.time() < 11
    held = refusal(lambda: leases.AcquireLease(ask("b", "2")))
    assert held == (grpc.StatusCode.FAILED_PRECONDITION, "LEASE_HELD")
    leases.RenewLease(leases_pb2.RenewLeaseRequest(name="sources/a", epoch=1))
    leases.ReleaseLease(leases_pb2.ReleaseLeaseRequest(name="sources/a", epoch=1))
    assert leases.AcquireLease(ask("b", "3")).lease.epoch == 2
    lost = refusal(lambda: leases.RenewLease(leases_pb2.RenewLeaseRequest(name="sources/a", epoch=1)))
    assert lost == (grpc.StatusCode.FAILED_PRECONDITION, "LEASE_LOST")
