"""What the catalog holds, in memory: tables, resources, leases, answers, scans. Changed only by the `put_…`, `remove_…` and
`append_…` below; the same calls in the same order make the same state on every replica, so they are what the log holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import islice, takewhile
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from svc_storage.adapters.control_log.maps import Journal, Map, OrderedMap
from svc_storage.ports import Answer, ControlNews, LeaseRow, Resource, ResourceEvent, TableRow

_REVISION, _HORIZON = "revision", "horizon"
_PURGE_AT_ONCE = 200
P = ParamSpec("P")
K = TypeVar("K")
Kept = tuple[Answer, int]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call that changed a state."""

    name: str
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...] = ()


def _recorded(change: Callable[Concatenate[State, P], None]) -> Callable[Concatenate[State, P], None]:
    @wraps(change)
    def recording(self: State, *args: P.args, **named: P.kwargs) -> None:
        change(self, *args, **named)
        self.done.append(Operation(change.__name__, args, tuple(sorted(named.items()))))

    return cast("Callable[Concatenate[State, P], None]", recording)


class State:
    """A `ControlTransaction` too. `done` holds the changes since `keep`; `back_to` undoes those after a mark."""

    def __init__(self) -> None:
        self.done: list[Operation] = []
        self._journal = journal = Journal()
        self._counters: Map[str, int] = Map(journal)
        self._tables: OrderedMap[str, TableRow] = OrderedMap(journal)
        self._names: Map[str, str] = Map(journal)  # of tables, by uid
        self._resources: OrderedMap[tuple[str, str], Resource] = OrderedMap(journal)
        self._changes: OrderedMap[int, tuple[bool, Resource]] = OrderedMap(journal)
        self._deletions: OrderedMap[int, Resource] = OrderedMap(journal)
        self._events: Map[str, tuple[ResourceEvent, ...]] = Map(journal)
        self._leases: OrderedMap[str, LeaseRow] = OrderedMap(journal)
        self._answers: Map[tuple[str, str], Kept] = Map(journal)
        self._answer_times: OrderedMap[tuple[int, str, str], bool] = OrderedMap(journal)
        self._scans: Map[bytes, tuple[bytes, int]] = Map(journal)
        self._scan_times: OrderedMap[tuple[int, bytes], bool] = OrderedMap(journal)

    # -- changes
    def mark(self) -> tuple[int, int]:
        return self._journal.mark(), len(self.done)

    def back_to(self, mark: tuple[int, int]) -> None:
        self._journal.back_to(mark[0])
        del self.done[mark[1] :]

    def keep(self) -> None:
        """What was done stays."""
        self._journal.keep()
        self.done = []

    def news(self) -> ControlNews:
        """What was done, as others hear it."""
        changes, leases = [], []
        for operation in self.done:
            if operation.name in ("put_resource", "remove_resource"):
                changes.append((operation.name == "put_resource", operation.arguments[0]))
            elif operation.name == "put_lease":
                leases.append(operation.arguments[0])
        return ControlNews(self.revision(), tuple(changes), tuple(leases))

    def do(self, operation: Operation) -> None:
        """What another replica did. Raises KeyError for an operation that this release does not know."""
        OPERATIONS[operation.name](self, *operation.arguments, **dict(operation.named))

    # -- tables
    def table(self, name: str) -> TableRow | None:
        return self._tables.get(name)

    def table_by_uid(self, uid: str) -> TableRow | None:
        name = self._names.get(uid)
        return None if name is None else self._tables.get(name)

    def tables(self, namespace: str, *, after_name: str, limit: int) -> Sequence[TableRow]:
        rows = (row for _, row in self._tables.after(after_name) if namespace in ("", row.name.split("/")[1]))
        return list(islice(rows, limit))

    @_recorded
    def put_table(self, row: TableRow) -> None:
        self._drop_table(row.name)
        self._tables.put(row.name, row)
        self._names.put(row.uid, row.name)

    @_recorded
    def remove_table(self, name: str) -> None:
        self._drop_table(name)

    def _drop_table(self, name: str) -> None:
        if (old := self._tables.get(name)) is not None:
            self._tables.remove(name)
            self._names.remove(old.uid)

    # -- resources
    def revision(self) -> int:
        return self._counters.get(_REVISION) or 0

    def horizon(self) -> int:
        return self._counters.get(_HORIZON) or 0

    def resource(self, name: str) -> Resource | None:
        return self._resources.get(_place(name))

    def resources(self, collection: str, namespace: str, *, after_name: str, limit: int) -> Sequence[Resource]:
        return list(islice(self._of(collection, namespace, after_name), limit))

    def _of(self, collection: str, namespace: str, after_name: str) -> Iterator[Resource]:
        for (found, _), resource in self._resources.after((collection, after_name)):
            if found != collection:
                return
            if namespace in ("", resource.namespace):
                yield resource

    def changed_after(self, revision: int, limit: int) -> Sequence[tuple[bool, Resource]]:
        return [change for _, change in islice(self._changes.after(revision), limit)]

    @_recorded
    def put_resource(self, resource: Resource) -> None:
        self._forget_change(resource.name)
        self._resources.put(_place(resource.name), resource)
        self._changed(True, resource)

    @_recorded
    def remove_resource(self, last: Resource, *, keep: int) -> None:
        self._forget_change(last.name)
        self._resources.remove(_place(last.name))
        self._events.remove(last.uid)
        self._changed(False, last)
        self._deletions.put(last.revision, last)
        while len(self._deletions) > keep and (oldest := self._deletions.first()) is not None:
            self._deletions.remove(oldest)
            self._changes.remove(oldest)
            self._counters.put(_HORIZON, oldest)

    def _forget_change(self, name: str) -> None:
        if (old := self._resources.get(_place(name))) is not None:
            self._changes.remove(old.revision)

    def _changed(self, there: bool, resource: Resource) -> None:
        self._changes.put(resource.revision, (there, resource))
        self._counters.put(_REVISION, resource.revision)

    @_recorded
    def append_events(self, uid: str, events: Sequence[ResourceEvent], *, keep: int) -> None:
        self._events.put(uid, (*(self._events.get(uid) or ()), *events)[-keep:])

    def events(self, uid: str, *, after: int, limit: int) -> Sequence[ResourceEvent]:
        kept = self._events.get(uid) or ()
        first = max(0, after + 1 - kept[0].sequence) if kept else 0  # sequences have no gaps
        return kept[first : first + limit]

    # -- leases
    def lease(self, name: str) -> LeaseRow | None:
        return self._leases.get(name)

    @_recorded
    def put_lease(self, lease: LeaseRow) -> None:
        self._leases.put(lease.name, lease)

    def leases(self) -> Sequence[LeaseRow]:
        return [lease for _, lease in self._leases.pairs()]

    # -- what is kept for a while
    def answer(self, principal: str, request_id: str, *, since_us: int) -> Answer | None:
        answer, made_us = self._answers.get((principal, request_id)) or (None, 0)
        return answer if made_us >= since_us else None

    @_recorded
    def put_answer(self, principal: str, request_id: str, answer: Answer, *, now_us: int, since_us: int) -> None:
        for made_us, owner, old in _older(self._answer_times, (since_us, "", "")):
            self._answer_times.remove((made_us, owner, old))
            self._answers.remove((owner, old))
        if before := self._answers.get((principal, request_id)):
            self._answer_times.remove((before[1], principal, request_id))
        self._answers.put((principal, request_id), (answer, now_us))
        self._answer_times.put((now_us, principal, request_id), True)

    def scan(self, fingerprint: bytes) -> bytes | None:
        kept = self._scans.get(fingerprint)
        return None if kept is None else kept[0]

    @_recorded
    def put_scan(self, fingerprint: bytes, scan: bytes, *, now_us: int, since_us: int) -> None:
        for made_us, old in _older(self._scan_times, (since_us, b"")):
            self._scan_times.remove((made_us, old))
            self._scans.remove(old)
        if before := self._scans.get(fingerprint):
            self._scan_times.remove((before[1], fingerprint))
        self._scans.put(fingerprint, (scan, now_us))
        self._scan_times.put((now_us, fingerprint), True)

    # -- whole
    def freeze(self) -> Frozen:
        """The state of now, to be read on another thread: the values never change, so only the maps are copied."""
        return Frozen(
            (self.revision(), self.horizon()),
            [row for _, row in self._tables.pairs()],
            [resource for _, resource in self._resources.pairs()],
            [resource for _, resource in self._deletions.pairs()],
            self._events.copy(),
            self.leases(),
            self._answers.copy(),
            self._scans.copy(),
        )


