"""WatchTable: versions in order, each number covered once, by an event or by a bookmark.

There is no queue per watcher. The open table remembers its commits once for all; a watcher is a number and, while it has nothing to
tell, a waiter. A slow one reads later, in bounded steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from millrace.errors import FieldInvalid, TableNotFound, VersionExpired, VersionInFuture
from svc_storage.domain.versions import VersionEvent, summarise
from svc_storage.ports import CommitKind, Committed, TableView, Version

STEP = 256
"""Commits looked at between two messages at most."""
_NO_ROWS = (CommitKind.FENCE, CommitKind.COMPACT, CommitKind.SCHEMA)


@dataclass(frozen=True, slots=True)
class Landed:
    """`schema`: all columns as of the event's number; None when the watcher knows them."""

    event: VersionEvent
    schema: pa.Schema | None
    schema_id: int


@dataclass(frozen=True, slots=True)
class Covered:
    """All versions up to `version` were told or left out."""

    version: Version
    oldest: Version


@dataclass(frozen=True, slots=True)
class Deleted:
    uid: str


TableNews = Landed | Covered | Deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchWish:
    """`after` None: the current version first. `coalesce`: what is there already comes as one event."""

    after: Version | None = None
    data_changes_only: bool = False
    coalesce: bool = False
    heartbeat_s: float = 15.0


async def watch(view: TableView, wish: WatchWish) -> AsyncGenerator[TableNews, None]:
    """Ends after Deleted only. Raises VersionExpired (also when the watcher came to lag behind the log), VersionInFuture."""
    await view.refresh()
    position = _start(view, wish.after)
    yield Covered(position, view.oldest)
    clock = asyncio.get_running_loop().time
    told, told_position, first = clock(), position, True
    while not view.deleted:
        if view.head > position:
            upto = min(view.head, position + STEP)
            for event in _events(view.commits_in(position, upto), position, wish):
                if event.first > told_position + 1:  # what was left out before it
                    yield Covered(event.first - 1, view.oldest)
                yield await _landed(view, event, with_schema=first or event.schema_changed)
                told, told_position, first = clock(), event.number, False
            position = upto
            continue
        left = told + wish.heartbeat_s - clock()
        if left <= 0:
            yield Covered(position, view.oldest)
            told, told_position = clock(), position
        else:
            await _beyond(view, position, left)
    yield Deleted(view.row.uid)


def _start(view: TableView, after: Version | None) -> Version:
    if after is None:
        # The current version as an event, where its commit is known: the oldest is known as a state only.
        return view.head - 1 if view.head > view.oldest else view.head
    if after < 0:
        raise FieldInvalid("versions begin with 0", field="after_version")
    if after > view.head:
        raise VersionInFuture(
            f"version {after} does not exist yet",
            field="after_version",
            metadata={"version": str(view.head)},
            hint="read the newest version, watch from there",
        )
    if after < view.oldest:
        raise VersionExpired(
            f"versions after {after} were cleaned up",
            field="after_version",
            metadata={"oldest_version": str(view.oldest)},
            hint="read in full, watch from there",
        )
    return after


def _events(commits: Sequence[Committed], position: Version, wish: WatchWish) -> Iterable[VersionEvent]:
    told = [one for one in commits if not (wish.data_changes_only and one.commit.kind in _NO_ROWS)]
    if not told:
        return
    if wish.coalesce:
        # A schema that changed between them is told with them, also where its own commit is left out.
        changed = any(one.commit.schema is not None for one in commits)
        event = summarise(told)
        yield replace(event, first=position + 1, schema_changed=event.schema_changed or changed)
        return
    changed = False
    for one in commits:
        changed = changed or one.commit.schema is not None
        if not (wish.data_changes_only and one.commit.kind in _NO_ROWS):
            yield replace(summarise([one]), schema_changed=changed)
            changed = False


async def _landed(view: TableView, event: VersionEvent, *, with_schema: bool) -> Landed:
    if not with_schema:
        return Landed(event, None, 0)
    try:
        snapshot = await view.snapshot(event.number)
    except VersionExpired:
        snapshot = await view.snapshot()
    return Landed(event, snapshot.schema, snapshot.schema_id)


async def _beyond(view: TableView, position: Version, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await view.wait_beyond(position)
    except (TimeoutError, TableNotFound):
        return
