"""The Cassandra of the tests: one node, and a cluster of three, each started by the first test that asks for it."""

from __future__ import annotations

import atexit
import functools
import itertools
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from millrace.laptop.servers.cassandra import Cassandra
from millrace.laptop.servers.cassandra_files import Options
from svc_storage.adapters.cassandra.session import Place, Session
from svc_storage.adapters.cassandra.store import open_session
from svc_storage.ports import Backend, CommitLog, TableFiles

FIRST = {1: 1, 3: 11}
"""Where clusters of the tests begin: 127.0.0.<first>."""
CLUSTER = "tests"
_numbers = itertools.count(1)


@contextmanager
def running(count: int = 1, options: Options | None = None, first: int = 0) -> Iterator[Cassandra]:
    """A cluster of the caller's own, to kill and to stop."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-cassandra-"))
    cluster = Cassandra.start(folder, count, options, first=first or 20 + next(_numbers) * 3)
    try:
        yield cluster
    finally:
        cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def shared_cassandra(count: int = 1) -> Cassandra:
    """The session's own, of one node or three. Whoever kills one starts one of their own instead (`running`)."""
    folder = Path(tempfile.mkdtemp(prefix="millrace-cassandra-"))
    cluster = Cassandra.start(folder, count, first=FIRST[count])
    atexit.register(_end, cluster, folder)
    return cluster


@functools.cache
def shared_session(count: int = 1) -> Session:
    """In a keyspace that the session's tests share, each in a view of its own."""
    session, _ = open_session(place(shared_cassandra(count)), CLUSTER)
    atexit.register(session.cluster.shutdown)
    return session


def place(cluster: Cassandra, **more: object) -> Place:
    return Place(contact_points=cluster.contact_points, keyspace=f"t_{uuid.uuid4().hex[:12]}", **more)  # type: ignore[arg-type]


class View:
    """A backend that seems empty: its tables have a prefix of their own."""

    def __init__(self, inner: Backend) -> None:
        self._inner, self._prefix = inner, f"{uuid.uuid4().hex[:8]}-"
        self.name, self.shared = inner.name, inner.shared

    async def create(self, uid: str, schema: pa.Schema, *, time_us: int) -> None:
        await self._inner.create(self._prefix + uid, schema, time_us=time_us)

    def open(self, uid: str) -> tuple[CommitLog, TableFiles]:
        return self._inner.open(self._prefix + uid)

    async def drop(self, uid: str) -> None:
        await self._inner.drop(self._prefix + uid)

    async def list_uids(self) -> Sequence[str]:
        found = await self._inner.list_uids()
        return [uid.removeprefix(self._prefix) for uid in found if uid.startswith(self._prefix)]


@pytest.fixture(scope="session")
def cassandra() -> Cassandra:
    return shared_cassandra(1)


@pytest.fixture(scope="session")
def cassandra3() -> Cassandra:
    return shared_cassandra(3)


def _end(cluster: Cassandra, folder: Path) -> None:
    cluster.kill()
    shutil.rmtree(folder, ignore_errors=True)
