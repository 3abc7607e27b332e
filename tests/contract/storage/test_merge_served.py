"""MergeRows over the wire: frames, refusals, and the table afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest

from millrace.server.runtime import ServiceSpec
from millrace.server.testing import Served, running
from millrace.storage.v1 import frames_pb2, merge_pb2, schema_pb2, storage_pb2_grpc
from millrace.storage.v1 import storage_pb2 as pb
from millrace.types.v1 import types_pb2
from millrace.wire.batch import batch_to_proto
from millrace.wire.schema import schema_from_proto
from svc_storage.__main__ import compose
from svc_storage.config import Settings
from tests.contract.storage.backends import NAME, rows
from tests.contract.storage.test_append_served import append, batch, create, opening, reason_of

SPEC = ServiceSpec(name="storage", settings=Settings.from_env, compose=compose)
FINISH = merge_pb2.MergeRowsRequest(finish=frames_pb2.Finish())
FLUSH = merge_pb2.MergeRowsRequest(flush=frames_pb2.Flush())


@pytest.fixture
async def served(home: Path) -> AsyncIterator[Served]:
    async with running(SPEC, {"MILLRACE_HOME": str(home)}) as found:
        await create(found, primary_key=["id"])
        yield found


def opened(**more: Any) -> merge_pb2.MergeRowsRequest:
    return merge_pb2.MergeRowsRequest(
        open=merge_pb2.MergeOpen(**{"table": NAME, "writer_id": "m", "op_column": "op", **more})
    )


def change(offset: int, *ops: tuple[str, int], encoding: int = types_pb2.ENCODING_ARROW) -> merge_pb2.MergeRowsRequest:
    lines = pa.concat_batches([rows(1, key) for _, key in ops])
    lines = lines.append_column("op", pa.array([op for op, _ in ops]))
    return merge_pb2.MergeRowsRequest(
        batch=frames_pb2.AppendBatch(offset=offset, batch=batch_to_proto(lines, encoding))
    )


async def merge(
    served: Served, frames: Iterable[merge_pb2.MergeRowsRequest]
) -> tuple[list[merge_pb2.MergeRowsResponse], grpc.StatusCode]:
    """All frames at once, as grpcurl sends them."""
    stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
    call = stub.MergeRows()
    for frame in frames:
        await call.write(frame)
    await call.done_writing()
    answers = []
    try:
        async for answer in call:
            answers.append(answer)
    except grpc.aio.AioRpcError:
        pass
    return answers, await call.code()


async def ids(served: Served) -> list[int]:
    stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
    read = stub.ReadRows(pb.ReadRowsRequest(read=pb.PlanReadRequest(table=NAME, columns=["id"])))
    return sorted([row.values[0].int async for message in read for row in message.batch.rows.rows])


@pytest.mark.parametrize("encoding", [types_pb2.ENCODING_ROWS, types_pb2.ENCODING_ARROW])
async def test_upserts_and_deletes(served: Served, encoding: int) -> None:
    first = change(0, ("UPSERT", 1), ("UPSERT", 2), ("UPSERT", 3), encoding=encoding)
    then = change(3, ("DELETE", 2), ("UPSERT", 3), ("DELETE", 9), encoding=encoding)
    answers, code = await merge(served, [opened(), first, FLUSH, then, FINISH])
    assert code is grpc.StatusCode.OK
    assert schema_from_proto(answers[0].opened.schema).names == ["id", "at", "price", "status", "op"]
    told = [answer.committed for answer in answers if answer.WhichOneof("message") == "committed"]
    assert sum(one.rows_written + one.rows_deleted + one.rows_ignored for one in told) == 6
    assert answers[-1].done.next_offset == 6
    assert await ids(served) == [1, 3]
    stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
    versions = (await stub.ListVersions(pb.ListVersionsRequest(table=NAME))).versions
    assert versions[0].kind == pb.VERSION_KIND_MERGE
    assert set(versions[0].positions) == {"m"}


async def test_deletes_need_only_the_key(served: Served) -> None:
    keys = pa.RecordBatch.from_pydict({"id": [1], "op": ["DELETE"]})
    frame = frames_pb2.AppendBatch(offset=2, batch=batch_to_proto(keys))
    _, code = await merge(
        served,
        [opened(), change(0, ("UPSERT", 1), ("UPSERT", 2)), FLUSH, merge_pb2.MergeRowsRequest(batch=frame), FINISH],
    )
    assert (code, await ids(served)) == (grpc.StatusCode.OK, [2])


async def test_a_table_is_written_in_one_way(served: Served) -> None:
    _, code = await append(served, [opening(), batch(0, 3), pb.AppendRowsRequest(finish=frames_pb2.Finish())])
    assert code is grpc.StatusCode.OK
    _, code = await merge(served, [opened(), change(0, ("DELETE", 1)), FINISH])
    assert (code, await ids(served)) == (grpc.StatusCode.OK, [0, 2])
    answers, code = await append(served, [opening(), batch(3, 3), pb.AppendRowsRequest(finish=frames_pb2.Finish())])
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(answers[-1].error)[0] == "WRITER_MODE_CONFLICT"


async def test_columns_are_added_on_the_way(served: Served) -> None:
    field = types_pb2.Field(name="more", type=types_pb2.DataType(kind=types_pb2.TYPE_KIND_STRING), nullable=True)
    wish = schema_pb2.SchemaChange(additions=[field], base_schema_id=1)
    frames = [opened(), change(0, ("UPSERT", 1)), merge_pb2.MergeRowsRequest(schema_change=wish), FINISH]
    answers, code = await merge(served, frames)
    assert code is grpc.StatusCode.OK
    assert any(answer.WhichOneof("message") == "schema_accepted" for answer in answers)


@pytest.mark.parametrize(
    ("frames", "code", "reason"),
    [
        ([FLUSH], grpc.StatusCode.INVALID_ARGUMENT, "STREAM_PROTOCOL"),
        ([opened(), change(0, ("UPSERT", 1)), opened()], grpc.StatusCode.INVALID_ARGUMENT, "STREAM_PROTOCOL"),
        ([opened(), change(5, ("UPSERT", 1)), FINISH], grpc.StatusCode.OUT_OF_RANGE, "OFFSET_GAP"),
        ([opened(), change(0, ("REPLACE", 1)), FINISH], grpc.StatusCode.INVALID_ARGUMENT, "ROW_INVALID"),
        ([opened(op_column=""), change(0, ("UPSERT", 1)), FINISH], grpc.StatusCode.INVALID_ARGUMENT, "SCHEMA_MISMATCH"),
        ([opened(op_column="price")], grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
        ([opened(sequence_column="price")], grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
        ([opened(writer_id="millrace.x")], grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID"),
        ([opened(table="namespaces/default/tables/other")], grpc.StatusCode.NOT_FOUND, "TABLE_NOT_FOUND"),
    ],
)
async def test_what_is_refused(
    served: Served, frames: list[merge_pb2.MergeRowsRequest], code: grpc.StatusCode, reason: str
) -> None:
    answers, found = await merge(served, frames)
    assert (reason_of(answers[-1].error)[0], found) == (reason, code)
