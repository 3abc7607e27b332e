"""pytest-grpc for our servers: its fixtures, with a real aio server behind every layer of `millrace.server`.

A suite overrides `grpc_servicer` (the servicer, or an async function that makes it in the server's event loop), `grpc_add_to_server` and
`grpc_stub_cls`, as pytest-grpc has it; `grpc_stub` then calls as `local`, an admin. `grpc_create_channel("guest")` calls as someone else.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import grpc
import pytest

from millrace.server.runtime import Composition, ServiceSpec
from millrace.server.testing import Served, running

START_LIMIT_S = 20.0


class LoopThread:
    """An event loop in a thread of its own; `call` runs a coroutine there and waits."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grpc-server", daemon=True)
        self._thread.start()

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_LIMIT_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_LIMIT_S)
        self._loop.close()


@pytest.fixture(scope="module")
def grpc_server(grpc_add_to_server: Callable[..., None], grpc_servicer: Any) -> Iterator[Served]:
    async def compose(_settings: object, _runtime: object) -> Composition:
        servicer = await grpc_servicer() if inspect.iscoroutinefunction(grpc_servicer) else grpc_servicer
        return Composition(servicers=[(grpc_add_to_server, servicer)])

    spec = ServiceSpec(name="storage", settings=lambda _env: None, compose=compose)
    thread, stack = LoopThread(), AsyncExitStack()
    try:
        yield thread.call(stack.enter_async_context(running(spec)))
    finally:
        thread.call(stack.aclose())
        thread.close()


@pytest.fixture(scope="module")
def grpc_addr(grpc_server: Served) -> str:
    return grpc_server.target


@pytest.fixture(scope="module")
def grpc_create_channel(grpc_addr: str) -> Iterator[Callable[..., grpc.Channel]]:
    """Channels of sync gRPC that call as a principal of `millrace.server.testing`, or with a token ("" for none)."""
    with ExitStack() as stack:

        def create(principal: str = "local", *, token: str | None = None) -> grpc.Channel:
            value = f"{principal}-token" if token is None else token
            channel = stack.enter_context(grpc.insecure_channel(grpc_addr))
            return grpc.intercept_channel(channel, _WithToken(value)) if value else channel

        yield create


@pytest.fixture(scope="module")
def grpc_channel(grpc_create_channel: Callable[..., grpc.Channel]) -> grpc.Channel:
    return grpc_create_channel()


class _WithToken(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor
):
    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    def _add(self, proceed: Any, details: Any, request: Any) -> Any:
        return proceed(_Details(details, (*(details.metadata or ()), self._header)), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _add


class _Details(grpc.ClientCallDetails):
    def __init__(self, before: Any, metadata: Any) -> None:
        self.method, self.timeout, self.metadata = before.method, before.timeout, metadata
        self.credentials, self.wait_for_ready = before.credentials, before.wait_for_ready
        self.compression = before.compression
