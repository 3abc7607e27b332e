"""Analysis over a real storage: files read in place, versions followed, callers told apart, outages survived."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest

from millrace import errors
from millrace.analysis.v1 import analysis_pb2, analysis_pb2_grpc
from millrace.client.status import error_of
from millrace.server.runtime import ServiceSpec
from millrace.server.testing import Served, running
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.types.v1 import types_pb2
from svc_analysis.__main__ import compose
from svc_analysis.config import Settings
from tests.integration.analysis.conftest import SPEC as STORAGE
from tests.integration.analysis.conftest import Store, storage_env
from tests.integration.analysis.test_files import NAME, SCHEMA, rows


def analysis_env(data: Path, work: Path) -> dict[str, str]:
    return {
        "MILLRACE_ANALYSIS_DATA_DIR": str(data),
        "MILLRACE_ANALYSIS_WORK_DIR": str(work),
        "MILLRACE_ANALYSIS_MEMORY_MB": "200",
    }


SPEC = ServiceSpec(name="analysis", settings=Settings.from_env, compose=compose)


@pytest.fixture
async def analysis(store: Store, tmp_path: Path) -> AsyncIterator[Served]:
    env = analysis_env(store.data, tmp_path / "work")
    async with running(SPEC, env, home=tmp_path, targets={"storage": store.served.target}) as served:
        yield served


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def ask(served: Served, sql: str, principal: str = "local") -> list[tuple[Any, ...]]:
    stub = analysis_pb2_grpc.AnalysisServiceStub(served.channel(principal))
    found: list[tuple[Any, ...]] = []
    try:
        async for message in stub.Query(analysis_pb2.QueryRequest(sql={"text": sql})):
            for row in message.batch.rows.rows:
                found.append(tuple(getattr(v, v.WhichOneof("kind")) for v in row.values))
    except Exception as error:
        raise error_of(error) from error
    return found


async def test_a_query_reads_storages_files(store: Store, analysis: Served, tmp_path: Path) -> None:
    await store.create(NAME, SCHEMA, "at")
    await store.append(NAME, rows(0, 2500))
    assert await ask(analysis, "select count(*), sum(id), max(id) from t") == [(2500, "3123750", 2499)]
    assert await ask(analysis, "select count(*) from t$dead_letters") == [(0,)]
    assert await ask(analysis, "select count(_ingested_at) from t$all") == [(2500,)]
    spooled = list((tmp_path / "work").glob("*/rows/*"))
    assert spooled == [], "read in place, not copied"
    with pytest.raises(errors.TableNotFound):
        await ask(analysis, "select * from nope")


async def test_commit_to_frame_is_quick_and_no_version_is_missed(store: Store, analysis: Served) -> None:
    await store.create(NAME, SCHEMA, "at")
    stub = analysis_pb2_grpc.AnalysisServiceStub(analysis.channel("local"))
    request = analysis_pb2.SubscribeRequest(
        sql={"text": 'select count(*) as n, max("at") as high from t'}, min_interval={"nanos": 50_000_000}
    )
    call = stub.Subscribe(request)
    delays: list[float] = []
    await commit(call)
    for index in range(10):
        version = await store.append(NAME, rows(index * 10, 10), writer=f"w{index}")
        landed = time.monotonic()
        got = await commit(call)
        while got.versions[NAME] < version:
            got = await commit(call)
        delays.append(time.monotonic() - landed)
    assert got.row_count == 1
    assert got.event_time_high.seconds == 99
    assert got.commit_time.seconds > 1_700_000_000
    assert sorted(delays)[5] < 1.0, delays
    call.cancel()
    assert await ask(analysis, "select count(*) from t") == [(100,)]


async def commit(call: Any) -> analysis_pb2.FrameCommit:
    while True:
        try:
            message = await asyncio.wait_for(call.read(), 20)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from error
        if message.HasField("commit"):
            return message.commit  # type: ignore[no-any-return]


async def test_a_table_made_again_goes_on_in_the_same_subscription(store: Store, analysis: Served) -> None:
    await store.create(NAME, SCHEMA)
    await store.append(NAME, rows(0, 5))
    stub = analysis_pb2_grpc.AnalysisServiceStub(analysis.channel("local"))
    call = stub.Subscribe(analysis_pb2.SubscribeRequest(sql={"text": "select id from t"}))
    assert (await commit(call)).row_count == 5
    storage = storage_pb2_grpc.StorageServiceStub(store.served.channel("local"))
    await storage.DeleteTable(storage_pb2.DeleteTableRequest(request_id="d", name=NAME))
    await store.create(NAME, SCHEMA)
    await store.append(NAME, rows(0, 2), writer="again")
    got = await commit(call)
    while got.row_count != 2:
        got = await commit(call)
    await storage.DeleteTable(storage_pb2.DeleteTableRequest(request_id="d2", name=NAME))
    with pytest.raises(errors.TableNotFound):
        await commit(call)


async def test_compaction_makes_no_frame(store: Store, analysis: Served) -> None:
    await store.create(NAME, SCHEMA)
    stub = analysis_pb2_grpc.AnalysisServiceStub(analysis.channel("local"))
    call = stub.Subscribe(analysis_pb2.SubscribeRequest(sql={"text": "select count(*) as n from t"}))
    await commit(call)
    for index in range(30):
        await store.append(NAME, rows(index, 1), writer=f"w{index % 3}")
    versions = [0]
    while True:
        try:
            versions.append((await asyncio.wait_for(commit(call), 2)).versions[NAME])
        except TimeoutError:
            break
    assert versions == sorted(set(versions))
    call.cancel()
    assert await ask(analysis, "select count(*), count(distinct id) from t") == [(30, 30)]


async def test_the_callers_own_token_is_what_storage_sees(store: Store, analysis: Served) -> None:
    await store.create(NAME, SCHEMA)
    stub = analysis_pb2_grpc.AnalysisServiceStub(analysis.channel(token="wrong"))
    with pytest.raises(errors.TokenInvalid):
        await commit(stub.Subscribe(analysis_pb2.SubscribeRequest(sql={"text": "select 1 from t"})))
    assert await ask(analysis, "select count(*) from t", principal="guest") == [(0,)]


async def test_both_encodings_over_direct_files(store: Store, analysis: Served) -> None:
    await store.create(NAME, SCHEMA)
    await store.append(NAME, rows(0, 3))
    stub = analysis_pb2_grpc.AnalysisServiceStub(analysis.channel("local"))
    request = analysis_pb2.QueryRequest(sql={"text": "select id from t order by id"}, encoding=types_pb2.ENCODING_ARROW)
    batches = [m.batch.arrow async for m in stub.Query(request) if m.HasField("batch")]
    tables = [pa.ipc.open_stream(data).read_all() for data in batches]
    assert pa.concat_tables(tables)["id"].to_pylist() == [0, 1, 2]


async def test_a_subscription_outlives_storage(tmp_path: Path) -> None:
    """Storage dies and comes back on the same port: the subscriber sees no error, only newer frames."""
    data, port = tmp_path / "data", free_port()
    async with AsyncExitStack() as stack:
        async with running(STORAGE, storage_env(data), home=tmp_path, port=port) as first:
            store = Store(first, data)
            await store.create(NAME, SCHEMA)
            await store.append(NAME, rows(0, 3))
            env = analysis_env(data, tmp_path / "work")
            targets = {"storage": first.target}
            analysis = await stack.enter_async_context(running(SPEC, env, home=tmp_path, targets=targets))
            stub = analysis_pb2_grpc.AnalysisServiceStub(analysis.channel("local"))
            call = stub.Subscribe(analysis_pb2.SubscribeRequest(sql={"text": "select id from t"}))
            assert (await commit(call)).row_count == 3
        async with running(STORAGE, storage_env(data), home=tmp_path, port=port) as second:
            await Store(second, data).append(NAME, rows(3, 4), writer="after")
            assert (await commit(call)).row_count == 7
            call.cancel()
