"""`ControlTransaction` as SQL. Every statement of the catalog stands here."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from svc_storage.ports import Answer, LeaseRow, Packed, Resource, ResourceEvent, TableRow

_TABLE = "name, uid, etag, created_us, updated_us, owner, body"
_RESOURCE = (
    "name, uid, revision, generation, spec_type, spec, status_type, status, created_us, updated_us, owner, last_event"
)
_PURGE_AT_ONCE = 200


class Rows:
    """One transaction that somebody else begins and ends."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection.execute
        self._many = connection.executemany
        self.changes: list[tuple[bool, Resource]] = []
        self.leases_put: list[LeaseRow] = []

    # -- tables
    def table(self, name: str) -> TableRow | None:
        return _table(self._sql(f"SELECT {_TABLE} FROM tables WHERE name = ?", (name,)).fetchone())

    def table_by_uid(self, uid: str) -> TableRow | None:
        return _table(self._sql(f"SELECT {_TABLE} FROM tables WHERE uid = ?", (uid,)).fetchone())

    def tables(self, namespace: str, *, after_name: str, limit: int) -> Sequence[TableRow]:
        rows = self._sql(
            f"SELECT {_TABLE} FROM tables WHERE name > ? AND (? = '' OR namespace = ?) ORDER BY name LIMIT ?",
            (after_name, namespace, namespace, limit),
        )
        return [row for row in map(_table, rows) if row is not None]

    def put_table(self, row: TableRow) -> None:
        self._sql(
            "INSERT OR REPLACE INTO tables (namespace, name, uid, etag, created_us, updated_us, owner, body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (row.name.split("/")[1], row.name, row.uid, row.etag, row.created_us, row.updated_us, row.owner, row.body),
        )

    def remove_table(self, name: str) -> None:
        self._sql("DELETE FROM tables WHERE name = ?", (name,))

    # -- resources
    def revision(self) -> int:
        return self._counter("revision")

    def horizon(self) -> int:
        return self._counter("horizon")

    def resource(self, name: str) -> Resource | None:
        row = self._sql(f"SELECT {_RESOURCE} FROM resources WHERE name = ?", (name,)).fetchone()
        return None if row is None else _resource(row)

    def resources(self, collection: str, namespace: str, *, after_name: str, limit: int) -> Sequence[Resource]:
        rows = self._sql(
            f"SELECT {_RESOURCE} FROM resources WHERE collection = ? AND name > ? AND (? = '' OR namespace = ?)"
            " ORDER BY name LIMIT ?",
            (collection, after_name, namespace, namespace, limit),
        )
        return [_resource(row) for row in rows]

    def changed_after(self, revision: int, limit: int) -> Sequence[tuple[bool, Resource]]:
        rows = self._sql(
            f"SELECT 1 AS there, {_RESOURCE} FROM resources WHERE revision > ?"
            f" UNION ALL SELECT 0, {_RESOURCE} FROM tombstones WHERE revision > ? ORDER BY revision LIMIT ?",
            (revision, revision, limit),
        )
        return [(bool(row[0]), _resource(row[1:])) for row in rows]

    def put_resource(self, resource: Resource) -> None:
        self._insert("resources", resource)
        self.changes.append((True, resource))
        self._set_counter("revision", resource.revision)

    def remove_resource(self, last: Resource, *, keep: int) -> None:
        self._sql("DELETE FROM resources WHERE name = ?", (last.name,))
        self._sql("DELETE FROM events WHERE uid = ?", (last.uid,))
        self._insert("tombstones", last)
        self.changes.append((False, last))
        self._set_counter("revision", last.revision)
        old = self._sql("SELECT revision FROM tombstones ORDER BY revision DESC LIMIT 1 OFFSET ?", (keep,)).fetchone()
        if old is not None:
            self._sql("DELETE FROM tombstones WHERE revision <= ?", old)
            self._set_counter("horizon", old[0])

    def append_events(self, uid: str, events: Sequence[ResourceEvent], *, keep: int) -> None:
        self._many(
            "INSERT INTO events (uid, sequence, time_us, type, body) VALUES (?, ?, ?, ?, ?)",
            [(uid, e.sequence, e.time_us, e.event.type_url, e.event.value) for e in events],
        )
        self._sql("DELETE FROM events WHERE uid = ? AND sequence <= ?", (uid, events[-1].sequence - keep))

    def events(self, uid: str, *, after: int, limit: int) -> Sequence[ResourceEvent]:
        rows = self._sql(
            "SELECT sequence, time_us, type, body FROM events WHERE uid = ? AND sequence > ? ORDER BY sequence LIMIT ?",
            (uid, after, limit),
        )
        return [ResourceEvent(sequence, time_us, Packed(kind, body)) for sequence, time_us, kind, body in rows]

    # -- leases
    def lease(self, name: str) -> LeaseRow | None:
        row = self._sql(
            "SELECT name, holder, epoch, renewals, ttl_ms, floor FROM leases WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else LeaseRow(*row)

    def put_lease(self, lease: LeaseRow) -> None:
        self.leases_put.append(lease)
        self._sql(
            "INSERT OR REPLACE INTO leases (name, holder, epoch, renewals, ttl_ms, floor) VALUES (?, ?, ?, ?, ?, ?)",
            (lease.name, lease.holder, lease.epoch, lease.renewals, lease.ttl_ms, lease.floor),
        )

    def leases(self) -> Sequence[LeaseRow]:
        return [LeaseRow(*row) for row in self._sql("SELECT name, holder, epoch, renewals, ttl_ms, floor FROM leases")]

    # -- what is kept for a while
    def answer(self, principal: str, request_id: str, *, since_us: int) -> Answer | None:
        row = self._sql(
            "SELECT fingerprint, body FROM answers WHERE principal = ? AND request_id = ? AND made_us >= ?",
            (principal, request_id, since_us),
        ).fetchone()
        return None if row is None else Answer(*row)

    def put_answer(self, principal: str, request_id: str, answer: Answer, *, now_us: int, since_us: int) -> None:
        self._purge("answers", since_us)
        self._sql(
            "INSERT OR REPLACE INTO answers (principal, request_id, fingerprint, body, made_us) VALUES (?, ?, ?, ?, ?)",
            (principal, request_id, answer.fingerprint, answer.body, now_us),
        )

    def scan(self, fingerprint: bytes) -> bytes | None:
        row = self._sql("SELECT body FROM scans WHERE fingerprint = ?", (fingerprint,)).fetchone()
        return None if row is None else bytes(row[0])

    def put_scan(self, fingerprint: bytes, scan: bytes, *, now_us: int, since_us: int) -> None:
        self._purge("scans", since_us)
        self._sql(
            "INSERT OR REPLACE INTO scans (fingerprint, body, made_us) VALUES (?, ?, ?)", (fingerprint, scan, now_us)
        )

    def _purge(self, table: str, since_us: int) -> None:
        # A few at a time, so that no single request pays for a day of others.
        self._sql(
            f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE made_us < ? LIMIT ?)",
            (since_us, _PURGE_AT_ONCE),
        )

    def _counter(self, name: str) -> int:
        (value,) = self._sql("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
        return int(value)

    def _set_counter(self, name: str, value: int) -> None:
        self._sql("UPDATE counters SET value = ? WHERE name = ?", (value, name))

    def _insert(self, table: str, resource: Resource) -> None:
        spec, status = resource.spec, resource.status
        self._sql(
            f"INSERT OR REPLACE INTO {table} (namespace, collection, {_RESOURCE}) VALUES ({', '.join('?' * 14)})",
            (
                resource.namespace,
                resource.collection,
                resource.name,
                resource.uid,
                resource.revision,
                resource.generation,
                *((spec.type_url, spec.value) if spec else (None, None)),
                *((status.type_url, status.value) if status else (None, None)),
                resource.created_us,
                resource.updated_us,
                resource.owner,
                resource.last_event,
            ),
        )


def _table(row: Any) -> TableRow | None:
    if row is None:
        return None
    name, uid, etag, created_us, updated_us, owner, body = row
    return TableRow(name=name, uid=uid, etag=etag, created_us=created_us, updated_us=updated_us, owner=owner, body=body)


def _packed(kind: str | None, body: bytes | None) -> Packed | None:
    return None if kind is None else Packed(kind, bytes(body or b""))


def _resource(row: Any) -> Resource:
    name, uid, revision, generation, spec_type, spec, status_type, status, created_us, updated_us, owner, last = row
    return Resource(
        name=name,
        uid=uid,
        revision=revision,
        generation=generation,
        spec=_packed(spec_type, spec),
        status=_packed(status_type, status),
        created_us=created_us,
        updated_us=updated_us,
        owner=owner,
        last_event=last,
    )
