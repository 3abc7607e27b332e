"""The whole service over the wire, with every layer of the server."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from millrace.server.runtime import ServiceSpec
from millrace.server.testing import Served, running
from millrace.storage.v1 import frames_pb2, storage_pb2, storage_pb2_grpc
from millrace.types.v1 import types_pb2
from millrace.wire.batch import batch_to_proto, read_batch
from millrace.wire.schema import schema_from_proto, schema_to_proto
from svc_storage.__main__ import compose
from svc_storage.config import Settings
from tests.contract.storage.backends import NAME, SCHEMA, rows


@pytest.fixture
async def served(home: Path) -> AsyncIterator[Served]:
    spec = ServiceSpec(name="storage", settings=Settings.from_env, compose=compose)
    env = {"MILLRACE_HOME": str(home), "MILLRACE_STORAGE_DIRECT_FILES": "true"}
    async with running(spec, env) as found:
        yield found


@pytest.fixture
def storage(served: Served) -> Any:
    return storage_pb2_grpc.StorageServiceStub(served.channel())


def reason(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    assert status is not None, error
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    raise AssertionError(f"a bare status: {error}")


async def fill(storage: Any, *counts: int) -> None:
    table = storage_pb2.Table(name=NAME, schema=schema_to_proto(SCHEMA), event_time_column="at")
    await storage.CreateTable(storage_pb2.CreateTableRequest(request_id="create", table=table))
    call = storage.AppendRows()
    await call.write(storage_pb2.AppendRowsRequest(open=storage_pb2.AppendOpen(table=NAME, writer_id="w")))
    assert (await call.read()).WhichOneof("message") == "opened"
    offset = 0
    for count in counts:
        batch = batch_to_proto(rows(count, offset))
        await call.write(storage_pb2.AppendRowsRequest(batch=frames_pb2.AppendBatch(offset=offset, batch=batch)))
        await call.write(storage_pb2.AppendRowsRequest(flush=frames_pb2.Flush()))
        offset += count
    await call.write(storage_pb2.AppendRowsRequest(finish=frames_pb2.Finish()))
    await call.done_writing()
    while (answer := await call.read()) is not grpc.aio.EOF:
        last = answer
    assert last.done.next_offset == sum(counts)


async def read(storage: Any, request: storage_pb2.ReadRowsRequest) -> tuple[pa.Table, int]:
    batches, schema, count = [], None, -1
    async for message in storage.ReadRows(request):
        match message.WhichOneof("message"):
            case "header":
                schema = schema_from_proto(message.header.schema)
            case "batch":
                assert schema is not None
                assert len(message.resume_token) <= 512
                batches.append(read_batch(message.batch, schema))
            case "end":
                count = message.end.row_count
    return pa.Table.from_batches(batches).combine_chunks(), count


def sha(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


# -- reads
@pytest.mark.parametrize("encoding", [types_pb2.ENCODING_ARROW, types_pb2.ENCODING_ROWS])
async def test_a_read_in_both_encodings(storage: Any, encoding: types_pb2.Encoding.ValueType) -> None:
    await fill(storage, 1_500, 700)
    plan = await storage.PlanRead(storage_pb2.PlanReadRequest(table=NAME, preferred_min_splits=2))
    assert plan.estimated_rows == 2_200
    parts = [
        await read(storage, storage_pb2.ReadRowsRequest(split_token=split.split_token, encoding=encoding))
        for split in plan.splits
    ]
    assert [count for _, count in parts] == [split.estimated_rows for split in plan.splits]
    found = pa.concat_tables([table for table, _ in parts])
    assert found.column("id").to_pylist() == list(range(2_200))
    assert found.column("price").to_pylist()[:3] == [0.0, 0.25, 0.5]


async def test_a_read_cut_a_hundred_times_at_random_has_the_same_sha256(storage: Any) -> None:
    await fill(storage, 40_000, 17, 30_000, 20_000)
    target = storage_pb2.PlanReadRequest(
        table=NAME,
        predicate=types_pb2.Predicate(
            negation=types_pb2.Predicate(
                compare=types_pb2.Comparison(
                    column="status", op=types_pb2.COMPARE_OP_EQ, value=types_pb2.Value(string="done")
                )
            )
        ),
    )
    request = storage_pb2.ReadRowsRequest(read=target, encoding=types_pb2.ENCODING_ARROW, max_message_bytes=4_096)
    whole, count = await read(storage, request)
    assert count == whole.num_rows == 45_008
    chance, cuts, token = random.Random(7131), 0, b""
    batches: list[pa.RecordBatch] = []
    end = None
    while end is None:
        call = storage.ReadRows(storage_pb2.ReadRowsRequest(**_fields(request), resume_token=token))
        left = chance.randint(1, 8) if cuts < 100 else -1
        async for message in call:
            if message.WhichOneof("message") == "batch":
                batches.append(read_batch(message.batch, SCHEMA))
                token = message.resume_token
            elif message.WhichOneof("message") == "end":
                end = message.end.row_count
            left -= 1
            if left == 0:
                call.cancel()
                cuts += 1
                break
    assert (cuts, end) == (100, count)
    assert sha(pa.Table.from_batches(batches, whole.schema)) == sha(whole)


def _fields(request: storage_pb2.ReadRowsRequest) -> dict[str, Any]:
    return {"read": request.read, "encoding": request.encoding, "max_message_bytes": request.max_message_bytes}


async def test_direct_files_for_who_sees_the_same_disk(storage: Any, home: Path) -> None:
    await fill(storage, 100)
    store = (("x-millrace-store-id", (home / "data" / "store-id").read_text().strip()),)
    plan = await storage.PlanRead(storage_pb2.PlanReadRequest(table=NAME), metadata=store)
    (split,) = plan.splits
    assert list(split.access) == [storage_pb2.ACCESS_MODE_STREAM, storage_pb2.ACCESS_MODE_DIRECT]
    ask = storage_pb2.ListSplitFilesRequest(split_token=split.split_token)
    listed = [message async for message in storage.ListSplitFiles(ask, metadata=store)]
    assert listed[-1].end.file_count == len(listed) - 1 == 1
    path = Path(listed[0].url.removeprefix("file://"))
    assert pa.parquet.read_table(path).num_rows == listed[0].row_count == 100
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in storage.ListSplitFiles(ask):
            pass
    assert reason(refused.value) == "BACKEND_CAPABILITY"


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (storage_pb2.ReadRowsRequest(), grpc.StatusCode.INVALID_ARGUMENT, ""),
        (storage_pb2.ReadRowsRequest(split_token=b"x"), grpc.StatusCode.FAILED_PRECONDITION, "split_token"),
        (
            storage_pb2.ReadRowsRequest(read=storage_pb2.PlanReadRequest(table=NAME), max_message_bytes=1),
            grpc.StatusCode.INVALID_ARGUMENT,
            "max_message_bytes",
        ),
    ],
)
async def test_malformed_reads_are_refused(
    storage: Any, request_: storage_pb2.ReadRowsRequest, code: grpc.StatusCode, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await read(storage, request_)
    assert refused.value.code() is code
    assert reason(refused.value) not in ("", "UNEXPECTED")


# -- watches
async def test_a_watch_hears_of_a_commit_and_of_the_end(storage: Any) -> None:
    await fill(storage, 10)
    watch = storage.WatchTable(storage_pb2.WatchTableRequest(table=NAME, data_changes_only=True))
    assert (await watch.read()).WhichOneof("event") == "bookmark"
    version = (await watch.read()).version
    assert (version.rows_added, version.kind) == (10, storage_pb2.VERSION_KIND_APPEND)
    assert [field.name for field in version.schema.fields] == SCHEMA.names
    assert "w" in version.positions
    await storage.DeleteTable(storage_pb2.DeleteTableRequest(request_id="gone", name=NAME))
    assert (await watch.read()).WhichOneof("event") == "deleted"
    assert await watch.read() is grpc.aio.EOF


async def test_two_hundred_idle_watches_cost_nobody_anything(served: Served, storage: Any) -> None:
    await fill(storage, 10)
    watches = [storage.WatchTable(storage_pb2.WatchTableRequest(table=NAME, after_version=2)) for _ in range(200)]
    for watch in watches:
        assert (await watch.read()).WhichOneof("event") == "bookmark"
    slowest = 0.0
    for _ in range(20):
        before = time.perf_counter()
        await storage.GetTable(storage_pb2.GetTableRequest(name=NAME))
        slowest = max(slowest, time.perf_counter() - before)
        await asyncio.sleep(0.01)
    for watch in watches:
        watch.cancel()
    assert slowest < 0.1


def described(name: str, size: int) -> storage_pb2.CreateTableRequest:
    table = storage_pb2.Table(name=name, schema=schema_to_proto(SCHEMA), description="x" * size)
    return storage_pb2.CreateTableRequest(request_id=name, table=table)


async def test_a_definition_has_a_size(storage: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await storage.CreateTable(described(NAME, 600_000))
    assert reason(refused.value) == "FIELD_INVALID"


async def test_pages_of_large_definitions_stay_below_what_grpc_takes(storage: Any) -> None:
    names = [f"namespaces/default/tables/t{index}" for index in range(10)]
    for name in names:
        await storage.CreateTable(described(name, 500_000))
    listed, token = [], ""
    while True:
        page = await storage.ListTables(storage_pb2.ListTablesRequest(page_token=token))
        assert page.ByteSize() < 4 << 20
        listed, token = listed + [table.name for table in page.tables], page.next_page_token
        if not token:
            break
    assert listed == names
