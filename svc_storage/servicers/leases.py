"""LeaseService: for services and admins."""

from __future__ import annotations

from typing import Any

from millrace.server.identity import require_admin_or_service
from millrace.storage.v1 import leases_pb2 as pb
from millrace.storage.v1 import leases_pb2_grpc as grpc_pb
from millrace.wire.clock import duration_micros, duration_proto, timestamp_proto
from svc_storage.convert.requests import request_mark
from svc_storage.domain.control.leases import Leases
from svc_storage.ports import LeaseRow


class LeaseServicer(grpc_pb.LeaseServiceServicer):
    def __init__(self, leases: Leases) -> None:
        self._leases = leases

    async def AcquireLease(self, request: pb.AcquireLeaseRequest, context: Any) -> pb.AcquireLeaseResponse:
        caller = require_admin_or_service()
        lease = await self._leases.acquire(
            request.name,
            holder=request.holder,
            ttl_ms=duration_micros(request.ttl, "ttl") // 1_000,
            request=request_mark(request, caller.principal),
        )
        return pb.AcquireLeaseResponse(lease=self._to(lease))

    async def RenewLease(self, request: pb.RenewLeaseRequest, context: Any) -> pb.RenewLeaseResponse:
        require_admin_or_service()
        return pb.RenewLeaseResponse(lease=self._to(await self._leases.renew(request.name, request.epoch)))

    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest, context: Any) -> pb.ReleaseLeaseResponse:
        require_admin_or_service()
        await self._leases.release(request.name, request.epoch)
        return pb.ReleaseLeaseResponse()

    def _to(self, lease: LeaseRow) -> pb.Lease:
        return pb.Lease(
            name=lease.name,
            holder=lease.holder,
            epoch=lease.epoch,
            ttl=duration_proto(lease.ttl_ms * 1_000),
            expire_time=timestamp_proto(self._leases.expires_us(lease)),
        )