class Frozen:
    """A state at one moment: immutable values in maps of its own."""

    __slots__ = ("answers", "counters", "deletions", "events", "leases", "resources", "scans", "tables")

    def __init__(
        self,
        counters: tuple[int, int],
        tables: Sequence[TableRow],
        resources: Sequence[Resource],
        deletions: Sequence[Resource],
        events: dict[str, tuple[ResourceEvent, ...]],
        leases: Sequence[LeaseRow],
        answers: dict[tuple[str, str], Kept],
        scans: dict[bytes, tuple[bytes, int]],
    ) -> None:
        self.counters, self.tables, self.resources, self.deletions = counters, tables, resources, deletions
        self.events, self.leases, self.answers, self.scans = events, leases, answers, scans

    def thaw(self) -> State:
        """A state that goes on from here."""
        state = State()
        for table in self.tables:
            state.put_table(table)
        for resource in self.resources:
            state.put_resource(resource)
        for gone in self.deletions:
            state._changed(False, gone)
            state._deletions.put(gone.revision, gone)
        for uid, events in self.events.items():
            state._events.put(uid, tuple(events))
        for lease in self.leases:
            state.put_lease(lease)
        for (principal, request_id), (answer, made_us) in self.answers.items():
            state.put_answer(principal, request_id, answer, now_us=made_us, since_us=0)
        for fingerprint, (scan, made_us) in self.scans.items():
            state.put_scan(fingerprint, scan, now_us=made_us, since_us=0)
        for name, value in zip((_REVISION, _HORIZON), self.counters, strict=True):
            state._counters.put(name, value)
        state.keep()
        return state


def _place(name: str) -> tuple[str, str]:
    return name.split("/", 3)[2], name


def _older(times: OrderedMap[K, bool], limit: Any) -> list[K]:
    """The oldest below `limit`; a few at a time, so that no single request pays for a day of others."""
    return list(takewhile(lambda key: key < limit, (key for key, _ in islice(times.pairs(), _PURGE_AT_ONCE))))


OPERATIONS: Mapping[str, Callable[..., None]] = MappingProxyType(
    {
        change.__name__: change
        for change in (
            State.put_table,
            State.remove_table,
            State.put_resource,
            State.remove_resource,
            State.append_events,
            State.put_lease,
            State.put_answer,
            State.put_scan,
        )
    }
)
