"""A disk without room, storage's own or that of the S3 server: requests are refused with a pause, reads go on, and when there is room
again the writer goes on by itself; nothing is lost or doubled. A real small disk: it needs the right to mount one."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from millrace.client.channel import Connection, call
from millrace.laptop.servers.weed import Weed
from millrace.server.testing import Served, running
from millrace.storage.v1 import storage_pb2
from millrace.wire.schema import schema_to_proto
from tests.contract.storage.backends import NAME, SCHEMA
from tests.integration.storage.test_s3_away import SPEC, ids, push, started, stub_of, told
from tests.servers.weed import settings

MIB = 1 << 20
BATCHES, ROWS = 60, 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ("-t", "tmpfs", "-o", "size=96m,mode=700", "tmpfs", str(folder))
    if subprocess.run(("mount", *options), capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a disk")
    yield folder
    subprocess.run(("umount", "-l", str(folder)), check=True)


@asynccontextmanager
async def _local(disk: Path, home: Path) -> AsyncIterator[Served]:
    data = home / "data"
    data.symlink_to(disk)
    async with running(SPEC, {"MILLRACE_HOME": str(home)}) as served:
        yield served


@asynccontextmanager
async def _s3(disk: Path, home: Path) -> AsyncIterator[Served]:
    weed = Weed(disk / "weed")
    await asyncio.to_thread(weed.start)
    try:
        async with started({"MILLRACE_HOME": str(home), **settings(weed, "full")}) as served:
            yield served
    finally:
        weed.kill()


@pytest.mark.parametrize(("place", "why"), [(_local, "DISK_FULL"), (_s3, "STORE_UNAVAILABLE")], ids=["local", "s3"])
async def test_a_full_disk(disk: Path, home: Path, place: Any, why: str) -> None:
    async with place(disk, home) as served:
        table = storage_pb2.Table(name=NAME, schema=schema_to_proto(SCHEMA), event_time_column="at")
        await stub_of(served).CreateTable(storage_pb2.CreateTableRequest(request_id="create", table=table))
        going = asyncio.Event()
        pushing = asyncio.create_task(push(served, BATCHES, going))
        await going.wait()
        filler = disk / "filler"
        _fill(filler)
        other = storage_pb2.Table(name="namespaces/default/tables/other", schema=schema_to_proto(SCHEMA))
        request = storage_pb2.CreateTableRequest(request_id="other", table=other)
        reason, pause_s = await told(stub_of(served).CreateTable(request, timeout=30))
        assert (reason, pause_s >= 1) == (why, True)
        there = await ids(served)
        assert there == list(range(len(there))), "what is there is read"
        with pytest.raises(TimeoutError):  # and meanwhile the writer waits
            await asyncio.wait_for(asyncio.shield(pushing), 0.2)
        filler.unlink()
        await asyncio.wait_for(pushing, 60)
        assert await ids(served) == list(range(BATCHES * ROWS))
        # As a client does: a server that has just got room again may refuse once more.
        connection = Connection(served.channel())
        await call(connection, stub_of(served).CreateTable, request, answer=storage_pb2.CreateTableResponse)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
