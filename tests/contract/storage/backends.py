"""The backends of the write half: a new one is one line here. A `Rig` is a storage without network around one of them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from svc_storage.adapters import disk
from svc_storage.adapters.cassandra.store import open_backend
from svc_storage.adapters.delta.backend import DeltaBackend
from svc_storage.adapters.memory.backend import MemoryBackend
from svc_storage.adapters.memory.control import MemoryControl
from svc_storage.adapters.s3.backend import S3Backend
from svc_storage.adapters.s3.cache import FileCache
from svc_storage.domain.control.catalog import TableRows
from svc_storage.domain.control.leases import Leases
from svc_storage.domain.definition import TableDefinition, define
from svc_storage.domain.opened import Opened, OpenTable
from svc_storage.domain.tables import Tables
from svc_storage.domain.writing.appending import AppendStream, Incoming, OpenRequest
from svc_storage.ports import Backend, RequestMark, Snapshot
from tests.servers.cassandra import View, shared_session
from tests.servers.weed import objects, shared_weed


@asynccontextmanager
async def _memory(folder: Path, pool: Executor) -> AsyncIterator[Backend]:
    yield MemoryBackend()


@asynccontextmanager
async def _local(folder: Path, pool: Executor) -> AsyncIterator[Backend]:
    disk.make_folder(folder / "tables")
    yield DeltaBackend(folder / "tables", pool)


@asynccontextmanager
async def _s3(folder: Path, pool: Executor) -> AsyncIterator[Backend]:
    cache = FileCache.claim(folder / "cache", 64 << 20)
    yield S3Backend(objects(shared_weed()).below("tables"), cache, pool)
    cache.close()


def _cassandra(nodes: int) -> Callable[[Path, Executor], AbstractAsyncContextManager[Backend]]:
    @asynccontextmanager
    async def view(folder: Path, pool: Executor) -> AsyncIterator[Backend]:
        yield View(await open_backend(shared_session(nodes), pool))

    return view


BACKENDS: Mapping[str, Callable[[Path, Executor], AbstractAsyncContextManager[Backend]]] = {
    "memory": _memory,
    "local": _local,
    "s3": _s3,
    "cassandra": _cassandra(1),
    "cassandra3": _cassandra(3),
}
"""Each gives an empty store of its own; servers that they need run once per test session."""

NAME = "namespaces/default/tables/orders"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("price", pa.float64()),
        pa.field("status", pa.string()),
    ]
)


class WallClock:
    """Real time, moved forward by hand where a test needs hours."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self.ahead_us

    def monotonic_s(self) -> float:
        return time.monotonic() + self.ahead_us / 1e6


class Nobody:
    """No resource uses any table."""

    def __init__(self) -> None:
        self.users: list[str] = []

    async def of(self, table: str) -> Sequence[str]:
        return self.users


@dataclass
class Rig:
    folder: Path
    backend: Backend
    pool: ThreadPoolExecutor
    clock: WallClock = field(default_factory=WallClock)
    control: MemoryControl = field(default_factory=MemoryControl)
    dependents: Nobody = field(default_factory=Nobody)
    requests: int = 0

    def __post_init__(self) -> None:
        self.catalog = TableRows(self.control, self.clock)
        self.leases = Leases(self.control, self.clock)
        self._start()

    def _start(self) -> None:
        self.opened = Opened(self.catalog, self.backend, self.leases, self.clock)
        self.tables = Tables(self.catalog, self.backend, self.opened, self.dependents, self.clock)

    def request(self, what: str = "") -> RequestMark:
        self.requests += 1
        return RequestMark(f"r{self.requests}", "tester", hashlib.sha256(what.encode()).hexdigest())

    async def create(self, definition: TableDefinition | None = None, name: str = NAME) -> OpenTable:
        await self.tables.create(name, definition or define(SCHEMA, event_time_column="at"), self.request())
        return await self.opened.table(name)

    async def open(self, writer: str = "w", epoch: int = 0, name: str = NAME, **more: object) -> AppendStream:
        table = await self.opened.table(name)
        request = OpenRequest(writer=writer, epoch=epoch, principal=str(more.pop("principal", "tester")), **more)  # type: ignore[arg-type]
        return await table.committer.open(request)

    async def restart(self) -> OpenTable:
        """As after a kill: what is only in memory is gone, nothing is committed on the way."""
        for table in self.opened.now_open():
            task = table.committer._task
            assert task is not None
            task.cancel()
        self._start()
        return await self.opened.table(NAME)

    async def close(self) -> None:
        await self.opened.close()
        self.pool.shutdown()


def rows(count: int, start: int = 0) -> pa.RecordBatch:
    ids = list(range(start, start + count))
    return pa.RecordBatch.from_pydict(
        {
            "id": ids,
            "at": pa.array([value * 1_000_000 for value in ids], pa.timestamp("us", "UTC")),
            "price": [value / 4 for value in ids],
            "status": ["open" if value % 2 else "done" for value in ids],
        },
        schema=SCHEMA,
    )


def incoming(offset: int, count: int, **more: object) -> Incoming:
    batch = rows(count, offset)
    size = int(str(more.pop("size", batch.nbytes)))
    return Incoming(offset=offset, rows=batch, crc32=int(str(more.pop("crc32", offset * 7 + count))), size=size, **more)  # type: ignore[arg-type]


def read(table: OpenTable, snapshot: Snapshot) -> pa.Table:
    """All rows of a version, by opening its files."""
    batches = [batch for file in snapshot.files.values() for _, batch in table.files.batches(file, snapshot.schema)]
    return pa.Table.from_batches(batches, snapshot.schema)


def ids(table: OpenTable) -> list[int]:
    return sorted(read(table, table.versions.head).column("id").to_pylist())
