"""A number that only rises, and those who wait for it. No queue, nothing per waiter: whoever wakes reads for himself."""

from __future__ import annotations

import asyncio


class RisingNumber:
    """Belongs to one event loop."""

    def __init__(self, value: int = 0) -> None:
        self._value = value
        self._changed = asyncio.Event()

    @property
    def value(self) -> int:
        return self._value

    def rise(self, value: int) -> None:
        """A lower value is ignored."""
        if value > self._value:
            self._value = value
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def beyond(self, value: int, *, timeout_s: float) -> bool:
        """True as soon as it is above `value`, False when that took longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._value <= value:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True
