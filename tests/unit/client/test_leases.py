"""The lease keeper's clock, without waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import duration_pb2
from google.rpc import code_pb2

from millrace import errors
from millrace.client.channel import Connection, open_channel
from millrace.client.leases import LeaseKeeper
from millrace.storage.v1 import leases_pb2, leases_pb2_grpc
from tests.unit.client.scripted import rich, serving


class Leases(leases_pb2_grpc.LeaseServiceServicer):
    def __init__(self) -> None:
        self.renewals = 0
        self.released: list[int] = []
        self.answer = "ok"

    async def AcquireLease(
        self, request: leases_pb2.AcquireLeaseRequest, context: Any
    ) -> leases_pb2.AcquireLeaseResponse:
        return leases_pb2.AcquireLeaseResponse(
            lease=leases_pb2.Lease(name=request.name, epoch=7, ttl=duration_pb2.Duration(seconds=5))
        )

    async def RenewLease(self, request: leases_pb2.RenewLeaseRequest, context: Any) -> leases_pb2.RenewLeaseResponse:
        self.renewals += 1
        if self.answer == "lost":
            status = rich(code_pb2.FAILED_PRECONDITION, "LEASE_LOST")
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "lost")
        if self.answer == "down":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        return leases_pb2.RenewLeaseResponse()

    async def ReleaseLease(
        self, request: leases_pb2.ReleaseLeaseRequest, context: Any
    ) -> leases_pb2.ReleaseLeaseResponse:
        self.released.append(request.epoch)
        return leases_pb2.ReleaseLeaseResponse()


@asynccontextmanager
async def connected(leases: Leases) -> AsyncIterator[Connection]:
    served = serving((leases_pb2_grpc.add_LeaseServiceServicer_to_server, leases))
    async with served as port, open_channel(f"127.0.0.1:{port}") as channel:
        yield Connection(channel)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_it_renews_at_a_third_and_gives_back() -> None:
    leases = Leases()
    async with connected(leases) as connection, LeaseKeeper(connection, "a", "me", ttl_s=0.3) as keeper:
        await until(lambda: leases.renewals >= 5)
        assert keeper.held
        assert keeper.epoch == 7
    assert leases.released == [7]


async def test_it_stops_at_two_thirds_when_storage_is_away() -> None:
    leases, lost = Leases(), []
    async with connected(leases) as connection:
        keeper = LeaseKeeper(connection, "a", "me", ttl_s=0.6, on_lost=lost.append)
        await keeper.acquire()
        leases.answer = "down"
        began = asyncio.get_running_loop().time()
        why = await asyncio.wait_for(keeper.lost(), 5)
        assert 0.3 <= asyncio.get_running_loop().time() - began <= 1.0
        assert isinstance(why, errors.LeaseLost)
        assert leases.renewals >= 2
        assert not keeper.held
        assert len(lost) == 1
        await keeper.release()
    assert leases.released == [], "a lease that was lost is not given back"


async def test_a_refused_renewal_is_the_end_at_once() -> None:
    leases = Leases()
    async with connected(leases) as connection:
        keeper = LeaseKeeper(connection, "a", "me", ttl_s=0.3)
        await keeper.acquire()
        leases.answer = "lost"
        await asyncio.wait_for(keeper.lost(), 5)
        assert leases.renewals == 1
        await keeper.release()


async def test_a_stopped_process_knows_at_its_first_look() -> None:
    now = 100.0
    async with connected(Leases()) as connection:
        keeper = LeaseKeeper(connection, "a", "me", ttl_s=15, clock=lambda: now)
        await keeper.acquire()
        assert keeper.held
        now += 10.1
        assert not keeper.held
        await keeper.release()
