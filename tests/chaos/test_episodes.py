"""Twelve episodes of the hundred that `make chaos` plays. One that fails says how to play it again alone.

Four are played at a time: an episode mostly waits, for leases to run out and for processes to come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chaos.episode import Result, play, replay_command
from tests.chaos.nursery import Nursery
from tests.chaos.plan import draw
from tests.chaos.postgres import Server

SEEDS = tuple(range(1000, 1012))
AT_A_TIME = 4
Playing = dict[int, "asyncio.Task[Result]"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def playing(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> AsyncIterator[Playing]:
    """All of them, by seed."""
    places, kept = asyncio.Semaphore(AT_A_TIME), tmp_path_factory.mktemp("kept")
    with Server() as server:
        tasks = {seed: asyncio.create_task(_one(seed, places, nursery, server, kept)) for seed in SEEDS}
        yield tasks
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def _one(seed: int, places: asyncio.Semaphore, nursery: Nursery, server: Server, kept: Path) -> Result:
    async with places:
        postgres = await asyncio.to_thread(server.address) if draw(seed).postgres else None
        return await play(seed, nursery, keep=kept, postgres=postgres)


@pytest.mark.timeout(170)
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("seed", SEEDS)
async def test_every_row_is_where_it_belongs(seed: int, playing: Playing) -> None:
    result = await playing[seed]
    print(result.line())
    assert not result.failure, "\n".join(
        [*draw(seed).lines(), result.failure, f"replay: {replay_command(seed)} --no-write"]
    )
