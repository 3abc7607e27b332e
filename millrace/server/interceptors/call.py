"""One RPC on its way through the layers, and the context its servicer sees.

Bytes become messages here, not in gRPC: a request that cannot be parsed is then an error with a reason, and not a bare one.
A read or a write that was cancelled half-way is picked up by the next one: gRPC refuses a second operation while one is pending.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from millrace import errors
from millrace.server.access import Gate
from millrace.server.lifecycle import StreamLife
from millrace.server.methods import Method, rows_in

Proceed = Callable[["Call"], Awaitable[bytes | None]]
Layer = Callable[["Call", Proceed], Awaitable[bytes | None]]


@dataclass(slots=True)
class Tally:
    """What one call moved, for its span and metrics."""

    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    rows_in: int = 0
    rows_out: int = 0
    first_message_at: float = 0.0


@dataclass(slots=True)
class Outcome:
    """How the call ended, as far as known. `end_reason` of streams: end, error, client_gone, aged_out, draining."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str = ""
    message: str = ""
    end_reason: str = "end"


@dataclass(slots=True)
class Call:
    """`started_at`, `deadline`: monotonic seconds; no deadline is None."""

    method: Method
    request_streaming: bool
    response_streaming: bool
    behaviour: Callable[[Any, Any], Any]
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    context: CallContext
    metadata: Mapping[str, str]
    raw_request: bytes | None = None
    request: Any = None
    requests: RequestStream | None = None
    tally: Tally = field(default_factory=Tally)
    outcome: Outcome = field(default_factory=Outcome)
    deadline: float | None = None
    started_at: float = field(default_factory=time.monotonic)
    trace_id: str = ""
    principal: str = ""

    def message(self) -> Any:
        """The request of a unary-request call, decoded once. Raises FieldInvalid."""
        if self.raw_request is not None:
            self.request, self.raw_request = self.decode(self.raw_request), None
        return self.request

    @property
    def is_bidi(self) -> bool:
        return self.request_streaming and self.response_streaming

    @property
    def is_stream(self) -> bool:
        return self.request_streaming or self.response_streaming


def parse(decode: Callable[[bytes], Any], raw: bytes, method: Method) -> Any:
    """Raises FieldInvalid for bytes that are not the method's request."""
    try:
        return decode(raw)
    except (DecodeError, ValueError) as error:
        name = method.request.full_name if method.request is not None else "request"
        raise errors.FieldInvalid(
            f"the {len(raw)} bytes are not a {name}",
            hint="send a message of the contract in protos/ (or ask reflection)",
        ) from error


class RequestStream:
    """The requests of a stream, in order. Reading may be cancelled at any time: no message is lost by it."""

    def __init__(
        self, read: Callable[[], Coroutine[Any, Any, Any]], decode: Callable[[bytes], Any], tally: Tally
    ) -> None:
        self._read, self._decode, self._tally = read, decode, tally
        self._pending: asyncio.Task[Any] | None = None
        self._ended = False
        self.checks: list[Callable[[Any], None]] = []

    def __aiter__(self) -> RequestStream:
        return self

    async def __anext__(self) -> Any:
        raw = await self._next_raw()
        if raw is None:
            raise StopAsyncIteration
        message = self._decode(raw)
        self._tally.rows_in += rows_in(message)
        for check in self.checks:
            check(message)
        return message

    async def _next_raw(self) -> bytes | None:
        if self._ended:
            return None
        if self._pending is None:
            self._pending = _kept(self._read())
        raw = await asyncio.shield(self._pending)
        self._pending = None
        if raw is grpc.aio.EOF:
            self._ended = True
            return None
        self._tally.messages_in += 1
        self._tally.bytes_in += len(raw)
        return bytes(raw)

    async def drain(self, limit_s: float) -> None:
        """Throws away what still comes until the client half-closes, for at most `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                while await self._next_raw() is not None:
                    pass
        except TimeoutError:
            return


class CallContext:
    """What a servicer gets as `context`: gRPC's own, with writes that are counted, serialised and safe to cancel."""

    def __init__(self, grpc_context: Any, encode: Callable[[Any], bytes], tally: Tally, outcome: Outcome) -> None:
        self._grpc, self._encode, self._tally, self._outcome = grpc_context, encode, tally, outcome
        self._unfinished: asyncio.Task[None] | None = None
        self.writing = asyncio.Lock()
        self.life: StreamLife | None = None
        self.ends_at_write = False
        self.told_to_end = False  # a write was refused: the servicer is on its way out by itself
        self.last_write_at = time.monotonic()
        self.gate: Gate | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grpc, name)

    async def write(self, message: Any) -> None:
        """Sends one response; waits while the client is slow. On a server stream that should end it raises instead of sending."""
        if self.gate is not None:
            self.gate.require_open()
        if self.ends_at_write and self.life is not None and self.life.ending:
            self.told_to_end = True
            raise self.life.error()
        await self.send(message)

    async def send(self, message: Any) -> None:
        """As `write`, also when the stream should end: for its last words."""
        payload = self._encode(message)
        async with self.writing:
            await self._finish_last()
            self._unfinished = _kept(self._grpc.write(payload))
            await self._finish_last()
            self._count(message, len(payload))

    async def _finish_last(self) -> None:
        if self._unfinished is None:
            return
        try:
            await asyncio.shield(self._unfinished)
        except Exception as error:
            if self._grpc.cancelled() or self._grpc.done():
                raise asyncio.CancelledError("the client went away") from error
            raise
        finally:
            if self._unfinished.done():
                self._unfinished = None

    async def settled(self) -> None:
        """Waits until the client took the message under way: before that gRPC takes no status either. A client that never does is cut
        off by keepalive or by the server's stop; meanwhile it costs that one message."""
        if self._unfinished is not None:
            await asyncio.wait({self._unfinished})

    def _count(self, message: Any, size: int) -> None:
        now = time.monotonic()
        self.last_write_at = now
        tally = self._tally
        tally.first_message_at = tally.first_message_at or now
        tally.messages_out += 1
        tally.bytes_out += size
        tally.rows_out += rows_in(message)

    def count_rows(self, rows: int) -> None:
        """For messages that were written as bytes: nobody else can see their rows."""
        self._tally.rows_out += rows

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        """For code that is not ours (health, channelz): servicers raise millrace.errors instead."""
        if not self._outcome.reason:
            self._outcome.code, self._outcome.message, self._outcome.end_reason = code, details, "error"
        await self._grpc.abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: Any) -> None:
        await self.abort(status.code, status.details, status.trailing_metadata)


def _kept(operation: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task that may outlive its waiter: its exception is looked at, so that asyncio does not complain."""
    task = asyncio.ensure_future(operation)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
