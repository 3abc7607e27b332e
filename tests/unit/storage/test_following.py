"""How often a watched table's log is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pyarrow as pa
import pytest

from svc_storage.domain.versions import LogView
from svc_storage.domain.writing import following
from svc_storage.domain.writing.following import Following
from svc_storage.ports import Commit, CommitKind, CommitLog, Committed, LogTail, Snapshot, Version


class Log:
    """Others commit to it: `coming`."""

    def __init__(self) -> None:
        self.looks = 0
        self.coming: list[Committed] = []

    async def read_after(self, version: Version) -> Sequence[Committed]:
        self.looks += 1
        return [found for found in self.coming if found.version > version]


def _commit(version: Version) -> Committed:
    return Committed(version, Commit(id=str(version), kind=CommitKind.FENCE, time_us=version))


async def test_a_table_at_rest_is_looked_at_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PROBE_S", (0.001, 0.001))
    monkeypatch.setattr(following, "QUIET_PROBE_S", (0.2, 0.2))
    monkeypatch.setattr(following, "QUIET_S", 0.05)
    log, published = Log(), asyncio.Event()
    view = LogView(LogTail(Snapshot(version=0, time_us=0, schema=pa.schema([])), (), {}))
    tail = Following(cast(CommitLog, log), view, published.set, shared=True)
    with tail.watched():
        await asyncio.sleep(0.2)
        resting = log.looks
        assert resting > 5
        await asyncio.sleep(0.5)
        assert log.looks - resting <= 4
        log.coming = [_commit(1)]
        await asyncio.wait_for(published.wait(), 5)
        moving = log.looks
        while log.looks < moving + 3:  # what moved is looked at often again
            await asyncio.sleep(0)
    assert view.head.version == 1
    await tail.close()


def test_a_commit_of_another_replica_is_told_within_a_second() -> None:
    assert max(*following.PROBE_S, *following.QUIET_PROBE_S) <= 0.7
