"""The stores that measurements run over: what a storage service needs to reach one, its servers started and ended here.

BENCH_BACKENDS=local,s3 chooses; the default is all that start by themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from millrace.laptop.servers.cassandra import Cassandra
from millrace.laptop.servers.cassandra_files import Options
from millrace.laptop.servers.weed import Weed
from svc_storage.adapters.cassandra.session import Place as CassandraPlace
from svc_storage.adapters.cassandra.session import connect
from svc_storage.adapters.s3.credentials import Credentials
from svc_storage.adapters.s3.objects import Address, Objects

HEAP = "1g"
"""Of the Cassandra node. At the 512 MiB that tests give it, pauses for garbage of 200 ms were seen on a busy machine."""


@dataclass(frozen=True, slots=True)
class Place:
    """`settings`: of a storage service. `log_bytes`: what the log of a table (its uid) takes."""

    settings: Mapping[str, str]
    log_bytes: Callable[[str], int]


@contextmanager
def _local(home: Path) -> Iterator[Place]:
    def log_bytes(uid: str) -> int:
        return sum(file.stat().st_size for file in (home / "data" / "tables" / uid / "_delta_log").iterdir())

    yield Place({}, log_bytes)


@contextmanager
def _s3(home: Path) -> Iterator[Place]:
    """SeaweedFS on this machine."""
    weed = Weed(home / "weed")
    weed.start()
    keys = weed.keys[0]
    settings = {
        "MILLRACE_STORAGE_BACKEND": "s3",
        "MILLRACE_STORAGE_S3_URL": f"s3://{weed.bucket}/bench",
        "MILLRACE_STORAGE_S3_ENDPOINT": weed.endpoint,
        "MILLRACE_STORAGE_S3_ALLOW_HTTP": "true",
        "MILLRACE_STORAGE_S3_ACCESS_KEY": "env:BENCH_ACCESS_KEY",
        "MILLRACE_STORAGE_S3_SECRET_KEY": "env:BENCH_SECRET_KEY",
        "BENCH_ACCESS_KEY": keys.access_key,
        "BENCH_SECRET_KEY": keys.secret_key,
    }
    credentials = Credentials("env:K", "env:S", environment={"K": keys.access_key, "S": keys.secret_key})
    objects = Objects(Address(weed.bucket, "bench", weed.endpoint, allow_http=True), credentials)

    def log_bytes(uid: str) -> int:
        return sum(found.size_bytes for found in objects.list(f"tables/{uid}/_delta_log"))

    try:
        yield Place(settings, log_bytes)
    finally:
        weed.kill()


@contextmanager
def _cassandra(home: Path) -> Iterator[Place]:
    """One node, `commitlog_sync: batch`."""
    cluster = Cassandra.start(home / "cassandra", options=Options(heap=HEAP))
    points = ",".join(cluster.contact_points)
    settings = {"MILLRACE_STORAGE_BACKEND": "cassandra", "MILLRACE_STORAGE_CASSANDRA_CONTACT_POINTS": points}
    session = connect(CassandraPlace(contact_points=cluster.contact_points))

    def log_bytes(uid: str) -> int:
        session.use("millrace")
        found, part = 0, 0
        while rows := session.wait("SELECT body FROM commits WHERE uid = ? AND part = ?", uid, part):
            found, part = found + sum(len(body or b"") for (body,) in rows), part + 1
        return found

    try:
        yield Place(settings, log_bytes)
    finally:
        session.cluster.shutdown()
        cluster.kill()


STORES: Mapping[str, Callable[[Path], AbstractContextManager[Place]]] = {
    "local": _local,
    "s3": _s3,
    "cassandra": _cassandra,
}
"""By name; each with an empty store of its own below `home`."""


def chosen() -> Sequence[str]:
    named = [name for name in os.environ.get("BENCH_BACKENDS", "").split(",") if name]
    return named or list(STORES)
