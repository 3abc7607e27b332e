"""A table in Cassandra without the service around it, and what its keyspace holds."""

from __future__ import annotations

import contextlib
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millrace.laptop.servers.cassandra import Cassandra
from svc_storage.adapters.cassandra.session import Session
from svc_storage.adapters.cassandra.store import open_backend, open_session
from svc_storage.ports import Commit, CommitKind, CommitLog, DataFile, TableFiles
from tests.servers.cassandra import CLUSTER, place

WIDE = pa.schema([pa.field(f"c{number}", pa.int64() if number % 2 else pa.string()) for number in range(20)])


@dataclass(frozen=True, slots=True)
class Table:
    session: Session
    uid: str
    log: CommitLog
    files: TableFiles


@contextlib.contextmanager
def session_in(cluster: Cassandra, keyspace: str = "", **more: object) -> Iterator[Session]:
    """In a keyspace of its own, or the one named."""
    where = place(cluster, **({"keyspace": keyspace} if keyspace else {}), **more)  # type: ignore[arg-type]
    session, _ = open_session(where, CLUSTER)
    try:
        yield session
    finally:
        session.cluster.shutdown()


@contextlib.asynccontextmanager
async def table_in(session: Session, schema: pa.Schema, uid: str = "") -> AsyncIterator[Table]:
    """A table, a new one or the one named."""
    pool = ThreadPoolExecutor(8)
    backend = await open_backend(session, pool)
    name = uid or uuid.uuid4().hex
    await backend.create(name, schema, time_us=1)
    log, files = backend.open(name)
    await log.recover()
    try:
        yield Table(session, name, log, files)
    finally:
        pool.shutdown()


def append(name: str, *files: DataFile) -> Commit:
    return Commit(id=name, kind=CommitKind.APPEND, time_us=2, adds=files)


def wide_rows(count: int, seed: int = 0) -> pa.RecordBatch:
    """Columns that do not pack to nothing: half numbers, half texts."""
    random = np.random.default_rng(seed)
    columns = []
    for field in WIDE:
        numbers = random.integers(0, 1 << 40, count)
        texts = pa.array(numbers % 100_000).cast(pa.string())
        columns.append(pa.array(numbers) if field.type == pa.int64() else texts)
    return pa.RecordBatch.from_arrays(columns, schema=WIDE)


def stored(session: Session) -> Mapping[tuple[str, str, int], list[int]]:
    """The sizes of the blobs in `chunks`, by partition."""
    found: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for uid, file, part in session.wait("SELECT DISTINCT uid, file, part FROM chunks"):
        rows = session.wait("SELECT body FROM chunks WHERE uid = ? AND file = ? AND part = ?", uid, file, part)
        found[uid, file, part] = [len(body) for (body,) in rows]
    return found
