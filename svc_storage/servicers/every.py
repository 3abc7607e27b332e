"""All servicers of storage, each with what adds it to a server."""

from __future__ import annotations

from collections.abc import Sequence

from millrace.server.runtime import AddServicer
from millrace.storage.v1 import committer_pb2_grpc, leases_pb2_grpc, resources_pb2_grpc, storage_pb2_grpc
from svc_storage.domain.control.leadership import Leader
from svc_storage.domain.storage import Storage
from svc_storage.servicers.committer import CommitterServicer
from svc_storage.servicers.leases import LeaseServicer
from svc_storage.servicers.maintenance import Ledger
from svc_storage.servicers.resources import ResourceServicer
from svc_storage.servicers.storage import StorageServicer


def servicers(storage: Storage, ledger: Ledger, leader: Leader) -> Sequence[tuple[AddServicer, object]]:
    resources = ResourceServicer(storage.resources, storage.clock)
    return (
        (storage_pb2_grpc.add_StorageServiceServicer_to_server, StorageServicer(storage, ledger)),
        (resources_pb2_grpc.add_ResourceServiceServicer_to_server, resources),
        (leases_pb2_grpc.add_LeaseServiceServicer_to_server, LeaseServicer(storage.leases)),
        (committer_pb2_grpc.add_CommitterServiceServicer_to_server, CommitterServicer(storage.opened, leader)),
    )
