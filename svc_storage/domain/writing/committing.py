"""What work between two commits needs of a table's committer. The committer itself is `domain/writing/committer.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from svc_storage.domain.definition import TableDefinition
from svc_storage.domain.versions import LogView
from svc_storage.ports import Commit, Committed, TableFiles

T = TypeVar("T")


class Committing(Protocol):
    files: TableFiles
    view: LogView

    @property
    def definition(self) -> TableDefinition: ...

    async def turn(self, work: Callable[[], Awaitable[T]]) -> T:
        """Runs `work` between two commits; nothing else changes the table meanwhile. Raises what it raises."""

    async def commit(self, make: Callable[[], Commit]) -> Committed:
        """Within a turn: commits what `make` says, called again after a lost race."""
