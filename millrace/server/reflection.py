"""Reflection v1alpha, and v1 as an alias of it: grpcio-reflection 1.85 has only the first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_channelz.v1 import channelz
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1 = "grpc.reflection.v1.ServerReflection"


def add_reflection(server: Any, services: Sequence[str]) -> None:
    """`services`: full names, as a client lists them."""
    names = (*services, reflection.SERVICE_NAME, V1)
    servicer = reflection.aio.ReflectionServicer(names)
    server.add_generic_rpc_handlers(tuple(_handler(name, servicer) for name in (reflection.SERVICE_NAME, V1)))


def _handler(service: str, servicer: Any) -> Any:
    request, response = _messages(service)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=request.FromString,
        response_serializer=response.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": method})


def _messages(service: str) -> tuple[Any, Any]:
    """The wire forms of both packages are the same, so the classes of v1alpha serve both."""
    if service == V1:
        _register_v1()
    return reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse


@cache
def _register_v1() -> None:
    """Puts grpc/reflection/v1/reflection.proto into the default pool, made of v1alpha's."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName("grpc/reflection/v1/reflection.proto")
        return
    except KeyError:
        pass
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", "grpc.reflection.v1"
    for message in file.message_type:
        for field in message.field:
            if field.type_name:  # setting an empty one would make it "set"
                field.type_name = field.type_name.replace("v1alpha", "v1")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace("v1alpha", "v1")
            method.output_type = method.output_type.replace("v1alpha", "v1")
    pool.AddSerializedFile(file.SerializeToString())


def v1_messages() -> tuple[Any, Any]:
    """Request and response classes of v1, for a client."""
    _register_v1()
    pool = descriptor_pool.Default()
    return tuple(  # type: ignore[return-value]
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"grpc.reflection.v1.ServerReflection{kind}"))
        for kind in ("Request", "Response")
    )


def add_channelz(server: Any) -> None:
    channelz.add_channelz_servicer(server)
