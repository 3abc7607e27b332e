"""Calls to other services: as whom, for how long, and what a lost one does to health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from millrace import errors
from millrace.admin.v1 import admin_pb2, admin_pb2_grpc
from millrace.server.identity import as_service, caller
from millrace.server.interceptors.deadline import remaining_s
from millrace.server.runtime import Composition, Runtime, ServiceSpec
from millrace.server.testing import Served, running
from millrace.storage.v1 import storage_pb2 as pb
from millrace.storage.v1 import storage_pb2_grpc as pb_grpc
from tests.contract.server.test_errors import failure
from tests.contract.server.toy import Toy, reason_of, toy_spec


class Front(pb_grpc.StorageServiceStub):
    """Asks the toy behind it, and says as whom the toy saw it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._behind: Any = pb_grpc.StorageServiceStub(runtime.channel("storage"))
        self.background: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def GetTable(self, request: pb.GetTableRequest, context: Any) -> pb.GetTableResponse:
        if request.name == "as_service":
            with as_service():
                return await self._behind.GetTable(pb.GetTableRequest(name="t"))
        if request.name == "background":
            self._runtime.background.start("asks later", self._ask_later)
            return pb.GetTableResponse(table=pb.Table(owner=await self.background))
        return await self._behind.GetTable(pb.GetTableRequest(name=request.name))

    async def _ask_later(self) -> None:
        with pytest.raises(errors.TokenInvalid):
            caller()
        assert remaining_s() is None
        self.background.set_result((await self._behind.GetTable(pb.GetTableRequest(name="t"))).table.owner)


class _Rest:
    """The other RPCs of the contract, which nobody calls here."""

    def __init__(self, front: Front) -> None:
        self.GetTable = front.GetTable

    def __getattr__(self, name: str) -> Any:
        if name[0].isupper():
            return self.GetTable
        raise AttributeError(name)


def front_spec() -> ServiceSpec[None]:
    async def compose(_settings: None, runtime: Runtime) -> Composition:
        return Composition(
            servicers=[(pb_grpc.add_StorageServiceServicer_to_server, _Rest(Front(runtime)))],
        )

    return ServiceSpec(name="analysis", settings=lambda _env: None, compose=compose)


@pytest.fixture
async def behind() -> AsyncIterator[tuple[Served, Toy]]:
    toy = Toy()
    async with running(toy_spec(toy)) as served:
        yield served, toy


@pytest.fixture
async def front(behind: tuple[Served, Toy]) -> AsyncIterator[Served]:
    async with running(front_spec(), targets={"storage": behind[0].target}) as served:
        yield served


async def state_of(served: Served) -> tuple[str, str]:
    said = await admin_pb2_grpc.AdminServiceStub(served.channel()).GetStatus(admin_pb2.GetStatusRequest())
    return admin_pb2.ServingState.Name(said.state).removeprefix("SERVING_STATE_"), said.state_reason


async def is_ready(served: Served) -> bool:
    check = served.channel().unary_unary("/grpc.health.v1.Health/Check")
    return bool(await check(b"\x0a\x09readiness") == b"\x08\x01")


async def until(condition: Any, limit_s: float = 8.0) -> None:
    async with asyncio.timeout(limit_s):
        while not await condition():
            await asyncio.sleep(0.02)


async def owner(front: Served, principal: str, name: str) -> str:
    answer = await pb_grpc.StorageServiceStub(front.channel(principal)).GetTable(pb.GetTableRequest(name=name))
    return str(answer.table.owner)


async def test_inside_a_request_the_users_token_goes_on(front: Served) -> None:
    assert await owner(front, "local", "t") == "local"
    assert await owner(front, "guest", "t") == "guest"


async def test_a_service_may_call_as_itself_and_background_work_always_does(front: Served) -> None:
    assert await owner(front, "guest", "as_service") == "analysis"
    assert await owner(front, "guest", "background") == "analysis"


async def test_a_peers_reason_passes_through(front: Served) -> None:
    error = await failure(pb_grpc.StorageServiceStub(front.channel()).GetTable(pb.GetTableRequest(name="missing")))
    found = reason_of(error)
    assert isinstance(found, errors.TableNotFound)
    assert found.hint == "list the tables"


async def test_the_deadline_goes_on_and_is_shorter_behind(front: Served, behind: tuple[Served, Toy]) -> None:
    began = time.monotonic()
    stub = pb_grpc.StorageServiceStub(front.channel())
    error = await failure(stub.GetTable(pb.GetTableRequest(name="slow"), timeout=1.0))
    assert reason_of(error).reason == "DEADLINE_PASSED"
    assert time.monotonic() - began < 1.0
    assert behind[1].log == ["cancelled", "cleaned up"]


async def test_not_serving_before_a_peer_was_reached_then_degraded_without_it() -> None:
    async with running(toy_spec()) as spare:
        port = int(spare.target.rpartition(":")[2])
    async with running(front_spec(), targets={"storage": f"127.0.0.1:{port}"}) as front:
        assert await state_of(front) == ("STARTING", "waits for storage")
        assert not await is_ready(front)
        error = await failure(pb_grpc.StorageServiceStub(front.channel()).GetTable(pb.GetTableRequest(name="t")))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(error).reason == "STORE_UNAVAILABLE"
        async with running(toy_spec(), port=port):
            await until(lambda: is_ready(front))
            assert await state_of(front) == ("SERVING", "")

        async def degraded() -> bool:
            return await state_of(front) == ("DEGRADED", "storage does not answer")

        await until(degraded)
        assert await is_ready(front)
