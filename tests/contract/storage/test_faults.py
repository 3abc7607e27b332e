"""Stores that answer late, wrongly or not at all: nothing is acknowledged that is not stored, nothing stored twice."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Sequence
from typing import Any

import pytest

from millrace import errors
from svc_storage.adapters import disk
from svc_storage.domain.opened import OpenTable
from svc_storage.domain.writing import landing
from svc_storage.ports import Commit, CommitKind, Committed, Version
from tests.contract.storage.backends import Rig, ids, incoming


class Faulty:
    """A log around another: the next appends are applied, or not, and reported as unknown; reads fail a while."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self.unknown_after: list[bool] = []  # True: applied, then reported as timed out
        self.unreadable = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, commit: Commit, *, after: Version) -> Version:
        if not self.unknown_after:
            return await self._log.append(commit, after=after)
        if self.unknown_after.pop(0):
            await self._log.append(commit, after=after)
        raise errors.OutcomeUnknown("timed out")

    async def read_after(self, version: Version) -> Sequence[Committed]:
        if self.unreadable:
            self.unreadable -= 1
            raise errors.StoreUnavailable("no answer")
        return await self._log.read_after(version)


def faulty(table: OpenTable) -> Faulty:
    faulty = Faulty(table.log)
    table.committer.landing.log = table.following.log = faulty
    return faulty


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("unreadable", [0, 3])
async def test_an_unknown_outcome_is_resolved_by_reading(rig: Rig, applied: bool, unreadable: int) -> None:
    table = await rig.create()
    stream = await rig.open()
    log = faulty(table)
    log.unknown_after, log.unreadable = [applied], unreadable
    await stream.append(incoming(0, 5))
    await stream.append(incoming(5, 5))
    await stream.finish()
    ack = await stream.next_event(1)
    assert ack is not None
    assert ack.next_offset == 10
    assert ids(table) == list(range(10))


async def test_unresolved_for_long_is_said_and_settled_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "RESOLVE_S", 0.3)
    table = await rig.create()
    stream = await rig.open()
    log = faulty(table)
    log.unknown_after, log.unreadable = [True], 5
    await stream.append(incoming(0, 5))
    with pytest.raises(errors.OutcomeUnknown):
        await stream.settle()
    log.unreadable = 0
    again = await rig.open(epoch=1)
    assert again.opened.next_offset == 5, "it had happened: `opened` tells"
    await again.append(incoming(5, 1))
    await again.finish()
    assert ids(table) == list(range(6))


async def test_a_lost_race_is_decided_anew(rig: Rig) -> None:
    table = await rig.create()
    stream = await rig.open()
    other, _ = rig.backend.open(table.row.uid)
    await other.recover()
    await other.append(Commit(id="other", kind=CommitKind.FENCE, time_us=1), after=table.head)
    await stream.append(incoming(0, 5))
    await stream.finish()
    assert [found.commit.id == "other" for found in table.commits_in(1, table.head)] == [True, False]
    assert ids(table) == list(range(5))


async def test_a_full_disk_is_said_and_writers_go_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    table = await rig.create()
    stream = await rig.open()
    write = type(table.files).write

    async def full(self: object, *args: object, **more: object) -> None:
        raise errors.DiskFull("full", retry_after_ms=1)

    monkeypatch.setattr(type(table.files), "write", full)
    await stream.append(incoming(0, 5))
    with pytest.raises(errors.DiskFull):
        await stream.settle()
    monkeypatch.setattr(type(table.files), "write", write)
    again = await rig.open(epoch=1)
    await again.append(incoming(0, 5))
    await again.finish()
    assert ids(table) == list(range(5))


def test_a_full_disk_is_known_by_its_errno() -> None:
    assert isinstance(disk.from_os_error(OSError(errno.ENOSPC, "no space")), errors.DiskFull)
    assert isinstance(disk.from_os_error(OSError(errno.EIO, "io")), errors.StoreUnavailable)


async def test_one_streams_fault_leaves_the_others_alone(rig: Rig) -> None:
    table = await rig.create()
    good, bad = await rig.open("good", interval_s=60), await rig.open("bad", interval_s=60)
    await good.append(incoming(0, 5))
    await bad.append(incoming(0, 5))
    with pytest.raises(errors.OffsetGap):
        await bad.append(incoming(99, 5))
    await good.finish()
    assert table.versions.head.row_count == 10


async def test_an_opening_that_nobody_waits_for_leaves_no_stream(rig: Rig) -> None:
    table = await rig.create()
    opening = asyncio.create_task(rig.open())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
    await table.committer.turn(_nothing)
    await asyncio.sleep(0)
    assert table.committer.stream_count == 0


async def _nothing() -> None:
    return None
