"""Streams that are closed however their use ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar


class Closable(Protocol):
    def aclose(self) -> Awaitable[object]: ...


S = TypeVar("S", bound=Closable)


@asynccontextmanager
async def closing(stream: S, *, limit_s: float = 5.0) -> AsyncIterator[S]:
    """Closes `stream` however the block ends; neither a second cancellation nor a hung store cuts that short or holds it up."""
    try:
        yield stream
    finally:
        await asyncio.shield(asyncio.wait_for(asyncio.ensure_future(stream.aclose()), limit_s))
