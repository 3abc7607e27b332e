"""The stores of the control half: a new one is one line here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from svc_storage.adapters.control_log.entries import MemoryEntries
from svc_storage.adapters.control_log.store import LogControl
from svc_storage.adapters.memory.control import MemoryControl
from svc_storage.adapters.sqlite.store import SqliteControl
from svc_storage.ports import ControlStore


async def _memory(folder: Path) -> ControlStore:
    return MemoryControl()


async def _sqlite(folder: Path) -> ControlStore:
    return await SqliteControl.open(folder / "catalog.sqlite")


async def _control_log(folder: Path) -> ControlStore:
    return await LogControl.open(MemoryEntries())


CONTROL_STORES: Mapping[str, Callable[[Path], Awaitable[ControlStore]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "control_log": _control_log,
}


class HandClock:
    """A clock that moves when it is told."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def now_us(self) -> int:
        return int(self.seconds * 1e6)

    def monotonic_s(self) -> float:
        return self.seconds

    def forward(self, seconds: float) -> None:
        self.seconds += seconds
