"""A reader that takes 10 KB a second and then goes away costs the server little."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from millrace.client import Client
from millrace.client.read import plan
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.types.v1 import types_pb2
from tests.integration.client.push_under_kills import TOKEN, StorageProcess

SECONDS = 6.0
ALLOWED_KIB = 64 * 1024


def resident_kib(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


async def settled_kib(pid: int) -> int:
    """The resident size once compaction, which the writing caused, no longer moves it."""
    async with asyncio.timeout(60):
        last = -1
        while abs((now := resident_kib(pid)) - last) > 1024:
            last = now
            await asyncio.sleep(1.5)
    return now


async def test_a_slow_reader_is_waited_for_not_buffered(tmp_path: Path) -> None:
    storage = StorageProcess(tmp_path)
    storage.start()
    try:
        await storage.ready()
        async with Client.find(storage=storage.target, token=TOKEN) as client:
            table = await client.create_table("t", {"n": "int64", "text": "string"})
            noise = pa.array([np.random.default_rng(0).bytes(50).hex() for _ in range(50_000)])
            async with table.writer("w") as writer:
                for at in range(0, 2_000_000, 50_000):  # about 216 MB
                    await writer.append(pa.table({"n": np.arange(at, at + 50_000), "text": noise}))
            before = await settled_kib(storage.pid)
            assert await read_slowly(client, table.name, storage.pid) - before <= ALLOWED_KIB
            assert (await table.read(limit=1).to_arrow()).num_rows == 1
    finally:
        storage.kill()


async def read_slowly(client: Client, table: str, pid: int) -> int:
    """Takes about 10 KB a second for a while, then cancels; the highest resident size of the server meanwhile, in KiB."""
    connection = client.connection("storage")
    planned = await plan(connection, storage_pb2.PlanReadRequest(table=table))
    request = storage_pb2.ReadRowsRequest(split_token=planned.splits[0].split_token, encoding=types_pb2.ENCODING_ARROW)
    call = storage_pb2_grpc.StorageServiceStub(connection.channel).ReadRows(
        request, metadata=connection.metadata(table)
    )
    highest, ends = 0, time.monotonic() + SECONDS
    while time.monotonic() < ends:
        message = await call.read()
        until = min(ends, time.monotonic() + message.ByteSize() / 10_000)
        while time.monotonic() < until:
            highest = max(highest, resident_kib(pid))
            await asyncio.sleep(0.05)
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call.code()
    return highest
