"""The stores of the control half: a new one is one line here. Those on a log can be opened several times: each is a replica."""

from __future__ import annotations

import os
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from svc_storage.adapters.cassandra.entries import CassandraEntries
from svc_storage.adapters.control_log.entries import Entries, MemoryEntries
from svc_storage.adapters.control_log.store import LogControl
from svc_storage.adapters.memory.control import MemoryControl
from svc_storage.adapters.s3.entries import S3Entries
from svc_storage.adapters.sqlite.store import SqliteControl
from svc_storage.ports import ControlStore
from tests.servers import cassandra, weed

Replicas = Callable[[], Awaitable[LogControl]]
"""Opens one more replica on one and the same log."""


async def _memory(folder: Path) -> ControlStore:
    return MemoryControl()


async def _sqlite(folder: Path) -> ControlStore:
    return await SqliteControl.open(folder / "catalog.sqlite")


def _control_log() -> Callable[[], Entries]:
    shared = MemoryEntries()
    return lambda: shared


def _s3() -> Callable[[], Entries]:
    objects = weed.objects(weed.shared_weed()).below("control")
    return lambda: S3Entries(objects)


def _cassandra() -> Callable[[], Entries]:
    session, log = cassandra.shared_session(), uuid.uuid4().hex
    return lambda: CassandraEntries(session, log)


LOGS: Mapping[str, Callable[[], Callable[[], Entries]]] = {
    "control_log": _control_log,
    "s3": _s3,
    "cassandra": _cassandra,
}
"""Each gives an empty log of its own, as a way to open it."""


def _first_replica(name: str) -> Callable[[Path], Awaitable[ControlStore]]:
    async def opened(folder: Path) -> ControlStore:
        return await LogControl.open(LOGS[name]()())

    return opened


CONTROL_STORES: Mapping[str, Callable[[Path], Awaitable[ControlStore]]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    **{name: _first_replica(name) for name in LOGS},
}
_OF_BACKEND = {"memory": ("memory", "control_log"), "local": ("sqlite",), "cassandra3": ("cassandra",)}
_NAMED = os.environ.get("TEST_BACKENDS", "memory,local,s3").split(",")
CHOSEN = [store for name in _NAMED for store in _OF_BACKEND.get(name, (name,)) if store in CONTROL_STORES]
CHOSEN_LOGS = [name for name in CHOSEN if name in LOGS]


class HandClock:
    """A clock that moves when it is told. `ahead_s`: of its wall time, before what is true."""

    def __init__(self, *, ahead_s: float = 0.0) -> None:
        self.seconds, self.ahead_s = 1_000_000.0, ahead_s

    def now_us(self) -> int:
        return int((self.seconds + self.ahead_s) * 1e6)

    def monotonic_s(self) -> float:
        return self.seconds

    def forward(self, seconds: float) -> None:
        self.seconds += seconds
