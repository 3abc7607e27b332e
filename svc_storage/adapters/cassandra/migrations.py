"""The keyspace's form: numbered steps in `cql/`, each applied once, by one process at a time.

The `meta` table says how far a keyspace is, whose it is, and who is changing it now. It is written by lightweight transactions only. Its
table id follows from the keyspace's name, so two processes that make it at the same moment make the same table.
"""

from __future__ import annotations

import random
import re
import time
import uuid
from collections.abc import Callable, Sequence
from importlib import resources

from millrace import errors
from svc_storage.adapters.cassandra.session import Row, Session

LOCK_S = 60
"""A process that died while it changed the keyspace holds others up for so long."""
WAIT_S = 180.0
THERE_S = 20.0
_IDS = uuid.UUID("6d696c6c-7261-4365-8a00-6b6579737061")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_GET = "SELECT value FROM meta WHERE key = ?"
_PUT_FIRST = "INSERT INTO meta (key, value) VALUES (?, ?) IF NOT EXISTS"
_MOVE = "UPDATE meta SET value = ? WHERE key = ? IF value = ?"
_LOCK = "INSERT INTO meta (key, value) VALUES ('lock', ?) IF NOT EXISTS USING TTL ?"
_UNLOCK = "DELETE FROM meta WHERE key = 'lock' IF value = ?"


def steps() -> Sequence[tuple[str, Sequence[str]]]:
    """(file name, statements), in order; step n of the list is number n + 1."""
    folder = resources.files("svc_storage.adapters.cassandra") / "cql"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".cql"))
    return [(name, _statements((folder / name).read_text("utf-8"))) for name in names]


def open_keyspace(session: Session, replication: Callable[[Session], int]) -> str:
    """Blocking. Makes the keyspace when it is missing, brings it to this release's form, and uses it; its id.

    `replication` says how many copies a new one gets. Raises StoreUnavailable when a newer release wrote it, or another process does not
    get done with it."""
    keyspace = session.place.keyspace
    if not _NAME.fullmatch(keyspace):
        raise errors.FieldInvalid(
            "a keyspace is named [a-z][a-z0-9_]{0,47}", field="MILLRACE_STORAGE_CASSANDRA_KEYSPACE"
        )
    if not _exists(session, keyspace):
        datacenter = _datacenter(session)
        session.define(
            f"CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = "
            f"{{'class': 'NetworkTopologyStrategy', '{datacenter}': {replication(session)}}}"
        )
    session.agree()  # another process may have made it a moment ago, through another node
    if not session.wait(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = 'meta'", keyspace
    ):
        session.define(
            f"CREATE TABLE IF NOT EXISTS {keyspace}.meta (key text PRIMARY KEY, value text) "
            f"WITH id = {uuid.uuid5(_IDS, keyspace)} AND comment = 'written by conditional statements only'"
        )
    session.agree()
    session.use(keyspace)
    _there(session)
    migrate(session, steps())
    session.agree()
    _settled(session, _PUT_FIRST, "store_id", uuid.uuid4().hex)
    return _value(session, "store_id")


def _there(session: Session) -> None:
    """Waits until the node that answers knows the `meta` table: another process may be making it at this moment."""
    until = time.monotonic() + THERE_S
    while True:
        try:
            session.wait(_GET, "version")
            return
        except errors.Unexpected as unknown:
            if "does not exist" not in unknown.message or time.monotonic() > until:
                raise
        except errors.StoreUnavailable:  # one of the nodes that it asked does not know it
            if time.monotonic() > until:
                raise
        time.sleep(0.1)


def migrate(session: Session, known: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Blocking. Applies what is missing of `known`. Raises StoreUnavailable."""
    until = time.monotonic() + WAIT_S
    _settled(session, _PUT_FIRST, "version", "0")
    while (version := int(_value(session, "version"))) < len(known):
        holder = uuid.uuid4().hex
        stood = _settled(session, _LOCK, holder, LOCK_S)
        if stood is not None and stood[-1] != holder:
            if time.monotonic() > until:
                raise errors.StoreUnavailable("another process has been changing the keyspace for minutes")
            time.sleep(0.2)
            continue
        try:
            _apply(session, known, version)
        finally:
            _settled(session, _UNLOCK, holder)
    if version > len(known):
        raise errors.StoreUnavailable(
            f"the keyspace `{session.place.keyspace}` has form {version}, this release knows up to {len(known)}",
            hint="start the release that wrote it, or a newer one",
        )


def claim(session: Session, cluster: str) -> None:
    """Blocking. Marks the keyspace as one Millrace cluster's. Raises StoreUnavailable when it is another's."""
    _settled(session, _PUT_FIRST, "cluster", cluster)
    if (owner := _value(session, "cluster")) != cluster:
        raise errors.StoreUnavailable(
            f"the keyspace `{session.place.keyspace}` belongs to the cluster `{owner}`, this one is `{cluster}`",
            hint="name another keyspace, or set MILLRACE_STORAGE_CLUSTER to its owner's name",
        )


def _apply(session: Session, known: Sequence[tuple[str, Sequence[str]]], seen: int) -> None:
    version = int(_value(session, "version"))  # another process may have done it before we had the lock
    for _, statements in known[version:] if version >= seen else ():
        for statement in statements:
            session.define(_qualified(statement, session.place.keyspace))
        _settled(session, _MOVE, str(version + 1), "version", str(version))
        version += 1


def _qualified(statement: str, keyspace: str) -> str:
    """With the keyspace before the table's name: the one connection that defines things may not have changed to it yet."""
    return re.sub(r"^((?:CREATE|ALTER|DROP) TABLE (?:IF (?:NOT )?EXISTS )?)", rf"\g<1>{keyspace}.", statement)


def _statements(text: str) -> Sequence[str]:
    plain = re.sub(r"--[^\n]*", "", text)
    return [" ".join(part.split()) for part in plain.split(";") if part.strip()]


def _exists(session: Session, keyspace: str) -> bool:
    return bool(session.wait("SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?", keyspace))


def _datacenter(session: Session) -> str:
    if session.place.datacenter:
        return session.place.datacenter
    return str(session.wait("SELECT data_center FROM system.local WHERE key = 'local'")[0][0])


def _settled(session: Session, cql: str, *values: object) -> Row | None:
    """`wait_cas` until it is known what came of it: each of these may be repeated. Many who start at once get in each other's way."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            return session.wait_cas(cql, *values)
        except errors.OutcomeUnknown:
            if time.monotonic() > until:
                raise
            time.sleep(random.uniform(0.05, 0.5))


def _value(session: Session, key: str) -> str:
    until = time.monotonic() + THERE_S
    while True:
        try:
            rows = session.wait(_GET, key, serial=True)
            return str(rows[0][0]) if rows else ""
        except errors.StoreUnavailable:  # as in `_there`: nodes learn of a new table one after another
            if time.monotonic() > until:
                raise
        time.sleep(0.1)
