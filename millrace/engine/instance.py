"""A DuckDB instance of its own per set of versions: it can read those files and nothing else, and nobody can change that."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import duckdb

from millrace.engine.faults import translate
from millrace.engine.pinned import Limits, Tables
from millrace.engine.views import create_view, file_list, quote, text

Key = tuple[Hashable, ...]


def key_of(tables: Tables, threads: int) -> Key:
    """Equal keys may share an instance."""
    return (threads, *((ref, table.key) for ref, table in sorted(tables.items())))


def open_instance(tables: Tables, limits: Limits, *, threads: int, temp_directory: str) -> duckdb.DuckDBPyConnection:
    """An in-memory instance with a view per table. From its last statement on, only the files of `tables` can be opened.

    The order matters: a view binds its files while they may still be opened, `allowed_paths` is only accepted before external access
    ends, and the lock comes last. Raises as `faults.translate`."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": str(threads),
        "memory_limit": f"{limits.memory_mb}MiB",
        "max_temp_directory_size": f"{limits.spill_mb}MiB",
        "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false",
        "allow_community_extensions": "false",
        # Sixteen idle instances would each keep their own copy of what the system's page cache has anyway.
        "enable_external_file_cache": "false",
    }
    connection = duckdb.connect(":memory:", config=config)
    try:
        for statement in _set_up(tables, temp_directory):
            connection.execute(statement)
    except Exception as error:
        connection.close()
        raise translate(error) from error
    return connection


def _set_up(tables: Tables, temp_directory: str) -> list[str]:
    files = tuple(sorted({path for table in tables.values() for path in table.files}))
    schemas = sorted({ref.schema for ref in tables if ref.schema})
    return [
        "SET GLOBAL TimeZone = 'UTC'",
        "SET GLOBAL python_enable_replacements = false",
        "SET GLOBAL allow_persistent_secrets = false",
        *(f"CREATE SCHEMA memory.{quote(schema)}" for schema in schemas),
        *(create_view(ref, table) for ref, table in tables.items()),
        f"SET GLOBAL allowed_paths = {file_list(files)}",
        f"SET GLOBAL temp_directory = {text(temp_directory)}",
        "SET GLOBAL enable_external_access = false",
        "SET GLOBAL lock_configuration = true",
    ]


@dataclass(slots=True)
class _Entry:
    lock: threading.Lock
    connection: duckdb.DuckDBPyConnection | None = None


class Pool:
    """Instances by key, the least recently used closed first. A closed one lives on under its open cursors. Thread-safe."""

    def __init__(self, limits: Limits, temp_directory: str) -> None:
        self._limits, self._temp = limits, temp_directory
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def cursor(self, tables: Tables, *, threads: int) -> duckdb.DuckDBPyConnection:
        """A connection of the caller's own to the instance of `tables`; opens the instance when there is none (about 15 ms)."""
        key = key_of(tables, threads)
        entry = self._entry(key)
        with entry.lock:
            if entry.connection is None:
                try:
                    entry.connection = open_instance(tables, self._limits, threads=threads, temp_directory=self._temp)
                except Exception:
                    self._forget(key, entry)
                    raise
            return entry.connection.cursor()

    def discard(self, tables: Tables, *, threads: int) -> None:
        """The instance is broken: the next query gets a new one."""
        with self._lock:
            self._entries.pop(key_of(tables, threads), None)

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        """Closes all. Cursors that are still open keep theirs until they close."""
        with self._lock:
            entries, self._entries = list(self._entries.values()), OrderedDict()
        for entry in entries:
            _close(entry)

    def _entry(self, key: Key) -> _Entry:
        dropped: list[_Entry] = []
        with self._lock:
            entry = self._entries.setdefault(key, _Entry(threading.Lock()))
            self._entries.move_to_end(key)
            while len(self._entries) > self._limits.pool_size:
                dropped.append(self._entries.popitem(last=False)[1])
        for old in dropped:
            _close(old)
        return entry

    def _forget(self, key: Key, entry: _Entry) -> None:
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]


def _close(entry: _Entry) -> None:
    """Lets go of the instance: DuckDB frees it with its last cursor. An explicit `close` would end the open cursors too."""
    with entry.lock:
        entry.connection = None
