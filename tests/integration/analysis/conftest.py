"""Storage as it really is, in the test's loop; tables filled through the client."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from millrace.client.append import Appender, AppendOptions
from millrace.client.channel import Connection
from millrace.server.runtime import ServiceSpec
from millrace.server.testing import Served, running
from millrace.storage.v1 import storage_pb2, storage_pb2_grpc
from millrace.wire.schema import schema_to_proto
from svc_storage.__main__ import compose
from svc_storage.config import Settings


@dataclass(slots=True)
class Store:
    """A running storage with its data folder."""

    served: Served
    data: Path

    @property
    def connection(self) -> Connection:
        return Connection(self.served.channel("analysis"))

    async def create(self, name: str, schema: pa.Schema, event_time: str = "") -> None:
        stub = storage_pb2_grpc.StorageServiceStub(self.served.channel("local"))
        table = storage_pb2.Table(name=name, schema=schema_to_proto(schema), event_time_column=event_time)
        await stub.CreateTable(storage_pb2.CreateTableRequest(request_id=uuid.uuid4().hex, table=table))

    async def append(self, name: str, rows: pa.Table, writer: str = "test") -> int:
        """Returns the version that holds the rows."""
        return await append(Connection(self.served.channel("local")), name, rows, writer)


async def append(connection: Connection, name: str, rows: pa.Table, writer: str) -> int:
    async with Appender(connection, AppendOptions(table=name, writer_id=writer)) as appender:
        for batch in rows.combine_chunks().to_batches(max_chunksize=100_000):
            await appender.append(batch)
        return (await appender.finish()).version


SPEC = ServiceSpec(name="storage", settings=Settings.from_env, compose=compose)


def storage_env(data: Path) -> dict[str, str]:
    return {"MILLRACE_STORAGE_DATA_DIR": str(data), "MILLRACE_STORAGE_DIRECT_FILES": "true"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    data = tmp_path / "data"
    async with running(SPEC, storage_env(data), home=tmp_path) as served:
        yield Store(served, data)
