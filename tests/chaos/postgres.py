"""A PostgreSQL for the episodes that want one: started when first asked for, gone at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from adbc_driver_postgresql import dbapi

from tests.integration.extract import conftest


class Server:
    """`with Server() as server: uri, run = server.address()`."""

    def __init__(self) -> None:
        self._running: Iterator[conftest.Postgres] | None = None
        self._found: tuple[str, Callable[[str], object]] | None = None

    def address(self) -> tuple[str, Callable[[str], object]]:
        """(URI, runs statements). Starts the server when it does not run yet."""
        if self._found is None:
            self._running = conftest.serve_postgres()
            uri = next(self._running).uri
            self._found = (uri, lambda sql: _run(uri, sql))
        return self._found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            next(self._running, None)


def _run(uri: str, sql: str) -> None:
    """Not by psql: each of its processes would be forked beside open channels."""
    with dbapi.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        for statement in sql.split(";"):
            cursor.execute(statement)
