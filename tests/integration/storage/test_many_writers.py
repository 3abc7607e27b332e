"""Four processes that commit to one table at once, each 20 times: every commit is there, once."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from svc_storage.adapters.delta.backend import DeltaBackend
from svc_storage.adapters.s3.backend import S3Backend
from svc_storage.adapters.s3.cache import FileCache
from svc_storage.adapters.s3.objects import Address, Objects
from svc_storage.ports import Backend, Commit, CommitKind, VersionTaken, WriterState
from tests.contract.storage.backends import SCHEMA, rows
from tests.servers.weed import Keys, credentials, shared_weed

ROOT = Path(__file__).parents[3]
UID = "0123456789abcdef"
WRITERS, COMMITS, ROWS = 4, 20, 5


def backend_of(where: dict[str, str], pool: ThreadPoolExecutor) -> Backend:
    """The same table in every process."""
    folder = Path(where["folder"])
    if "endpoint" not in where:
        return DeltaBackend(folder, pool)
    place = Address(where["bucket"], "many", where["endpoint"], allow_http=True)
    keys = credentials(Keys(where["access"], where["secret"]))
    return S3Backend(Objects(place, keys).below(where["prefix"]), FileCache.claim(folder / "cache", 1 << 26), pool)


async def commit_all(where: dict[str, str], writer: str) -> None:
    pool = ThreadPoolExecutor(2)
    log, files = backend_of(where, pool).open(UID)
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


@pytest.mark.parametrize("kind", ["local", "s3"])
async def test_every_commit_of_every_process_is_there_once(kind: str, tmp_path: Path) -> None:
    where = {"folder": str(tmp_path)}
    if kind == "s3":
        weed = shared_weed()
        where |= {"bucket": weed.bucket, "endpoint": weed.endpoint, "prefix": tmp_path.name}
        where |= {"access": weed.keys[0].access_key, "secret": weed.keys[0].secret_key}
    backend = backend_of(where, ThreadPoolExecutor(4))
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


if __name__ == "__main__":
    asyncio.run(commit_all(json.loads(sys.argv[1]), sys.argv[2]))
