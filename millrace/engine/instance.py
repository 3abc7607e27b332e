"""A DuckDB instance of its own per set of versions: it can read those files and nothing else, and nobody can change that."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

import duckdb

from millrace.engine.faults import translate
from millrace.engine.pinned import Limits, Tables
from millrace.engine.views import create_view, file_list, quote, text

Key = tuple[Hashable, ...]


def key_of(tables: Tables, threads: int) -> Key:
    """Equal keys may share an instance."""
    return (threads, *((ref, table.key) for ref, table in sorted(tables.items())))


def open_instance(
    tables: Tables, limits: Limits, *, threads: int, temp_directory: str, memory_mb: int | None = None
) -> duckdb.DuckDBPyConnection:
    """An in-memory instance with a view per table. From its last statement on, only the files of `tables` can be opened.

    `memory_mb`: its share of the limits; None: all. The order matters: a view binds its files while they may still be opened,
    `allowed_paths` is only accepted before external access ends, and the lock comes last. Raises as `faults.translate`."""
    memory_mb = memory_mb or limits.memory_mb
    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": str(threads),
        "memory_limit": f"{memory_mb}MiB",
        "max_temp_directory_size": f"{limits.spill_mb * memory_mb // limits.memory_mb}MiB",
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


FLOOR_MB = 64
"""An instance with less is of no use."""


@dataclass(slots=True)
class Seat:
    """An instance and how many results are open on it. It keeps its share of memory while it is open: DuckDB's limits are locked."""

    key: Key
    memory_mb: int = 0
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    connection: duckdb.DuckDBPyConnection | None = None


class Pool:
    """Instances by key, the least recently used closed first; and the process's memory, shared out among those in use. Thread-safe.

    Each new one in use gets half of what is free, so there are few at a time, and together they never may use more than
    the limit. Idle ones hold next to nothing."""

    def __init__(self, limits: Limits, temp_directory: str) -> None:
        self._limits, self._temp = limits, temp_directory
        self._lock = threading.Lock()
        self._seats: OrderedDict[Key, Seat] = OrderedDict()
        self._taken_mb = 0
        self._dropped: list[duckdb.DuckDBPyConnection | None] = []

    def take(self, tables: Tables, *, threads: int) -> Seat | None:
        """A place for one result over `tables`; None while there is no memory for it. Give it back with `leave`. Not blocking: those that
        had to go are closed by `close_dropped`."""
        key = key_of(tables, threads)
        with self._lock:
            seat = self._seats.get(key) or Seat(key)
            if not seat.users:
                share = self._share(seat)
                if share is None:
                    return None
                if share != seat.memory_mb:
                    seat.memory_mb, seat.connection = (
                        share,
                        None,
                    )  # nobody uses it: it is opened anew with another limit
                self._taken_mb += share
            seat.users += 1
            self._seats[key] = seat
            self._seats.move_to_end(key)
            idle = [old for old in self._seats.values() if not old.users]
            for old in idle[: max(0, len(self._seats) - self._limits.pool_size)]:
                self._dropped.append(self._seats.pop(old.key).connection)
        return seat

    @property
    def dropped(self) -> bool:
        return bool(self._dropped)

    def close_dropped(self) -> None:
        """Blocking: DuckDB takes its time (10 to 20 ms each) to free an instance."""
        with self._lock:
            dropped, self._dropped = self._dropped, []
        dropped.clear()

    def leave(self, seat: Seat) -> None:
        with self._lock:
            seat.users -= 1
            if not seat.users:
                self._taken_mb -= seat.memory_mb

    def cursor(self, seat: Seat, tables: Tables) -> duckdb.DuckDBPyConnection:
        """A connection of the caller's own; opens the instance when it is not (about 15 ms)."""
        threads = seat.key[0]
        assert isinstance(threads, int)
        with seat.lock:
            if seat.connection is None:
                seat.connection = open_instance(
                    tables, self._limits, threads=threads, temp_directory=self._temp, memory_mb=seat.memory_mb
                )
            return seat.connection.cursor()

    def discard(self, seat: Seat) -> None:
        """The instance is broken: the next query gets a new one."""
        with self._lock:
            if self._seats.get(seat.key) is seat:
                del self._seats[seat.key]

    def __len__(self) -> int:
        return len(self._seats)

    def close(self) -> None:
        """Closes all. Cursors that are still open keep theirs until they close."""
        with self._lock:
            seats, self._seats, self._dropped = list(self._seats.values()), OrderedDict(), []
        for seat in seats:
            _close(seat)

    def _share(self, seat: Seat) -> int | None:
        free = self._limits.memory_mb - self._taken_mb
        if seat.connection is not None and seat.memory_mb <= free:
            return seat.memory_mb
        share = max(min(FLOOR_MB, self._limits.memory_mb), free // 2)
        return share if share <= free else None


def _close(seat: Seat) -> None:
    """Lets go of the instance: DuckDB frees it with its last cursor. An explicit `close` would end the open cursors too."""
    with seat.lock:
        seat.connection = None
