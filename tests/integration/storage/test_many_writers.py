"""Four processes that commit to one table at once, each 20 times: every commit is there, once.

Where one process owns the store (memory), the four are programs with a client each, against one storage.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection
from millrace.client.tables import Table
from millrace.server.runtime import ServiceSpec
from millrace.server.testing import running
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.wire.schema import schema_to_proto
from svc_storage.__main__ import compose
from svc_storage.adapters.delta.backend import DeltaBackend
from svc_storage.adapters.s3.backend import S3Backend
from svc_storage.adapters.s3.cache import FileCache
from svc_storage.adapters.s3.objects import Address, Objects
from svc_storage.config import Settings
from svc_storage.ports import Backend, Commit, CommitKind, VersionTaken, WriterState
from tests.contract.storage.backends import NAME, SCHEMA, rows
from tests.servers.weed import Keys, credentials, shared_weed

ROOT = Path(__file__).parents[3]
UID = "0123456789abcdef"
WRITERS, COMMITS, ROWS = 4, 20, 5


def backend_of(where: dict[str, str], pool: ThreadPoolExecutor) -> Backend:
    """The same table in every process."""
    folder = Path(where["folder"])
    if "keyspace" in where:
        from svc_storage.adapters.cassandra.backend import CassandraBackend
        from svc_storage.adapters.cassandra.session import Place
        from svc_storage.adapters.cassandra.store import open_session

        place = Place(contact_points=(where["point"],), keyspace=where["keyspace"])
        session, _ = open_session(place, "tests")
        return CassandraBackend(session, pool)
    if "endpoint" not in where:
        return DeltaBackend(folder, pool)
    place = Address(where["bucket"], "many", where["endpoint"], allow_http=True)
    keys = credentials(Keys(where["access"], where["secret"]))
    return S3Backend(Objects(place, keys).below(where["prefix"]), FileCache.claim(folder / "cache", 1 << 26), pool)


async def commit_all(where: dict[str, str], writer: str) -> None:
    pool = ThreadPoolExecutor(2)
    backend = backend_of(where, pool)
    if prepare := getattr(backend, "prepare", None):
        await prepare()
    log, files = backend.open(UID)
    tail = await log.recover()
    head = tail.commits[-1].version if tail.commits else 0
    for number in range(COMMITS):
        file = await files.write(f"l0-{writer}-{number}.parquet", [rows(ROWS, number * ROWS)], SCHEMA)
        state = WriterState(1, (number + 1) * ROWS)
        commit = Commit(
            id=f"{writer}-{number}", kind=CommitKind.APPEND, time_us=number, adds=(file,), writers={writer: state}
        )
        while True:
            try:
                head = await log.append(commit, after=head)
                break
            except VersionTaken:
                head = (await log.read_after(head))[-1].version
    await log.close()


KINDS = [
    name for name in os.environ.get("TEST_BACKENDS", "local,s3").split(",") if name in ("local", "s3", "cassandra")
]


@pytest.mark.timeout(300)  # a server may have to be started first
@pytest.mark.parametrize("kind", KINDS)
async def test_every_commit_of_every_process_is_there_once(kind: str, tmp_path: Path) -> None:
    where = {"folder": str(tmp_path)}
    if kind == "s3":
        weed = shared_weed()
        where |= {"bucket": weed.bucket, "endpoint": weed.endpoint, "prefix": tmp_path.name}
        where |= {"access": weed.keys[0].access_key, "secret": weed.keys[0].secret_key}
    if kind == "cassandra":
        from tests.servers.cassandra import shared_cassandra

        where |= {"point": shared_cassandra().contact_points[0], "keyspace": f"m_{uuid.uuid4().hex[:12]}"}
    backend = backend_of(where, ThreadPoolExecutor(4))
    if prepare := getattr(backend, "prepare", None):
        await prepare()
    await backend.create(UID, SCHEMA, time_us=1)
    children = [
        await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, json.dumps(where), f"w{number}", cwd=ROOT)
        for number in range(WRITERS)
    ]
    ended = await asyncio.gather(*(child.wait() for child in children))
    assert ended == [0] * WRITERS
    log, files = backend.open(UID)
    commits = (await log.recover()).commits
    assert [found.version for found in commits] == list(range(1, WRITERS * COMMITS + 1))
    there = Counter(found.commit.id for found in commits)
    assert there == Counter(f"w{writer}-{number}" for writer in range(WRITERS) for number in range(COMMITS))
    added = [file for found in commits for file in found.commit.adds]
    assert sum(batch.num_rows for file in added for _, batch in files.batches(file, SCHEMA)) == WRITERS * COMMITS * ROWS


async def append_all(target: str, writer: str) -> None:
    """A program of its own; prints how many of its commits were acknowledged."""
    told = 0
    async with grpc.aio.insecure_channel(target) as channel:
        options = AppendOptions(table=NAME, writer_id=writer)
        async with Appender(Connection(channel, lambda: "local-token"), options) as appender:
            for number in range(COMMITS):
                await appender.append(rows(ROWS, number * ROWS))
                await appender.flush()
                told += appender.acked_offset == (number + 1) * ROWS
    print(told)


@pytest.mark.timeout(300)  # four programs start side by side
async def test_every_commit_of_every_client_is_there_once(home: Path) -> None:
    spec = ServiceSpec(name="storage", settings=Settings.from_env, compose=compose)
    async with running(spec, {"MILLRACE_HOME": str(home), "MILLRACE_STORAGE_BACKEND": "memory"}) as served:
        stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
        table = storage_pb2.Table(name=NAME, schema=schema_to_proto(SCHEMA), event_time_column="at")
        await stub.CreateTable(storage_pb2.CreateTableRequest(request_id="create", table=table))
        children = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", __name__, served.target, f"w{number}", cwd=ROOT, stdout=asyncio.subprocess.PIPE
            )
            for number in range(WRITERS)
        ]
        told = [(await child.communicate())[0] for child in children]
        assert sum(map(int, told)) == WRITERS * COMMITS
        person = Connection(grpc.aio.insecure_channel(served.target), lambda: "local-token")
        found = Counter((await Table(person, NAME).read(columns=["id"]).to_arrow()).column("id").to_pylist())
        await person.channel.close()
    assert found == Counter(dict.fromkeys(range(COMMITS * ROWS), WRITERS))


if __name__ == "__main__":
    if sys.argv[1].startswith("{"):
        asyncio.run(commit_all(json.loads(sys.argv[1]), sys.argv[2]))
    else:
        asyncio.run(append_all(sys.argv[1], sys.argv[2]))
