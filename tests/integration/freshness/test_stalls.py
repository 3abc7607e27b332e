"""Stalls are planted in running pipelines: explain-freshness names the hop that holds the data up, within 2 s."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from millrace.storage.v1 import freshness_pb2 as pb
from tests.contract.conftest import LoopThread as ServersThread
from tests.integration.freshness.stage import Stage, staged
from tests.integration.freshness.stalls import STALLS, Stall

LIMIT_S = 2.0


class LoopThread(ServersThread):
    """A line takes a while on a busy machine."""

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60.0)


@pytest.fixture(scope="module")
def thread() -> Iterator[LoopThread]:
    made = LoopThread()
    yield made
    made.close()


@pytest.fixture(scope="module")
def stage(thread: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder: Path = tmp_path_factory.mktemp("freshness").resolve()
    opened = AsyncExitStack()
    try:
        yield thread.call(opened.enter_async_context(staged(folder)))
    finally:
        thread.call(opened.aclose())


def test_nothing_holds_a_line_up_that_runs(stage: Stage, thread: LoopThread) -> None:
    line = thread.call(stage.line())
    found = thread.call(stage.explain(line.clean))
    assert found.verdict is None, found.verdict
    names = [hop.name for hop in found.hops if hop.kind != pb.HOP_KIND_SERVICE]
    assert names == [line.source, line.raw, line.transform, line.clean]
    assert all(hop.state == pb.HOP_STATE_OK and hop.evidence for hop in found.hops), found.hops


@pytest.mark.parametrize("stall", STALLS, ids=lambda stall: stall.id)
def test_the_hop_that_stands_still_is_named(stage: Stage, thread: LoopThread, stall: Stall) -> None:
    line = thread.call(stage.line())
    planted = thread.call(stall.plant(stage, line))
    try:
        began = time.monotonic()
        found = thread.call(stage.explain(line.clean, **planted.elsewhere))
        took = time.monotonic() - began
        assert found.verdict is not None, [(hop.name, hop.summary) for hop in found.hops]
        cause = pb.HopCause.Name(found.verdict.cause).removeprefix("HOP_CAUSE_")
        assert (cause, found.verdict.name) == (stall.cause, planted.hop), found.verdict
        assert found.verdict.evidence
        assert found.verdict.next_step
        assert took < LIMIT_S
    finally:
        if planted.end is not None:
            thread.call(planted.end())
