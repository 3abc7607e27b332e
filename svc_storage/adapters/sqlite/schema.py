"""The tables of `catalog.sqlite`, as steps: a file of an older release is brought forward, one of a newer is refused."""

from __future__ import annotations

import sqlite3

from millrace.errors import StoreUnavailable

_RESOURCE_COLUMNS = """
    name TEXT NOT NULL, uid TEXT NOT NULL, namespace TEXT NOT NULL, collection TEXT NOT NULL,
    revision INTEGER NOT NULL, generation INTEGER NOT NULL,
    spec_type TEXT, spec BLOB, status_type TEXT, status BLOB,
    created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL, owner TEXT NOT NULL, last_event INTEGER NOT NULL"""

STEPS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO counters VALUES ('revision', 0), ('horizon', 0)",
        """CREATE TABLE tables (name TEXT PRIMARY KEY, namespace TEXT NOT NULL, uid TEXT NOT NULL UNIQUE, etag TEXT NOT NULL,
           created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL, owner TEXT NOT NULL, body TEXT NOT NULL)""",
        f"CREATE TABLE resources ({_RESOURCE_COLUMNS}, PRIMARY KEY (name))",
        "CREATE UNIQUE INDEX resources_by_revision ON resources (revision)",
        "CREATE INDEX resources_by_collection ON resources (collection, name)",
        f"CREATE TABLE tombstones ({_RESOURCE_COLUMNS}, PRIMARY KEY (revision))",
        """CREATE TABLE events (uid TEXT NOT NULL, sequence INTEGER NOT NULL, time_us INTEGER NOT NULL, type TEXT NOT NULL,
           body BLOB NOT NULL, PRIMARY KEY (uid, sequence)) WITHOUT ROWID""",
        """CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, epoch INTEGER NOT NULL, renewals INTEGER NOT NULL,
           ttl_ms INTEGER NOT NULL, floor INTEGER NOT NULL) WITHOUT ROWID""",
        """CREATE TABLE answers (principal TEXT NOT NULL, request_id TEXT NOT NULL, fingerprint TEXT NOT NULL, body BLOB NOT NULL,
           made_us INTEGER NOT NULL, PRIMARY KEY (principal, request_id))""",
        "CREATE INDEX answers_by_time ON answers (made_us)",
        "CREATE TABLE scans (fingerprint BLOB PRIMARY KEY, body BLOB NOT NULL, made_us INTEGER NOT NULL)",
        "CREATE INDEX scans_by_time ON scans (made_us)",
    ),
)
"""Step n brings `user_version` from n to n + 1. A released step is never edited."""


def migrate(connection: sqlite3.Connection) -> None:
    """Brings the open file to the newest form, in one transaction. Raises StoreUnavailable when a newer release wrote it."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(STEPS):
        raise StoreUnavailable(
            f"catalog.sqlite has form {version}, this release knows up to {len(STEPS)}",
            hint="start the release that wrote the data folder, or a newer one",
        )
    connection.execute("BEGIN IMMEDIATE")
    for step in STEPS[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(STEPS)}")
    connection.execute("COMMIT")
