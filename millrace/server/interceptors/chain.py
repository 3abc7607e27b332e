"""Wraps every handler of the server in the layers, whatever its kind and however it is written.

Coroutine and async-generator handlers of all four kinds go through the same chain; gRPC sees raw bytes on both sides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import grpc

from millrace import errors
from millrace.server.interceptors.call import Call, CallContext, Layer, Outcome, Proceed, RequestStream, Tally, parse
from millrace.server.methods import method

Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


class Chain(grpc.aio.ServerInterceptor):
    """The one interceptor of a server; `layers` outermost first."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._proceed = _nest(layers)

    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(handler_call_details)
        return None if handler is None else self._wrap(handler, handler_call_details.method)

    def _wrap(self, handler: Any, full_name: str) -> Any:
        async def handle(request: Any, grpc_context: Any) -> bytes | None:
            return await self._proceed(_call_of(handler, full_name, request, grpc_context))

        kinds = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        make: Any = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
        return make(handle, request_deserializer=None, response_serializer=None)


def _call_of(handler: Any, full_name: str, request: Any, grpc_context: Any) -> Call:
    described = method(full_name)
    tally, outcome = Tally(), Outcome()
    deserialize, serialize = handler.request_deserializer, handler.response_serializer

    def decode(raw: bytes) -> Any:
        return parse(deserialize, raw, described) if deserialize else raw

    call = Call(
        method=described,
        request_streaming=bool(handler.request_streaming),
        response_streaming=bool(handler.response_streaming),
        behaviour=handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream,
        decode=decode,
        encode=serialize or bytes,
        context=CallContext(grpc_context, serialize or bytes, tally, outcome),
        metadata={key: value for key, value in grpc_context.invocation_metadata() or () if isinstance(value, str)},
        tally=tally,
        outcome=outcome,
    )
    if call.request_streaming:
        call.requests = RequestStream(grpc_context.read, decode, tally)
    else:
        call.raw_request = request
        tally.messages_in, tally.bytes_in = 1, len(request)
    return call


def _nest(layers: Sequence[Layer]) -> Proceed:
    proceed: Proceed = _serve
    for layer in reversed(layers):
        proceed = _around(layer, proceed)
    return proceed


def _around(layer: Layer, inner: Proceed) -> Proceed:
    async def proceed(call: Call) -> bytes | None:
        return await layer(call, inner)

    return proceed


async def _serve(call: Call) -> bytes | None:
    """Runs the servicer's method; the encoded answer of a unary one."""
    result = call.behaviour(call.requests if call.request_streaming else call.request, call.context)
    if hasattr(result, "__aiter__"):
        async with aclosing(result) as responses:
            async for response in responses:
                await call.context.write(response)
        return None
    response = await result
    if call.response_streaming:
        return None
    if response is None:
        raise errors.Unexpected(f"{call.method.name} answered nothing")
    if call.context.gate is not None:
        call.context.gate.require_open()
    payload = call.encode(response)
    call.tally.messages_out, call.tally.bytes_out = 1, len(payload)
    return payload
