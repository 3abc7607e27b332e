"""One upstream watch per table, shared by everything that follows the table."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import cast

from millrace.errors import MillraceError, RetryLater, Unexpected
from svc_analysis.domain import background
from svc_analysis.ports import Change, Tables

_log = logging.getLogger(__name__)


class TableWatch:
    """The newest state of one table. `landed`: versions that changed rows since the watch began."""

    def __init__(self, name: str, tables: Tables) -> None:
        self.name = name
        self.latest: Change | None = None
        self.failure: MillraceError | None = None
        self.landed = 0
        self._tables = tables
        self._listeners: list[asyncio.Event] = []
        self._task = background.start(self._run(), f"watch {name}")

    @property
    def followers(self) -> int:
        return len(self._listeners)

    def listen(self, event: asyncio.Event) -> None:
        """`event` is set with every change from now on, and at once when there was one."""
        self._listeners.append(event)
        if self.latest is not None or self.failure is not None:
            event.set()

    def unlisten(self, event: asyncio.Event) -> None:
        self._listeners.remove(event)

    async def close(self) -> None:
        await background.stop(self._task)

    async def _run(self) -> None:
        pauses = background.Pauses()
        while self.failure is None:
            try:
                changes = cast("AsyncGenerator[Change, None]", self._tables.watch(self.name))
                async with aclosing(changes):
                    async for change in changes:
                        pauses.worked()
                        self._moved(change)
            except RetryLater as error:
                await pauses.after(error)
            except MillraceError as error:
                self.failure = error
            except Exception as error:
                _log.exception("the watch of a table broke")
                self.failure = Unexpected(f"the watch of `{self.name}` broke")
                self.failure.__cause__ = error
        self._wake()

    def _moved(self, change: Change) -> None:
        if self.latest is not None and (self.latest.uid, self.latest.version) == (change.uid, change.version):
            return
        self.landed += change.landed
        self.latest = change
        self._wake()

    def _wake(self) -> None:
        for event in self._listeners:
            event.set()


class Watches:
    """All watches of this process."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._open: dict[str, TableWatch] = {}

    def __len__(self) -> int:
        return len(self._open)

    @asynccontextmanager
    async def follow(self, name: str, event: asyncio.Event) -> AsyncIterator[TableWatch]:
        """`event` is set when the table changed or its watch failed. The first follower opens the watch, the last one closes it."""
        watch = self._open.get(name)
        if watch is None or watch.failure is not None:
            watch = self._open[name] = TableWatch(name, self._tables)
        watch.listen(event)
        try:
            yield watch
        finally:
            watch.unlisten(event)
            if not watch.followers:
                if self._open.get(name) is watch:
                    del self._open[name]
                await watch.close()
