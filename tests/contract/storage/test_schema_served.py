"""Columns that change, over the wire and through every layer of the server."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from millrace.server.testing import Served
from millrace.storage.v1 import frames_pb2, schema_pb2, storage_pb2_grpc
from millrace.storage.v1 import storage_pb2 as pb
from millrace.types.v1 import types_pb2
from tests.contract.storage.backends import NAME
from tests.contract.storage.test_append_served import FINISH, append, batch, opening, reason_of, served

__all__ = ["served"]

NOTE = types_pb2.Field(name="note", type=types_pb2.DataType(kind=types_pb2.TYPE_KIND_STRING), nullable=True)
ROWS = types_pb2.ENCODING_ROWS


def changing(base: int = 1, **more: Any) -> pb.AppendRowsRequest:
    more = more or {"additions": [NOTE]}
    return pb.AppendRowsRequest(schema_change=schema_pb2.SchemaChange(base_schema_id=base, **more))


def noted(offset: int) -> pb.AppendRowsRequest:
    """A batch of one row in the new columns, as grpcurl would send it."""
    frame = batch(offset, 1, ROWS)
    frame.batch.batch.rows.rows[0].values.append(types_pb2.Value(string="n"))
    return frame


def kinds(answers: list[pb.AppendRowsResponse]) -> list[str]:
    return [str(answer.WhichOneof("message")) for answer in answers]


async def test_all_frames_at_once(served: Served) -> None:
    frames = [opening(), batch(0, 2, ROWS), changing(), noted(2), batch(3, 1, ROWS), batch(4, 1), FINISH]
    answers, code = await append(served, frames)
    assert code is grpc.StatusCode.OK
    found = kinds(answers)
    assert (found[0], found[-1], found.count("schema_accepted")) == ("opened", "done", 1)
    accepted = next(answer.schema_accepted.schema for answer in answers if answer.HasField("schema_accepted"))
    assert (accepted.schema_id, accepted.fields[-1].name, accepted.fields[-1].field_id) == (2, "note", 5)
    assert not any(answer.committed.HasField("schema") for answer in answers), "this stream was told by its own answer"
    stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
    rows = [answer async for answer in stub.ReadRows(pb.ReadRowsRequest(read=pb.PlanReadRequest(table=NAME)))]
    notes = [row.values[4].WhichOneof("kind") for answer in rows for row in answer.batch.rows.rows]
    assert notes == ["null", "null", "string", "null", "null"]
    table = (await stub.GetTable(pb.GetTableRequest(name=NAME))).table
    assert table.schema == accepted
    old = await stub.PlanRead(pb.PlanReadRequest(table=NAME, version=2))
    assert (len(old.schema.fields), old.schema.schema_id) == (4, 1)
    watching = stub.WatchTable(pb.WatchTableRequest(table=NAME, after_version=2))
    kind = pb.VERSION_KIND_SCHEMA
    async for news in watching:
        if news.version.kind == kind:
            assert (news.version.schema, news.version.rows_added) == (accepted, 0)
            break
    watching.cancel()


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        (changing(5), "FIELD_INVALID", "schema_change.base_schema_id"),
        (changing(0), "FIELD_REQUIRED", "schema_change.base_schema_id"),
        (changing(1, relaxations=["who"]), "FIELD_INVALID", "schema_change.relaxations[0]"),
        (changing(1, additions=[types_pb2.Field(name="x", nullable=True)]), "FIELD_REQUIRED", "schema_change.additions[0].type"),
        (
            changing(1, widenings={"price": types_pb2.DataType(kind=types_pb2.TYPE_KIND_FLOAT, bits=32)}),
            "FIELD_INVALID",
            "schema_change.widenings.price",
        ),
    ],
)  # fmt: skip
async def test_a_change_that_cannot_be_is_said_in_band(
    served: Served, change: pb.AppendRowsRequest, reason: str, field: str
) -> None:  # fmt: skip
    answers, code = await append(served, [opening(), batch(0, 2), change, FINISH])
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    error = answers[-1].error
    found, metadata = reason_of(error)
    assert found == reason
    assert field in str(error), error
    assert metadata.get("next_offset", "2") == "2", "what came before it is stored"


async def test_a_change_made_for_older_columns(served: Served) -> None:
    await append(served, [opening(), changing(), FINISH])
    answers, code = await append(served, [opening(), changing(), FINISH])
    assert code is grpc.StatusCode.OK, "it holds already"
    other = types_pb2.Field(name="other", type=NOTE.type, nullable=True)
    answers, code = await append(served, [opening(), changing(1, additions=[other]), FINISH])
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(answers[-1].error)[0] == "SCHEMA_CONFLICT"
    answers, code = await append(served, [opening(), changing(2, additions=[other]), FINISH])
    assert code is grpc.StatusCode.OK
    assert [field.name for field in answers[0].opened.schema.fields][-1] == "note"


async def test_update_table_changes_columns(served: Served) -> None:
    stub: Any = storage_pb2_grpc.StorageServiceStub(served.channel())
    table = (await stub.GetTable(pb.GetTableRequest(name=NAME))).table
    table.schema.fields.append(NOTE)
    next(field for field in table.schema.fields if field.name == "id").nullable = True
    table.rules.add(column="note").allowed.add(string="n")
    request = pb.UpdateTableRequest(request_id="one", table=table)
    first = (await stub.UpdateTable(request)).table
    assert (first.schema.schema_id, first.schema.fields[-1].name, first.rules[0].column) == (2, "note", "note")
    assert (await stub.UpdateTable(request)).table.schema == first.schema
    assert (await stub.GetTable(pb.GetTableRequest(name=NAME))).table.version == 1
    table.etag = first.etag
    table.schema.fields.pop()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.UpdateTable(pb.UpdateTableRequest(request_id="two", table=table))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_committed_carries_columns_only_when_they_are_news() -> None:
    assert not frames_pb2.Committed().HasField("schema")
