"""What is refused before a servicer sees it: missing fields, missing tokens, a contradicting resource."""

from __future__ import annotations

import grpc
import pytest

from millrace import errors
from millrace.admin.v1 import admin_pb2, admin_pb2_grpc
from millrace.server.testing import Served
from millrace.storage.v1 import frames_pb2
from millrace.storage.v1 import storage_pb2 as pb
from millrace.storage.v1 import storage_pb2_grpc as pb_grpc
from millrace.types.v1 import types_pb2 as types
from tests.contract.server.test_errors import failure
from tests.contract.server.toy import in_band, opened, reason_of


async def missing(call: object) -> list[str]:
    """The fields that the answer names."""
    error = await failure(call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = reason_of(error)
    assert found.reason == "FIELD_REQUIRED"
    return [found.field, *(field for field, _ in found.violations)]


async def test_empty_requests_are_refused_by_the_field(served: Served) -> None:
    stub = pb_grpc.StorageServiceStub(served.channel())
    assert await missing(stub.GetTable(pb.GetTableRequest())) == ["name"]
    assert await missing(stub.CreateTable(pb.CreateTableRequest())) == ["request_id", "table"]


async def test_nested_and_repeated_fields_are_named_by_path(served: Served) -> None:
    stub = pb_grpc.StorageServiceStub(served.channel())
    table = pb.Table(name="t", schema=types.Schema(fields=[types.Field(name="a"), types.Field()]))
    request = pb.CreateTableRequest(request_id="r", table=table)
    assert await missing(stub.CreateTable(request)) == [
        "table.schema.fields[0].type",
        "table.schema.fields[1].name",
        "table.schema.fields[1].type",
    ]


async def test_a_required_oneof_needs_one(served: Served) -> None:
    stub = pb_grpc.StorageServiceStub(served.channel())
    assert await missing(stub.ReadRows(pb.ReadRowsRequest()).read()) == ["split_token|read"]
    nested = pb.ReadRowsRequest(read=pb.PlanReadRequest())
    assert await missing(stub.ReadRows(nested).read()) == ["read.table"]


async def test_frames_are_checked_and_an_absent_number_is_not_zero(served: Served) -> None:
    call = pb_grpc.StorageServiceStub(served.channel()).AppendRows()
    await call.write(opened("t"))
    assert (await call.read()).WhichOneof("message") == "opened"
    await call.write(pb.AppendRowsRequest(batch=frames_pb2.AppendBatch(offset=0)))
    assert (await call.read()).WhichOneof("message") == "committed"
    await call.write(pb.AppendRowsRequest(batch=frames_pb2.AppendBatch()))
    refused = in_band((await call.read()).error)
    assert (refused.reason, refused.field) == ("FIELD_REQUIRED", "batch.offset")
    await call.done_writing()


@pytest.mark.parametrize("token", ["", "wrong"])
async def test_without_a_right_token_nothing_but_health_answers(served: Served, token: str) -> None:
    channel = served.channel(token=token)
    error = await failure(pb_grpc.StorageServiceStub(channel).GetTable(pb.GetTableRequest()))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert isinstance(reason_of(error), errors.TokenInvalid)
    error = await failure(admin_pb2_grpc.AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest()))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    for service in ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"):
        call = channel.stream_stream(f"/{service}/ServerReflectionInfo")()
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
    channelz = channel.unary_unary("/grpc.channelz.v1.Channelz/GetServers")
    assert (await failure(channelz(b""))).code() is grpc.StatusCode.UNAUTHENTICATED
    health = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert await health(b"") == b"\x08\x01"


async def test_the_caller_is_known_inside(served: Served) -> None:
    for principal in ("local", "guest", "extract"):
        stub = pb_grpc.StorageServiceStub(served.channel(principal))
        assert (await stub.GetTable(pb.GetTableRequest(name="t"))).table.owner == principal


async def test_people_without_a_role_may_not_drain(served: Served) -> None:
    for principal in ("guest", "local"):
        admin = admin_pb2_grpc.AdminServiceStub(served.channel(principal))
        if principal == "guest":
            error = await failure(admin.Drain(admin_pb2.DrainRequest()))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert isinstance(reason_of(error), errors.NotAllowed)
        else:
            assert (await admin.Drain(admin_pb2.DrainRequest())).open_streams == 0


async def test_metadata_may_not_name_another_resource(served: Served) -> None:
    stub = pb_grpc.StorageServiceStub(served.channel())
    ask = pb.GetTableRequest(name="namespaces/n/tables/t")
    await stub.GetTable(ask)
    await stub.GetTable(ask, metadata=(("x-millrace-resource", "namespaces/n/tables/t"),))
    error = await failure(stub.GetTable(ask, metadata=(("x-millrace-resource", "namespaces/n/tables/other"),)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_unknown_enum_values_are_refused(served: Served) -> None:
    call = pb_grpc.StorageServiceStub(served.channel()).ReadRows(pb.ReadRowsRequest(split_token=b"t", encoding=99))
    found = reason_of(await failure(call.read()))
    assert (found.reason, found.field) == ("FIELD_INVALID", "encoding")
    assert "ENCODING_ARROW" in found.hint


async def test_a_request_of_countless_messages_costs_little(served: Served) -> None:
    stub = pb_grpc.StorageServiceStub(served.channel())
    condition = types.Predicate(compare=types.Comparison(column="c", op=types.COMPARE_OP_EQ, value=types.Value(int=1)))
    predicate = types.Predicate(all_of=types.PredicateList(predicates=[condition] * 100_000))
    found = reason_of(await failure(stub.PlanRead(pb.PlanReadRequest(table="t", predicate=predicate))))
    assert (found.reason, found.field.split("[")[0]) == ("FIELD_INVALID", "predicate.all_of.predicates")
