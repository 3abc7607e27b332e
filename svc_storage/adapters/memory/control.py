"""`ControlStore` in memory: the same rules as any other, gone with the process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from svc_storage.ports import (
    Answer,
    ControlTransaction,
    LeaseRow,
    Resource,
    ResourceEvent,
    TableRow,
)

T = TypeVar("T")


@dataclass(slots=True)
class _State:
    revision: int = 0
    horizon: int = 0
    tables: dict[str, TableRow] = field(default_factory=dict)
    resources: dict[str, Resource] = field(default_factory=dict)
    tombstones: tuple[Resource, ...] = ()
    events: dict[str, tuple[ResourceEvent, ...]] = field(default_factory=dict)
    leases: dict[str, LeaseRow] = field(default_factory=dict)
    answers: dict[tuple[str, str], tuple[Answer, int]] = field(default_factory=dict)
    scans: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)

    def copy(self) -> _State:
        return _State(
            self.revision,
            self.horizon,
            dict(self.tables),
            dict(self.resources),
            self.tombstones,
            dict(self.events),
            dict(self.leases),
            dict(self.answers),
            dict(self.scans),
        )


class MemoryControl:
    """Works on a copy and keeps it only when the work succeeds."""

    def __init__(self) -> None:
        self._state = _State()

    async def run(self, work: Callable[[ControlTransaction], T]) -> T:
        copy = self._state.copy()
        result = work(_Transaction(copy))
        self._state = copy
        return result

    async def close(self) -> None:
        return None


class _Transaction:
    def __init__(self, state: _State) -> None:
        self._state = state

    def table(self, name: str) -> TableRow | None:
        return self._state.tables.get(name)

    def table_by_uid(self, uid: str) -> TableRow | None:
        return next((row for row in self._state.tables.values() if row.uid == uid), None)

    def tables(self, namespace: str, *, after_name: str, limit: int) -> Sequence[TableRow]:
        rows = (row for name, row in sorted(self._state.tables.items()) if name > after_name)
        return list(islice((row for row in rows if namespace in ("", row.name.split("/")[1])), limit))

    def put_table(self, row: TableRow) -> None:
        self._state.tables[row.name] = row

    def remove_table(self, name: str) -> None:
        self._state.tables.pop(name, None)

    def revision(self) -> int:
        return self._state.revision

    def horizon(self) -> int:
        return self._state.horizon

    def resource(self, name: str) -> Resource | None:
        return self._state.resources.get(name)

    def resources(self, collection: str, namespace: str, *, after_name: str, limit: int) -> Sequence[Resource]:
        found = (
            r for name, r in sorted(self._state.resources.items()) if name > after_name and r.collection == collection
        )
        return list(islice((r for r in found if namespace in ("", r.namespace)), limit))

    def changed_after(self, revision: int, limit: int) -> Sequence[tuple[bool, Resource]]:
        there = [(True, r) for r in self._state.resources.values() if r.revision > revision]
        gone = [(False, r) for r in self._state.tombstones if r.revision > revision]
        return sorted(there + gone, key=lambda change: change[1].revision)[:limit]

    def put_resource(self, resource: Resource) -> None:
        self._state.resources[resource.name] = resource
        self._state.revision = resource.revision

    def remove_resource(self, last: Resource, *, keep: int) -> None:
        del self._state.resources[last.name]
        self._state.events.pop(last.uid, None)
        known = (*self._state.tombstones, last)
        self._state.tombstones, self._state.revision = known[-keep:], last.revision
        if len(known) > keep:
            self._state.horizon = known[-keep - 1].revision

    def append_events(self, uid: str, events: Sequence[ResourceEvent], *, keep: int) -> None:
        self._state.events[uid] = (*self._state.events.get(uid, ()), *events)[-keep:]

    def events(self, uid: str, *, after: int, limit: int) -> Sequence[ResourceEvent]:
        return [event for event in self._state.events.get(uid, ()) if event.sequence > after][:limit]

    def lease(self, name: str) -> LeaseRow | None:
        return self._state.leases.get(name)

    def put_lease(self, lease: LeaseRow) -> None:
        self._state.leases[lease.name] = lease

    def leases(self) -> Sequence[LeaseRow]:
        return list(self._state.leases.values())

    def answer(self, principal: str, request_id: str, *, since_us: int) -> Answer | None:
        answer, made_us = self._state.answers.get((principal, request_id), (None, 0))
        return answer if made_us >= since_us else None

    def put_answer(self, principal: str, request_id: str, answer: Answer, *, now_us: int, since_us: int) -> None:
        for old in [key for key, (_, made_us) in self._state.answers.items() if made_us < since_us]:
            del self._state.answers[old]
        self._state.answers[(principal, request_id)] = (answer, now_us)

    def scan(self, fingerprint: bytes) -> bytes | None:
        return self._state.scans.get(fingerprint, (None, 0))[0]

    def put_scan(self, fingerprint: bytes, scan: bytes, *, now_us: int, since_us: int) -> None:
        for old in [key for key, (_, made_us) in self._state.scans.items() if made_us < since_us]:
            del self._state.scans[old]
        self._state.scans[fingerprint] = (scan, now_us)
