"""A queue that is bounded in bytes: a full one makes its producers wait."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class ByteQueue(Generic[T]):
    """Iterated by one consumer until all producers `finished`; what one of them failed with is raised there, after what came before it.

    An item larger than the limit is taken when the queue is empty."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._open = 0
        self._failure: Exception | None = None
        self._changed = asyncio.Condition()
        self._woken: set[asyncio.Task[None]] = set()

    def producers(self, count: int) -> None:
        """How many times `finished` is to come."""
        self._open = count

    async def put(self, item: T, size: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._items or self._bytes + size <= self._limit)
            self._items.append((item, size))
            self._bytes += size
            self._changed.notify_all()

    def finished(self) -> None:
        self._open -= 1
        self._wake()

    def fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        self._wake()

    def _wake(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._woken.add(task)
        task.add_done_callback(self._woken.discard)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._items) or self._failure is not None or self._open <= 0)
            if not self._items:
                if self._failure is not None:
                    raise self._failure
                raise StopAsyncIteration
            item, size = self._items.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return item
