"""The layers as a blocking client sees them, through pytest-grpc's own fixtures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from millrace.server.reflection import v1_messages
from millrace.storage.v1 import storage_pb2 as pb
from millrace.storage.v1 import storage_pb2_grpc as pb_grpc
from tests.contract.server.toy import Toy, batch, in_band, named, opened, reason_of

GRPCURL = Path(sys.executable).parent / "grpcurl"


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return pb_grpc.add_StorageServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer() -> Toy:
    return Toy()


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type:
    return pb_grpc.StorageServiceStub


def test_unary(grpc_stub: Any) -> None:
    assert grpc_stub.GetTable(pb.GetTableRequest(name="t")).table.owner == "local"
    with pytest.raises(grpc.RpcError) as caught:
        grpc_stub.GetTable(pb.GetTableRequest(name="missing"))
    assert reason_of(caught.value).reason == "TABLE_NOT_FOUND"


def test_server_stream(grpc_stub: Any) -> None:
    assert [message.WhichOneof("message") for message in grpc_stub.ReadRows(named("t"))] == ["batch", "end"]
    with pytest.raises(grpc.RpcError) as caught:
        list(grpc_stub.ReadRows(named("fails")))
    assert reason_of(caught.value).reason == "VERSION_EXPIRED"


def test_a_bidi_stream_whose_client_sends_without_reading_gets_its_error_in_band(grpc_stub: Any) -> None:
    for _ in range(50):
        frames = [opened("fails"), *(batch(offset) for offset in range(100))]
        kinds: list[str] = []
        with pytest.raises(grpc.RpcError) as caught:
            kinds.extend(message.WhichOneof("message") for message in grpc_stub.AppendRows(iter(frames)))
        assert reason_of(caught.value).reason == "OFFSET_GAP"
        assert kinds == ["opened", "committed", "error"]


def test_a_bidi_error_is_the_last_message(grpc_stub: Any) -> None:
    call = grpc_stub.AppendRows(iter([opened("fails at open")]))
    assert in_band(next(call).error).reason == "WRITER_FENCED"


def test_as_someone_else(grpc_create_channel: Any) -> None:
    guest = pb_grpc.StorageServiceStub(grpc_create_channel("guest"))
    assert guest.GetTable(pb.GetTableRequest(name="t")).table.owner == "guest"
    nobody = pb_grpc.StorageServiceStub(grpc_create_channel(token=""))
    with pytest.raises(grpc.RpcError) as caught:
        nobody.GetTable(pb.GetTableRequest(name="t"))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("package", ["v1", "v1alpha"])
def test_reflection_of_both_versions(grpc_channel: Any, package: str) -> None:
    request, response = (
        v1_messages()
        if package == "v1"
        else (reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse)
    )
    ask = grpc_channel.stream_stream(
        f"/grpc.reflection.{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    symbol = "millrace.storage.v1.StorageService"
    listed, described = ask(iter([request(list_services=""), request(file_containing_symbol=symbol)]))
    services = {one.name for one in listed.list_services_response.service}
    assert {symbol, "millrace.admin.v1.AdminService", "grpc.health.v1.Health"} <= services
    assert {f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha")} <= services
    assert described.file_descriptor_response.file_descriptor_proto


@pytest.mark.needs("grpcurl")
def test_grpcurl_reads_and_is_told_what_is_missing(grpc_addr: str) -> None:
    def grpcurl(*arguments: str, token: str = "local-token") -> subprocess.CompletedProcess[str]:
        flags = ("-plaintext", "-max-time", "5", "-H", f"authorization: Bearer {token}")
        return subprocess.run([GRPCURL, *flags, grpc_addr, *arguments], capture_output=True, text=True, check=False)

    storage = "millrace.storage.v1.StorageService"
    assert storage in grpcurl("list").stdout
    missing = grpcurl(f"{storage}/GetTable")
    assert "InvalidArgument" in missing.stderr
    assert "`name` is required" in missing.stderr
    status = json.loads(grpcurl("millrace.admin.v1.AdminService/GetStatus").stdout)
    assert status["state"] == "SERVING_STATE_SERVING"
    assert "Unauthenticated" in grpcurl("list", token="wrong").stderr
