"""`ControlStore` in memory: the same rules as any other, gone with the process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from svc_storage.adapters.control_log.state import State
from svc_storage.ports import ControlNews, ControlTransaction

T = TypeVar("T")


class MemoryControl:
    """The state of one replica, without a log."""

    def __init__(self) -> None:
        self._state = State()
        self._listeners: list[Callable[[ControlNews], None]] = []

    async def run(self, work: Callable[[ControlTransaction], T]) -> T:
        try:
            result = work(self._state)
        except BaseException:
            self._state.back_to((0, 0))
            raise
        news = self._state.news()
        self._state.keep()
        for listener in self._listeners:
            listener(news)
        return result

    def tell(self, listener: Callable[[ControlNews], None]) -> None:
        self._listeners.append(listener)

    def watched(self) -> AbstractContextManager[None]:
        return nullcontext()

    async def close(self) -> None:
        return None
