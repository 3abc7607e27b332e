"""A PostgreSQL for the episodes that want one: started when first asked for, gone at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from tests.integration.extract import conftest


class Server:
    """`with Server() as server: uri, psql = server.address()`."""

    def __init__(self) -> None:
        self._running: Iterator[conftest.Postgres] | None = None
        self._found: tuple[str, Callable[[str], str]] | None = None

    def address(self) -> tuple[str, Callable[[str], str]]:
        """(URI, runs SQL). Starts the server when it does not run yet."""
        if self._found is None:
            self._running = conftest.serve_postgres()
            server = next(self._running)
            self._found = (server.uri, server.psql)
        return self._found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            next(self._running, None)
