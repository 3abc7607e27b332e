"""The domain of storage, put together over one store. What of it is served, and what runs beside, is said in `__main__.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

from svc_storage.domain.control.catalog import TableRows
from svc_storage.domain.control.expiry import Expiry
from svc_storage.domain.control.leadership import Fleet
from svc_storage.domain.control.leases import Leases
from svc_storage.domain.control.requests import Answers
from svc_storage.domain.control.resources import Resources
from svc_storage.domain.freshness.explain import Freshness
from svc_storage.domain.freshness.works import Pipelines
from svc_storage.domain.maintenance.work import Maintenance
from svc_storage.domain.opened import Opened
from svc_storage.domain.reading.key_tables import KeyTables
from svc_storage.domain.reading.lookup import Lookups
from svc_storage.domain.reading.reads import DirectAccess, Reads
from svc_storage.domain.tables import Tables
from svc_storage.domain.transfer.work import Transfers
from svc_storage.domain.upkeep import Policy, Upkeep
from svc_storage.ports import Archive, Clock, Dependents, Lineage, ReaderMarks, Store


class Users(Dependents, ReaderMarks, Lineage, Protocol):
    """Who uses a table, by the specs that storage keeps for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What the domain needs beside the store. `files`: threads that write, `reading`: threads that read, so that readers never hold up
    a commit. `users`, `pipelines`: made over the resources, whose specs only an adapter can read."""

    clock: Clock
    leases: Leases
    fleet: Fleet
    policy: Policy
    files: Executor
    reading: Executor
    users: Callable[[Resources, Clock], Users]
    pipelines: Callable[[Resources, Clock], Pipelines]
    archive: Archive | None = None
    direct_files: bool = False


class Storage:
    def __init__(self, store: Store, around: Around) -> None:
        control, backend, clock = store.control, store.backend, around.clock
        self._control = control
        self.clock, self.leases, self.reading = clock, around.leases, around.reading
        self.resources, self.answers = Resources(control, clock), Answers(control, clock)
        catalog, users = TableRows(control, clock), around.users(self.resources, clock)
        self.opened = Opened(catalog, backend, around.leases, clock, around.fleet, key_tables=store.key_tables)
        self.tables = Tables(catalog, backend, self.opened, users, clock)
        direct = DirectAccess(around.direct_files, store.id)
        self.reads = Reads(self.opened, control, clock, around.reading, direct)
        self.lookups = Lookups(self.opened, around.reading)
        transfers = Transfers(self.opened, catalog, backend, clock, around.files, around.archive)
        self.maintenance = Maintenance(self.opened, catalog, users, users, clock, around.policy, transfers)
        self.freshness = Freshness(self.opened, around.pipelines(self.resources, clock), around.leases, clock)
        self.upkeep = Upkeep(self.opened, catalog, backend, users, clock, around.policy)
        self._key_tables, self._expiry = KeyTables(self.opened), Expiry(self.resources, clock)

    def background(self) -> Mapping[str, Callable[[], Coroutine[Any, Any, None]]]:
        """What goes on as long as the process serves, by name."""
        return {
            "upkeep": self.upkeep.run,
            "key tables": self._key_tables.run,
            "expiry": self._expiry.run,
            "catalog": self._watch,
        }

    async def _watch(self) -> None:
        """Leases of other replicas are seen to be renewed, or not, also while nobody asks."""
        with self._control.watched():
            await asyncio.Event().wait()
