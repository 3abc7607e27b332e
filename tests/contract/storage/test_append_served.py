"""AppendRows over the wire, with every layer of the server: frames, in-band errors, drain, age."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from millrace.server.runtime import ServiceSpec
from millrace.server.testing import Served, running
from millrace.storage.v1 import frames_pb2, storage_pb2_grpc
from millrace.storage.v1 import storage_pb2 as pb
from millrace.types.v1 import types_pb2
from millrace.wire.batch import batch_to_proto
from millrace.wire.schema import schema_to_proto
from svc_storage.__main__ import compose
from svc_storage.config import Settings
from tests.contract.storage.backends import NAME, SCHEMA, rows

SPEC = ServiceSpec(name="storage", settings=Settings.from_env, compose=compose)


@pytest.fixture
async def served(home: Path) -> AsyncIterator[Served]:
    async with running(SPEC, {"MILLRACE_HOME": str(home)}) as found:
        await create(found)
        yield found


async def create(served: Served, **more: Any) -> pb.Table:
    stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
    table = pb.Table(name=NAME, schema=schema_to_proto(SCHEMA), event_time_column="at", **more)
    return (await stub.CreateTable(pb.CreateTableRequest(request_id="create", table=table))).table


def opening(**more: Any) -> pb.AppendRowsRequest:
    return pb.AppendRowsRequest(open=pb.AppendOpen(**{"table": NAME, "writer_id": "w", **more}))


def batch(offset: int, count: int, encoding: int = types_pb2.ENCODING_ARROW) -> pb.AppendRowsRequest:
    return pb.AppendRowsRequest(
        batch=frames_pb2.AppendBatch(offset=offset, batch=batch_to_proto(rows(count, offset), encoding))
    )


FLUSH = pb.AppendRowsRequest(flush=frames_pb2.Flush())
FINISH = pb.AppendRowsRequest(finish=frames_pb2.Finish())


async def append(
    served: Served, frames: Iterable[pb.AppendRowsRequest], principal: str = "local"
) -> tuple[list[pb.AppendRowsResponse], grpc.StatusCode]:
    """All frames at once, as grpcurl sends them."""
    stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel(principal))
    call = stub.AppendRows()
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


def reason_of(status: status_pb2.Status) -> tuple[str, dict[str, str]]:
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    raise AssertionError("a bare error")


async def row_count(served: Served) -> int:
    stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
    return int((await stub.GetTable(pb.GetTableRequest(name=NAME))).table.row_count)


@pytest.mark.parametrize("encoding", [types_pb2.ENCODING_ARROW, types_pb2.ENCODING_ROWS])
async def test_early_frames_are_no_error(served: Served, encoding: int) -> None:
    answers, code = await append(served, [opening(), batch(0, 3, encoding), FLUSH, batch(3, 2, encoding), FINISH])
    assert code is grpc.StatusCode.OK
    kinds = [answer.WhichOneof("message") for answer in answers]
    assert (kinds[0], kinds[-1]) == ("opened", "done")
    assert set(kinds[1:-1]) == {"committed"}
    assert answers[-1].done.next_offset == 5
    assert sum(answer.committed.rows_written for answer in answers) == 5
    assert await row_count(served) == 5


@pytest.mark.parametrize(
    ("frames", "code", "reason", "stored"),
    [
        ([FLUSH], grpc.StatusCode.INVALID_ARGUMENT, "STREAM_PROTOCOL", 0),
        ([], grpc.StatusCode.INVALID_ARGUMENT, "STREAM_PROTOCOL", 0),
        ([pb.AppendRowsRequest()], grpc.StatusCode.INVALID_ARGUMENT, "STREAM_PROTOCOL", 0),
        ([opening(), batch(0, 3), opening()], grpc.StatusCode.INVALID_ARGUMENT, "STREAM_PROTOCOL", 3),
        ([opening(), batch(0, 3)], grpc.StatusCode.INVALID_ARGUMENT, "STREAM_PROTOCOL", 0),
        ([opening(), batch(0, 3), batch(9, 1), FINISH], grpc.StatusCode.OUT_OF_RANGE, "OFFSET_GAP", 3),
        ([opening(), batch(0, 3), batch(2, 3), FINISH], grpc.StatusCode.FAILED_PRECONDITION, "OFFSET_OVERLAP", 3),
        ([opening(writer_id="millrace.x")], grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", 0),
        ([opening(writer_id="a//b")], grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", 0),
        ([opening(table="namespaces/default/tables/other")], grpc.StatusCode.NOT_FOUND, "TABLE_NOT_FOUND", 0),
        ([opening(table=NAME + "$dead_letters")], grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", 0),
        ([opening(table_uid="other")], grpc.StatusCode.FAILED_PRECONDITION, "TABLE_RECREATED", 0),
        ([opening(epoch=5)], grpc.StatusCode.FAILED_PRECONDITION, "WRITER_FENCED", 0),
        ([opening(epoch=1 << 23)], grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", 0),
        (
            [opening(commit_interval=duration_pb2.Duration(seconds=61))],
            grpc.StatusCode.INVALID_ARGUMENT,
            "FIELD_INVALID",
            0,
        ),
        (
            [opening(), batch(0, 3), pb.AppendRowsRequest(batch=frames_pb2.AppendBatch(batch=types_pb2.Batch()))],
            grpc.StatusCode.INVALID_ARGUMENT,
            "FIELD_REQUIRED",
            3,
        ),
        (
            [
                opening(),
                batch(0, 3),
                pb.AppendRowsRequest(
                    batch=frames_pb2.AppendBatch(offset=3, batch=types_pb2.Batch(arrow=b"nonsense", row_count=1))
                ),
            ],
            grpc.StatusCode.INVALID_ARGUMENT,
            "ARROW_INVALID",
            3,
        ),
    ],
)
async def test_refusals_say_why_in_band_and_in_the_status(
    served: Served, frames: list[pb.AppendRowsRequest], code: grpc.StatusCode, reason: str, stored: int
) -> None:
    answers, ended = await append(served, frames)
    assert ended is code
    assert answers[-1].WhichOneof("message") == "error"
    said, metadata = reason_of(answers[-1].error)
    assert said == reason
    assert await row_count(served) == stored
    if stored:
        assert metadata["next_offset"] == str(stored)


async def test_another_principals_writer_is_refused(served: Served) -> None:
    await append(served, [opening(), FINISH])
    answers, code = await append(served, [opening(), FINISH], principal="guest")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert reason_of(answers[-1].error)[0] == "NOT_ALLOWED"


async def test_an_equal_epoch_resends(served: Served) -> None:
    await append(served, [opening(), batch(0, 3), FINISH])
    answers, code = await append(served, [opening(epoch=1), batch(0, 3), batch(3, 3), FINISH])
    assert code is grpc.StatusCode.OK
    assert answers[0].opened.next_offset == 3
    assert sum(answer.committed.rows_duplicate for answer in answers) == 3
    assert await row_count(served) == 6


async def test_duplicates_alone_are_acknowledged(served: Served) -> None:
    await append(served, [opening(), batch(0, 3), FINISH])
    answers, _ = await append(served, [opening(epoch=1), batch(0, 3), FINISH])
    assert [answer.WhichOneof("message") for answer in answers] == ["opened", "committed", "done"]
    assert answers[1].committed.next_offset == 3
    assert answers[1].committed.rows_duplicate == 3


async def test_validate_only_keeps_nothing(served: Served) -> None:
    answers, code = await append(served, [opening(validate_only=True), batch(0, 3), FINISH])
    assert code is grpc.StatusCode.OK
    assert sum(answer.committed.rows_written for answer in answers) == 3
    assert await row_count(served) == 0


async def test_dead_letters_are_counted_and_named(served: Served) -> None:
    letter = frames_pb2.DeadLetter(row_index=1, reason="UNPARSEABLE", raw=b"a,b")
    frame = frames_pb2.AppendBatch(offset=0, batch=batch_to_proto(rows(2)), dead_letters=[letter])
    answers, code = await append(
        served, [opening(on_bad_row=types_pb2.ON_BAD_ROW_DEAD_LETTER), pb.AppendRowsRequest(batch=frame), FINISH]
    )
    assert code is grpc.StatusCode.OK
    assert (answers[1].committed.rows_written, answers[1].committed.rows_dead_lettered) == (2, 1)
    stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
    table = (await stub.GetTable(pb.GetTableRequest(name=NAME + "$dead_letters"))).table
    assert table.row_count == 1
    read = stub.ReadRows(pb.ReadRowsRequest(read=pb.PlanReadRequest(table=NAME + "$dead_letters")))
    found = [row async for message in read for row in message.batch.rows.rows]
    assert len(found) == 1
    assert found[0].values[6].binary == b"a,b"


async def test_drain_commits_then_says_so(home: Path) -> None:
    async with running(SPEC, {"MILLRACE_HOME": str(home)}) as served:
        await create(served)
        stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
        call = stub.AppendRows()
        await call.write(opening(commit_interval=duration_pb2.Duration(seconds=60)))
        assert (await call.read()).WhichOneof("message") == "opened"
        await call.write(batch(0, 3))
        await asyncio.sleep(0.1)
        served.serving.drain(2.0)
        committed = await call.read()
        assert committed.committed.next_offset == 3
        assert reason_of((await call.read()).error)[0] == "STREAM_DRAINING"
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.ABORTED


async def test_age_ends_a_stream_after_a_commit(home: Path) -> None:
    async with running(SPEC, {"MILLRACE_HOME": str(home)}, stream_age_s=0.5) as served:
        await create(served)
        stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
        call = stub.AppendRows()
        await call.write(opening(commit_interval=duration_pb2.Duration(seconds=60)))
        await call.write(batch(0, 3))
        answers = []
        async with asyncio.timeout(5):
            while (answer := await call.read()).WhichOneof("message") != "error":
                answers.append(answer)
        assert answers[-1].committed.next_offset == 3
        assert reason_of(answer.error)[0] == "STREAM_AGED_OUT"


async def test_a_client_that_vanishes_leaves_nothing_behind(served: Served) -> None:
    stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
    call = stub.AppendRows()
    await call.write(opening(commit_interval=duration_pb2.Duration(seconds=60)))
    await call.read()
    await call.write(batch(0, 3))
    await asyncio.sleep(0.1)
    call.cancel()
    answers, _ = await append(served, [opening(epoch=1), FINISH])
    assert answers[0].opened.next_offset == 0
    assert await row_count(served) == 0


async def test_a_second_process_is_refused_the_folder(served: Served, home: Path) -> None:
    with pytest.raises(Exception, match="in use by process"):
        async with running(SPEC, {"MILLRACE_HOME": str(home)}):
            pass


async def test_a_row_that_no_read_could_send_is_refused(served: Served) -> None:
    """Its wire form is small: lists of NULLs are 4 bytes an item there and 8 in Arrow."""
    name = "namespaces/default/tables/lists"
    column = types_pb2.Field(name="item", type=types_pb2.DataType(kind=types_pb2.TYPE_KIND_INT), nullable=True)
    kind = types_pb2.DataType(kind=types_pb2.TYPE_KIND_LIST, children=[column])
    table = pb.Table(name=name, schema=types_pb2.Schema(fields=[types_pb2.Field(name="l", type=kind, nullable=True)]))
    stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
    await stub.CreateTable(pb.CreateTableRequest(request_id="lists", table=table))
    items = types_pb2.ValueList(values=[types_pb2.Value(null=types_pb2.Null())] * 500_000)
    row = types_pb2.Rows(rows=[types_pb2.Row(values=[types_pb2.Value(list=items)])])
    frame = frames_pb2.AppendBatch(offset=0, batch=types_pb2.Batch(rows=row, row_count=1))
    answers, code = await append(served, [opening(table=name), pb.AppendRowsRequest(batch=frame), FINISH])
    assert (reason_of(answers[-1].error)[0], code) == ("ROW_TOO_LARGE", grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("writer", ["sources/default/flights", "transforms/default/departures"])
async def test_a_person_cannot_take_a_writer_of_the_services(served: Served, writer: str) -> None:
    answers, code = await append(served, [opening(writer_id=writer)], principal="guest")
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert reason_of(answers[-1].error)[0] == "NOT_ALLOWED"
    answers, code = await append(served, [opening(writer_id=writer), batch(0, 1), FINISH], principal="extract")
    assert (answers[-1].done.next_offset, code) == (1, grpc.StatusCode.OK)
