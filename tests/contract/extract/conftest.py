"""ExtractService behind every layer of the server, over memory adapters (pytest-grpc hosts it)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millrace.extract.v1 import extract_pb2 as pb
from millrace.extract.v1 import extract_pb2_grpc
from millrace.server.runtime import Composition, Runtime, ServiceSpec
from millrace.server.testing import Served, running
from svc_extract.adapters.clock import SystemClock
from svc_extract.adapters.connectors.files.connector import FilesConnector
from svc_extract.adapters.connectors.files.listing import Roots
from svc_extract.adapters.connectors.push import PushConnector
from svc_extract.adapters.connectors.replay.connector import ReplayConnector
from svc_extract.adapters.memory.catalog import MemoryCatalog
from svc_extract.adapters.memory.leases import MemoryLeases
from svc_extract.adapters.memory.tables import MemoryGate, MemoryTables
from svc_extract.domain.ingest import Ingest
from svc_extract.domain.runs import Runs
from svc_extract.domain.session import Tools
from svc_extract.domain.sources import Sources
from svc_extract.domain.supervisor import Supervisor
from svc_extract.servicers.extract import ExtractServicer
from tests.contract.conftest import LoopThread

TABLE = "namespaces/default/tables/orders"
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("name", pa.string())])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files").resolve()


@pytest.fixture(scope="module")
def tables() -> MemoryTables:
    found = MemoryTables(SystemClock())
    found.create(TABLE, SCHEMA)
    return found


@pytest.fixture(scope="module")
def grpc_servicer(folder: Path, tables: MemoryTables) -> ServiceSpec[None]:
    """The whole service: `grpc_server` hosts it."""
    return make_service(folder, tables)


def make_service(folder: Path, tables: MemoryTables) -> ServiceSpec[None]:
    """Extract over memory adapters, with file sources below `folder`."""

    async def compose(_settings: None, _runtime: Runtime) -> Composition:
        clock, leases = SystemClock(), MemoryLeases()
        tables._epoch_of = leases.current_epoch
        catalog = MemoryCatalog(clock, leases.current_epoch)
        roots = Roots((folder,), folder)
        made = (FilesConnector(roots, clock), ReplayConnector(roots, clock), PushConnector())
        connectors: dict[str, Any] = {one.info.name: one for one in made}
        sources = Sources(catalog, tables, connectors)
        supervisor = Supervisor(Tools(connectors, tables, tables, catalog, clock, "extract@test"), leases)
        ingest = Ingest(sources, MemoryGate(tables))
        servicer = ExtractServicer(sources, Runs(catalog, sources, clock), ingest, clock)
        return Composition(
            servicers=[(extract_pb2_grpc.add_ExtractServiceServicer_to_server, servicer)],
            background={"sources": supervisor.run},
            on_drain=[supervisor.drain],
        )

    return ServiceSpec(name="extract", settings=lambda _env: None, compose=compose)


@pytest.fixture(scope="module")
def grpc_server(grpc_servicer: ServiceSpec[None]) -> Iterator[Served]:
    thread, stack = LoopThread(), AsyncExitStack()
    try:
        yield thread.call(stack.enter_async_context(running(grpc_servicer)))
    finally:
        thread.call(stack.aclose())
        thread.close()


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return extract_pb2_grpc.ExtractServiceStub


@pytest.fixture
def source(request: pytest.FixtureRequest) -> str:
    """A name that no other test has."""
    plain = "".join(letter if letter.isalnum() else "_" for letter in request.node.name.lower())
    return f"namespaces/default/sources/{plain[:60].strip('_')}"


@pytest.fixture
def csv_source(grpc_stub: Any, folder: Path, source: str) -> Iterator[str]:
    """A stored source of one file with 3 good lines and a bad one."""
    path = folder / f"{source.rpartition('/')[2]}.csv"
    path.write_text("id,name\n1,a\n2,b\nx,c\n3,d\n")
    spec = pb.SourceSpec(table=TABLE, files=pb.FilesConnector(path=str(path)))
    grpc_stub.PutSource(pb.PutSourceRequest(request_id=f"put {source}", source=pb.Source(name=source, spec=spec)))
    yield source
    grpc_stub.DeleteSource(pb.DeleteSourceRequest(request_id=f"delete {source}", name=source))
