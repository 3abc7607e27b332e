"""LookupRows over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest

from millrace.client import status
from millrace.server.runtime import ServiceSpec
from millrace.server.testing import Served, running
from millrace.storage.v1 import lookup_pb2, storage_pb2_grpc
from millrace.types.v1 import types_pb2
from millrace.wire.batch import batch_to_proto, read_batch
from millrace.wire.schema import schema_from_proto
from svc_storage.__main__ import compose
from svc_storage.config import Settings
from tests.contract.storage.backends import NAME, rows
from tests.contract.storage.test_append_served import FINISH, append, batch, create, opening

SPEC = ServiceSpec(name="storage", settings=Settings.from_env, compose=compose)


@pytest.fixture
async def served(home: Path) -> AsyncIterator[Served]:
    async with running(SPEC, {"MILLRACE_HOME": str(home)}) as found:
        await create(found, primary_key=["id"])
        await append(found, [opening(), batch(0, 5), FINISH])
        yield found


async def lookup(served: Served, wanted: list[Any], **more: Any) -> lookup_pb2.LookupRowsResponse:
    column = pa.RecordBatch.from_pydict({"id": pa.array(wanted, pa.int64())})
    request = lookup_pb2.LookupRowsRequest(**{"table": NAME, "keys": batch_to_proto(column), **more})
    stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
    answer: lookup_pb2.LookupRowsResponse = await stub.LookupRows(request)
    return answer


@pytest.mark.parametrize("encoding", [types_pb2.ENCODING_ROWS, types_pb2.ENCODING_ARROW])
async def test_rows_by_key(served: Served, encoding: int) -> None:
    answer = await lookup(served, [4, 77, 0], encoding=encoding)
    assert list(answer.found) == [True, False, True]
    found = read_batch(answer.rows, schema_from_proto(answer.schema))
    assert found.to_pylist() == [*rows(1, 4).to_pylist(), *rows(1, 0).to_pylist()]
    assert answer.version == 2


async def test_keys_as_people_send_them(served: Served) -> None:
    row = types_pb2.Row(values=[types_pb2.Value(int=3)])
    answer = await lookup(
        served, [], keys=types_pb2.Batch(rows=types_pb2.Rows(rows=[row]), row_count=1), columns=["price"]
    )
    assert answer.rows.rows.rows[0].values[0].float == 0.75


@pytest.mark.parametrize(
    ("keys", "more", "reason"),
    [
        ([], {}, "FIELD_INVALID"),
        ([1] * 1001, {}, "FIELD_INVALID"),
        ([1], {"columns": ["nothing"]}, "FIELD_INVALID"),
        ([1], {"keys": batch_to_proto(pa.RecordBatch.from_pydict({"other": [1]}))}, "SCHEMA_MISMATCH"),
        ([1], {"table_uid": "other"}, "TABLE_RECREATED"),
        ([1], {"version": 99}, "VERSION_IN_FUTURE"),
        ([1], {"table": NAME + "$dead_letters"}, "NO_PRIMARY_KEY"),
    ],
)
async def test_what_is_refused(served: Served, keys: list[int], more: dict[str, Any], reason: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await lookup(served, keys, **more)
    assert status.error_of(refused.value).reason == reason
