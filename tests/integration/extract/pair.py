"""Extract and storage as they run, in one test's event loop: real servers on loopback, Delta tables on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from millrace.client.channel import Connection
from millrace.client.runs import finished, run_source
from millrace.client.tables import Table, create_table
from millrace.extract.v1 import extract_pb2 as pb
from millrace.extract.v1 import extract_pb2_grpc
from millrace.server.runtime import ServiceSpec
from millrace.server.settings import Secret
from millrace.server.testing import Served, running
from millrace.types.v1 import run_pb2
from svc_extract.__main__ import compose as compose_extract
from svc_extract.config import Settings as ExtractSettings
from svc_storage.__main__ import compose as compose_storage
from svc_storage.config import Settings as StorageSettings

STORAGE = ServiceSpec(name="storage", settings=StorageSettings.from_env, compose=compose_storage)
EXTRACT = ServiceSpec(name="extract", settings=ExtractSettings.from_env, compose=compose_extract)
TABLE, SOURCE = "namespaces/default/tables/orders", "namespaces/default/sources/orders"
SCHEMA = pa.schema(
    [pa.field("id", pa.int64(), nullable=False), pa.field("name", pa.string()), pa.field("price", pa.float64())]
)


@dataclass(slots=True)
class Pair:
    """Both services, and the calls that tests make to them as `local`."""

    folder: Path
    storage: Served
    extract: Served
    count: int = field(default=0)

    @property
    def tables(self) -> Connection:
        return Connection(self.storage.channel())

    @property
    def sources(self) -> Connection:
        return Connection(self.extract.channel())

    @property
    def stub(self) -> Any:
        return extract_pb2_grpc.ExtractServiceStub(self.extract.channel())

    async def table(self, schema: pa.Schema = SCHEMA, name: str = TABLE, **rest: Any) -> Table:
        await create_table(self.tables, name, schema, **rest)
        return Table(self.tables, name)

    async def put(self, spec: pb.SourceSpec, name: str = SOURCE) -> pb.Source:
        self.count += 1
        request = pb.PutSourceRequest(request_id=f"put-{self.count}", source=pb.Source(name=name, spec=spec))
        return (await self.stub.PutSource(request)).source

    async def run(self, request_id: str, **rest: Any) -> run_pb2.RunFinished:
        """Raises the run's own error."""
        return await finished(
            run_source(self.sources, pb.RunSourceRequest(source=SOURCE, request_id=request_id, **rest))
        )

    async def until(self, true: Callable[[], Awaitable[bool]], limit_s: float = 40.0) -> None:
        async with asyncio.timeout(limit_s):
            while not await true():
                await asyncio.sleep(0.05)

    async def status(self) -> pb.SourceStatus:
        return (await self.stub.GetSource(pb.GetSourceRequest(name=SOURCE))).source.status


@asynccontextmanager
async def both(tmp_path: Path) -> AsyncIterator[Pair]:
    """Storage and extract, with everything of theirs below `tmp_path`."""
    folder = tmp_path / "files"
    folder.mkdir()
    async with running(STORAGE, {"MILLRACE_STORAGE_DATA_DIR": str(tmp_path / "data")}) as storage:
        env = {
            "MILLRACE_HOME": str(tmp_path),
            "MILLRACE_EXTRACT_FILE_ROOTS": str(tmp_path),
            "MILLRACE_EXTRACT_LEASE_TTL": "5s",
        }
        changes: dict[str, Any] = {"targets": {"storage": storage.target}, "token": Secret("extract-token")}
        async with running(EXTRACT, env, **changes) as extract:
            yield Pair(folder, storage, extract)


def files(folder: Path, pattern: str, *, continuous: bool = False, **rest: Any) -> pb.SourceSpec:
    message = pb.FilesConnector(path=str(folder / pattern), **rest)
    message.poll_interval.FromMilliseconds(100)
    return pb.SourceSpec(table=TABLE, files=message, continuous=continuous)
