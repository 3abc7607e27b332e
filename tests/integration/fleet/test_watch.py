"""The strict watch: replica A commits, a watcher on B hears every version once, in order, nothing missed or repeated."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import aclosing

import pytest

from svc_storage.domain.reading.watch import Covered, Landed, WatchWish, watch
from svc_storage.domain.upkeep import Policy
from tests.integration.fleet.conftest import FULL
from tests.integration.fleet.replicas import Place, two

pytestmark = pytest.mark.timeout(3600)  # a server may have to be started first

HOLD_UP_S = 1.0


async def test_every_version_is_told_once(place: Place) -> None:
    versions = place.many if FULL else 400
    place.policy = Policy()
    async with two(place) as (a, b):
        told: list[int] = []
        delays: list[float] = []

        async def listen() -> None:
            async with aclosing(watch(await b.table(), WatchWish(after=0))) as news:
                async for one in news:
                    if isinstance(one, Landed):
                        told.extend(range(one.event.first, one.event.number + 1))
                        delays.append(time.time() - one.event.commit_time_us / 1e6)
                    elif isinstance(one, Covered):
                        told.extend(range(told[-1] + 1 if told else 1, one.version + 1))
                    if told and told[-1] >= versions:
                        return

        listening = asyncio.create_task(listen())
        table = await a.table()
        number, began = 0, time.time()
        while table.head < versions:
            await a.open(f"w{number % 8}")  # a fence is a commit
            number += 1
            if number % 100 == 0:
                await a.upkeep.tend(table)  # checkpoints, or each commit on S3 costs more than the one before
        await asyncio.wait_for(listening, 30)
        assert told == list(range(1, told[-1] + 1))
        assert told[-1] >= versions
        p99, late = statistics.quantiles(delays, n=100)[98], sum(delay > HOLD_UP_S for delay in delays)
        print(
            f"{place.backend.name}: {len(told)} versions, {(time.time() - began) / versions * 1000:.1f} ms each; told after "
            f"{statistics.median(delays):.2f} s, p99 {p99:.2f}, the latest {max(delays):.2f}, {late} after more than {HOLD_UP_S} s"
        )
        assert p99 < HOLD_UP_S
        assert not late or FULL
