"""Tables whose pinned versions are asked for once: a dozen live questions over one table all want the same version with each change.

Only for work that runs as this service itself. Inside a request every answer carries the caller's rights, so storage is asked each time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import TypeVar, cast

from millrace.server.identity import caller_or_none
from svc_analysis.ports import Change, Facts, Pinned, Tables

T = TypeVar("T")
KEPT = 256
KEPT_S = 10.0
"""Since the last time it was asked for. What is remembered keeps its local files from making room for others."""
FACTS_S = 1.0
"""How long a table's facts hold: of a live question they only say which column is event time."""


class RememberedTables:
    """`svc_analysis.ports.Tables` around another."""

    def __init__(self, tables: Tables, clock: Callable[[], float] = time.monotonic) -> None:
        self._tables, self._clock = tables, clock
        self._asked: dict[Hashable, tuple[float, asyncio.Task[object]]] = {}  # the longest unasked first

    async def facts(self, name: str) -> Facts:
        if caller_or_none() is not None:
            return await self._tables.facts(name)
        return await self._once((name, int(self._clock() / FACTS_S)), lambda: self._tables.facts(name))

    async def pin(
        self, name: str, *, version: int | None = None, uid: str = "", storage_columns: bool = False
    ) -> Pinned:
        def ask() -> Awaitable[Pinned]:
            return self._tables.pin(name, version=version, uid=uid, storage_columns=storage_columns)

        if version is None or not uid or caller_or_none() is not None:
            return await ask()
        return await self._once((name, version, uid, storage_columns), ask)

    def watch(self, name: str) -> AsyncIterator[Change]:
        return self._tables.watch(name)

    async def _once(self, key: Hashable, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer to `key`, asked for by whoever comes first. A failure is not kept."""
        now, (_, task) = self._clock(), self._asked.pop(key, (0.0, None))
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.ensure_future(_awaited(ask()))
            task.add_done_callback(_heard)
        self._asked[key] = (now, task)
        while len(self._asked) > KEPT or next(iter(self._asked.values()))[0] < now - KEPT_S:
            del self._asked[next(iter(self._asked))]
        return cast(T, await asyncio.shield(task))


def _heard(task: asyncio.Task[object]) -> None:
    """Whoever asked may be gone: its failure is then nobody's."""
    if not task.cancelled():
        task.exception()


async def _awaited(answer: Awaitable[object]) -> object:
    return await answer
