"""The client against the real storage over connections that are cut at random."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator

import numpy as np
import pyarrow as pa
import pytest

from millrace import errors
from millrace.arrow import ipc
from millrace.client import Client
from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection, open_channel
from millrace.client.read import read_split
from millrace.server.testing import Served
from millrace.storage.v1 import frames_pb2, storage_pb2, storage_pb2_grpc
from millrace.types.v1 import types_pb2
from tests.unit.client.scripted import Cutter


@pytest.fixture
async def cutter(storage: Served) -> AsyncIterator[Cutter]:
    async with Cutter(int(storage.target.rpartition(":")[2])) as found:
        yield found


@pytest.fixture
async def shaky(cutter: Cutter) -> AsyncIterator[Client]:
    async with Client.find(storage=f"127.0.0.1:{cutter.port}", token="local-token") as found:
        yield found


def digest(batches: list[pa.RecordBatch]) -> str:
    """SHA-256 over the rows as one IPC table."""
    sink = pa.BufferOutputStream()
    table = pa.Table.from_batches(batches).combine_chunks()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return hashlib.sha256(sink.getvalue()).hexdigest()


async def test_a_read_cut_a_hundred_times_is_byte_for_byte_the_uncut_one(
    client: Client, shaky: Client, cutter: Cutter, request: pytest.FixtureRequest
) -> None:
    wanted = 100 if "local" in request.node.name else 10
    table = await client.create_table("t", {"n": "int64", "text": "string"})
    for at in range(0, 200_000, 50_000):
        numbers = np.arange(at, at + 50_000)
        await table.append(pa.table({"n": numbers, "text": pa.array(numbers).cast(pa.string())}))
    async with table.read(parallel=1).open() as uncut:
        plan, schema = uncut.planned, uncut.schema
        want = digest([batch async for batch in uncut])
    connection, dice = shaky.connection("storage"), random.Random(11)
    got: list[pa.RecordBatch] = []
    for split in plan.splits:
        async for batch in read_split(connection, split.split_token, schema, max_message_bytes=16_384):
            got.append(batch)
            if cutter.cuts < wanted and dice.random() < 0.6:
                cutter.cut()
                await asyncio.sleep(0)
    assert cutter.cuts >= wanted
    assert digest(got) == want


@pytest.mark.parametrize("seed", range(3))
async def test_rows_appended_over_cut_connections_are_there_once(
    client: Client, shaky: Client, cutter: Cutter, seed: int
) -> None:
    table, dice = await client.create_table("t", {"n": "int64"}), random.Random(seed)
    options = AppendOptions(table=table.name, writer_id="w", commit_interval_s=0.1, tries=1000)
    async with Appender(shaky.connection("storage"), options) as writer:
        for at in range(0, 6_000, 100):
            await writer.append(
                pa.record_batch({"n": range(at, at + 100)}), position=types_pb2.Position(positions={"n": str(at)})
            )
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() * 0.1)
                await cutter.cut_through()
    assert cutter.cuts >= 5
    assert sorted((await table.read().to_arrow()).column("n").to_pylist()) == list(range(6_000))


async def test_two_hundred_idle_watches_do_not_slow_a_call(client: Client, storage: Served) -> None:
    await client.create_table("t", {"n": "int64"})
    async with open_channel(storage.target) as channel:
        connection = Connection(channel, lambda: "local-token")
        stub = storage_pb2_grpc.StorageServiceStub(channel)
        request = storage_pb2.WatchTableRequest(table=client.full_name("t"))
        calls = [stub.WatchTable(request, metadata=connection.metadata()) for _ in range(200)]
        await asyncio.gather(*(call.read() for call in calls))
        began = time.monotonic()
        await client.list_tables()
        assert time.monotonic() - began < 0.1
        for call in calls:
            call.cancel()


async def test_an_arrow_bomb_is_refused_and_the_writer_told(client: Client) -> None:
    table = await client.create_table("t", {"n": "int64"})
    bomb = ipc.encode(pa.record_batch({"n": np.zeros(30_000_000, np.int64)}), ipc.Codec.ZSTD)
    assert len(bomb) < 24_000
    connection = client.connection("storage")
    call = storage_pb2_grpc.StorageServiceStub(connection.channel).AppendRows(metadata=connection.metadata(table.name))
    await call.write(storage_pb2.AppendRowsRequest(open=storage_pb2.AppendOpen(table=table.name, writer_id="w")))
    await call.read()
    batch = frames_pb2.AppendBatch(offset=0, batch=types_pb2.Batch(arrow=bomb, row_count=30_000_000))
    await call.write(storage_pb2.AppendRowsRequest(batch=batch))
    from millrace.client.status import in_band

    refused = in_band((await call.read()).error)
    assert isinstance(refused, errors.ArrowTooLarge)
    call.cancel()
