"""An S3 store that goes away, and keys that change, while storage runs: nothing is lost, and everything goes on by itself."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from millrace import errors
from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection
from millrace.laptop.servers.weed import Keys, Weed
from millrace.server.runtime import ServiceSpec
from millrace.server.testing import Served, running
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.wire.schema import schema_to_proto
from svc_storage.__main__ import compose
from svc_storage.config import Settings
from tests.contract.storage.backends import NAME, SCHEMA, rows
from tests.contract.storage.test_served import read, reason
from tests.servers.weed import settings

SPEC = ServiceSpec(name="storage", settings=Settings.from_env, compose=compose)
ROWS = 20


@pytest.fixture
def weed(tmp_path: Path) -> Iterator[Weed]:
    """One of its own: it is killed."""
    found = Weed(tmp_path / "weed")
    found.start()
    yield found
    found.kill()


@asynccontextmanager
async def started(env: Mapping[str, str]) -> AsyncIterator[Served]:
    """A storage over a weed that has just begun. In its first moments, on a busy machine, that server was once seen to let two of four
    conditional puts win: storage refuses it then, as it must, and is started again, as by its supervisor."""
    async with AsyncExitStack() as stack:
        for left in (2, 1, 0):
            try:
                found = await stack.enter_async_context(running(SPEC, env))
                break
            except errors.StoreUnavailable as refused:
                if "only if there is none" not in refused.message or not left:
                    raise
        yield found


@pytest.fixture
async def served(weed: Weed, home: Path) -> AsyncIterator[Served]:
    keys = home / "keys"
    _write(keys, weed.keys[0])
    env = {
        "MILLRACE_HOME": str(home),
        **settings(weed, "away"),
        "MILLRACE_STORAGE_S3_ACCESS_KEY": f"file:{keys}-access",
        "MILLRACE_STORAGE_S3_SECRET_KEY": f"file:{keys}-secret",
    }
    async with started(env) as found:
        table = storage_pb2.Table(name=NAME, schema=schema_to_proto(SCHEMA), event_time_column="at")
        await stub_of(found).CreateTable(storage_pb2.CreateTableRequest(request_id="create", table=table))
        yield found


def _write(path: Path, keys: Keys) -> None:
    for name, value in (("access", keys.access_key), ("secret", keys.secret_key)):
        fresh = path.with_name(f"{path.name}-{name}.new")
        fresh.write_text(value)
        fresh.rename(path.with_name(f"{path.name}-{name}"))


def stub_of(served: Served) -> Any:
    return storage_pb2_grpc.StorageServiceStub(served.channel())


async def push(served: Served, batches: int, going: asyncio.Event) -> None:
    """Commits one batch after another; `going` is set once a few are in."""
    options = AppendOptions(table=NAME, writer_id="w", commit_interval_s=0.1, tries=100)
    async with Appender(Connection(served.channel()), options) as writer:
        for number in range(batches):
            await writer.append(rows(ROWS, number * ROWS))
            await writer.flush()
            if number == 5:
                going.set()


async def ids(served: Served) -> list[int]:
    request = storage_pb2.ReadRowsRequest(read=storage_pb2.PlanReadRequest(table=NAME))
    found, _ = await read(stub_of(served), request)
    return sorted(found.column("id").to_pylist())


async def told(call: Any) -> tuple[str, float]:
    """The reason that a call fails with, and the pause it names, in seconds."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    status = rpc_status.from_call(failed.value)
    assert status is not None
    pause = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(pause) for detail in status.details)
    return reason(failed.value), pause.retry_delay.ToMilliseconds() / 1000


async def test_a_store_that_goes_away_comes_back_and_nothing_is_lost(weed: Weed, served: Served) -> None:
    going = asyncio.Event()
    pushing = asyncio.create_task(push(served, 40, going))
    await going.wait()
    weed.kill()
    plan = storage_pb2.PlanReadRequest(table=NAME)
    why, pause_s = await told(stub_of(served).PlanRead(plan, timeout=30))
    assert (why, pause_s >= 1) == ("STORE_UNAVAILABLE", True)
    table = storage_pb2.Table(name="namespaces/default/tables/other", schema=schema_to_proto(SCHEMA))
    request = storage_pb2.CreateTableRequest(request_id="other", table=table)
    why, _ = await told(stub_of(served).CreateTable(request, timeout=30))
    assert why in ("STORE_UNAVAILABLE", "COMMIT_UNKNOWN")
    await asyncio.to_thread(weed.start)
    await asyncio.wait_for(pushing, 60)
    assert await ids(served) == list(range(40 * ROWS))
    await stub_of(served).CreateTable(request)


async def test_a_store_that_hangs_a_while(weed: Weed, served: Served) -> None:
    going = asyncio.Event()
    pushing = asyncio.create_task(push(served, 20, going))
    await going.wait()
    weed.signal(signal.SIGSTOP)
    with pytest.raises(grpc.aio.AioRpcError) as waited:
        await stub_of(served).PlanRead(storage_pb2.PlanReadRequest(table=NAME), timeout=3)
    assert waited.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    weed.signal(signal.SIGCONT)
    await asyncio.wait_for(pushing, 60)
    assert await ids(served) == list(range(20 * ROWS))


async def test_keys_are_rotated_while_it_runs(weed: Weed, served: Served, home: Path) -> None:
    going = asyncio.Event()
    pushing = asyncio.create_task(push(served, 30, going))
    await going.wait()
    fresh = Keys()
    weed.kill()
    weed.use_keys(fresh)
    await asyncio.to_thread(weed.start)
    why, _ = await told(_until_refused(served))
    assert why == "STORE_UNAVAILABLE"
    _write(home / "keys", fresh)
    await asyncio.wait_for(pushing, 60)
    assert await ids(served) == list(range(30 * ROWS))


async def _until_refused(served: Served) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        await stub_of(served).PlanRead(storage_pb2.PlanReadRequest(table=NAME), timeout=30)
        await asyncio.sleep(0.05)
