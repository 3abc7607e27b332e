"""The service with all its layers, over memory tables: what a caller of the RPCs sees."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from millrace.analysis.v1 import analysis_pb2, analysis_pb2_grpc
from millrace.client.status import error_of
from millrace.engine.memory import MemoryFiles
from millrace.server.runtime import Composition, Runtime, ServiceSpec
from millrace.server.testing import Served, running
from millrace.types.v1 import types_pb2
from millrace.wire.batch import read_batch
from millrace.wire.schema import schema_from_proto
from svc_analysis.__main__ import assemble
from svc_analysis.adapters.memory import MemoryTables
from svc_analysis.config import Settings

T = "namespaces/default/tables/t"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("ts", pa.timestamp("us", "UTC")),
        pa.field("kind", pa.string()),
        pa.field("value", pa.float64()),
    ]
)
START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def rows(count: int, first: int = 0) -> pa.Table:
    """A row a minute; kinds a, b in turn."""
    ids = range(first, first + count)
    columns: dict[str, list[Any]] = {
        "id": list(ids),
        "ts": [START + dt.timedelta(minutes=i) for i in ids],
        "kind": ["ab"[i % 2] for i in ids],
        "value": [i / 2 for i in ids],
    }
    return pa.table(columns, schema=SCHEMA)


@dataclass(slots=True)
class Asked:
    """A whole answer."""

    header: analysis_pb2.QueryHeader
    table: pa.Table
    end: analysis_pb2.QueryEnd
    tokens: list[bytes]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.table.to_pylist()


@dataclass(slots=True)
class Analysis:
    """A running analysis and its tables."""

    served: Served
    files: MemoryFiles
    tables: MemoryTables

    def stub(self, principal: str = "local") -> Any:
        return analysis_pb2_grpc.AnalysisServiceStub(self.served.channel(principal))

    async def query(self, **fields: Any) -> Asked:
        """Raises the error of ours that the status carries."""
        fields.setdefault("encoding", types_pb2.ENCODING_ARROW)
        return await collect(self.stub().Query(analysis_pb2.QueryRequest(**fields)))

    async def sql(self, text: str, **fields: Any) -> Asked:
        return await self.query(sql={"text": text}, **fields)


async def collect(call: Any) -> Asked:
    header, end = analysis_pb2.QueryHeader(), None
    batches, tokens = [], []
    try:
        async for message in call:
            match message.WhichOneof("message"):
                case "header":
                    header = message.header
                case "batch":
                    batches.append(read_batch(message.batch, schema_from_proto(header.schema)))
                    tokens.append(message.resume_token)
                case "end":
                    end = message.end
    except Exception as error:
        raise error_of(error) from error
    assert end is not None, "no explicit end"
    return Asked(header, pa.Table.from_batches(batches, schema_from_proto(header.schema)), end, tokens)


@pytest.fixture
async def analysis(tmp_path: Path) -> AsyncIterator[Analysis]:
    (tmp_path / "data").mkdir()
    (tmp_path / "spill").mkdir()
    files = MemoryFiles(tmp_path / "data")
    tables = MemoryTables(files)
    await files.create(T, SCHEMA, "ts")
    await files.append(T, rows(120))

    async def compose(settings: Settings, runtime: Runtime) -> Composition:
        return assemble(settings, tables, str(tmp_path / "spill"), runtime.telemetry)

    spec = ServiceSpec(name="analysis", settings=Settings.from_env, compose=compose)
    async with running(spec, {"MILLRACE_ANALYSIS_MEMORY_MB": "200"}, home=tmp_path) as served:
        yield Analysis(served, files, tables)
