"""`ControlStore` on one SQLite file: WAL, synchronous=FULL, one thread that owns the connection."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

from millrace.errors import DiskFull, MillraceError, OutcomeUnknown, StoreUnavailable
from millrace.failpoints import failpoint
from svc_storage.adapters.sqlite.rows import Rows
from svc_storage.adapters.sqlite.schema import migrate
from svc_storage.ports import ControlNews, ControlTransaction

T = TypeVar("T")


class SqliteControl:
    """Open with `await SqliteControl.open(path)`. One process at a time: the data folder's lock sees to that."""

    def __init__(self, thread: ThreadPoolExecutor, connection: sqlite3.Connection) -> None:
        self._thread, self._connection = thread, connection
        self._loop = asyncio.get_running_loop()
        self._listeners: list[Callable[[ControlNews], None]] = []

    @classmethod
    async def open(cls, path: Path) -> SqliteControl:
        """Creates the file when it is missing. Raises StoreUnavailable when it cannot be used."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="catalog")
        try:
            connection = await asyncio.get_running_loop().run_in_executor(thread, _connect, path)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(thread, connection)

    async def run(self, work: Callable[[ControlTransaction], T]) -> T:
        try:
            running = self._thread.submit(self._transact, work)
        except RuntimeError as closed:
            raise StoreUnavailable("the catalog is closed") from closed
        return await asyncio.wrap_future(running)

    def tell(self, listener: Callable[[ControlNews], None]) -> None:
        self._listeners.append(listener)

    def watched(self) -> AbstractContextManager[None]:
        return nullcontext()  # no other process changes it

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown(wait=True)

    def _transact(self, work: Callable[[ControlTransaction], T]) -> T:
        with _translated(StoreUnavailable):
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            with _translated(StoreUnavailable):
                result = work(rows := Rows(self._connection))
            failpoint("storage.before_catalog_commit")
        except BaseException:
            self._rollback()
            raise
        try:
            with _translated(OutcomeUnknown):
                self._connection.execute("COMMIT")
            failpoint("storage.after_catalog_commit")
        except BaseException:
            self._rollback()
            self._told(ControlNews(0, None))
            raise
        if rows.changes or rows.leases_put:
            revision = rows.changes[-1][1].revision if rows.changes else 0
            self._told(ControlNews(revision, tuple(rows.changes), tuple(rows.leases_put)))
        return result

    def _told(self, news: ControlNews) -> None:
        """In the order of the commits, and before `run` returns: both come to the loop through one queue."""
        for listener in self._listeners:
            self._loop.call_soon_threadsafe(listener, news)

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class _translated:
    """Turns the driver's errors into ours; `otherwise` for those it does not know."""

    def __init__(self, otherwise: type[MillraceError]) -> None:
        self._otherwise = otherwise

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise DiskFull(
                "the disk that holds the catalog is full", hint="free some space; nothing was changed"
            ) from error
        raise self._otherwise(f"the catalog failed: {getattr(error, 'sqlite_errorname', 'SQLITE_ERROR')}") from error


def _connect(path: Path) -> sqlite3.Connection:
    with _translated(StoreUnavailable):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 5000", "wal_autocheckpoint = 1000"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        migrate(connection)
        return connection
