"""Following resources: gap-free from a revision on, the newest state of each, deletions included."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from millrace.errors import RevisionExpired
from svc_storage.domain.control.notice import RisingNumber
from svc_storage.domain.control.resource_names import Selection
from svc_storage.ports import ControlNews, Resource

RECENT_BYTES = 8 << 20
RECENT_CHANGES = 2_000
PAGE = 100


@dataclass(frozen=True, slots=True)
class ResourceChange:
    """`there` False: deleted; `resource` is its last state, its revision the deletion's."""

    there: bool
    resource: Resource


@dataclass(frozen=True, slots=True)
class InitialEnd:
    """All that there was has been told; go on after `revision`."""

    revision: int


@dataclass(frozen=True, slots=True)
class RevisionBookmark:
    """Nothing else happened up to `revision`."""

    revision: int


@dataclass(frozen=True, slots=True)
class Initial:
    """Something that was there at the start. It has no revision to go on from: a cut before the end starts again."""

    resource: Resource


ResourceNews = ResourceChange | Initial | InitialEnd | RevisionBookmark


class RecentChanges:
    """The last changes, whoever made them, so that a hundred watchers do not ask the store the same a hundred times."""

    def __init__(self) -> None:
        self.level = RisingNumber()
        self._changes: deque[ResourceChange] = deque()
        self._bytes = 0
        self._before: int | None = None  # the revision just before the oldest change kept

    def hear(self, news: ControlNews) -> None:
        if news.changes is None:
            self._doubt()
        for there, resource in news.changes or ():
            self._add(ResourceChange(there, resource))
        self.level.rise(news.revision)

    def _add(self, change: ResourceChange) -> None:
        revision = change.resource.revision
        if self._before is None or revision != self.level.value + 1:
            self._changes.clear()
            self._bytes, self._before = 0, revision - 1
        self._changes.append(change)
        self._bytes += _size(change)
        while len(self._changes) > RECENT_CHANGES or self._bytes > RECENT_BYTES:
            oldest = self._changes.popleft()
            self._bytes -= _size(oldest)
            self._before = oldest.resource.revision
        self.level.rise(revision)

    def _doubt(self) -> None:
        """A change may have happened that nobody told: the store is asked again."""
        self._changes.clear()
        self._bytes, self._before = 0, None

    def after(self, revision: int) -> Sequence[ResourceChange] | None:
        """None when they are not all here."""
        if self._before is None or not self._before <= revision <= self.level.value:
            return None
        return list(itertools.islice(self._changes, revision - self._before, None))


class ChangeSource(Protocol):
    recent: RecentChanges

    def watched(self) -> AbstractContextManager[None]: ...

    async def page(self, what: Selection, *, after_name: str, limit: int) -> tuple[Sequence[Resource], int]: ...

    async def changed_after(self, revision: int, *, limit: int) -> tuple[int, int, Sequence[ResourceChange]]: ...


async def follow(
    source: ChangeSource,
    selections: Sequence[Selection],
    *,
    after: int | None,
    initial: bool,
    heartbeat_s: float,
) -> AsyncGenerator[ResourceNews, None]:
    """Never ends by itself. `after` None: from now on. Raises RevisionExpired: list again (or ask for `initial`)."""
    position = (await source.changed_after(1 << 62, limit=1))[1] if initial or after is None else after
    if initial:
        for selection in selections:
            async for resource in _all(source, selection):
                yield Initial(resource)
        yield InitialEnd(position)
    else:
        await _page_after(source, position)  # an expired revision is told before anything else
        yield RevisionBookmark(position)
    with source.watched():
        clock = asyncio.get_running_loop().time
        told = clock()
        while True:
            for change in await _page_after(source, position):
                position = change.resource.revision
                if any(selection.holds(change.resource.name) for selection in selections):
                    yield change
                    told = clock()
            left = told + heartbeat_s - clock()
            if left <= 0 or not await source.recent.level.beyond(position, timeout_s=left):
                yield RevisionBookmark(position)
                told = clock()


async def _page_after(source: ChangeSource, position: int) -> Sequence[ResourceChange]:
    horizon, newest, changes = await source.changed_after(position, limit=PAGE)
    if position < horizon or position > newest:
        raise RevisionExpired(
            "changes after this revision are not known any more",
            field="after_revision",
            hint="list again, watch from there",
        )
    return changes


async def _all(source: ChangeSource, selection: Selection) -> AsyncGenerator[Resource, None]:
    after_name = ""
    while True:
        page, _ = await source.page(selection, after_name=after_name, limit=PAGE)
        for resource in page:
            if selection.holds(resource.name):
                yield resource
        if len(page) < PAGE:
            return
        after_name = page[-1].name


def _size(change: ResourceChange) -> int:
    packed = (change.resource.spec, change.resource.status)
    return 500 + sum(len(p.value) for p in packed if p is not None)
