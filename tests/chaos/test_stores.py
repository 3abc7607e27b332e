"""A few episodes over each store that starts in a second; the whole campaigns run by `make chaos-stores`.

Those over real stores are played side by side: they mostly wait. Those over memory compute, so they are played before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from tests.chaos.stores.episode import Stage, replay_command
from tests.chaos.stores.grounds import GROUNDS
from tests.chaos.stores.plan import EPISODES, THEMES, draw
from tests.chaos.stores.report import END, PAGE
from tests.chaos.stores.verdict import judge
from tests.chaos.stores.writers import SPAN

SEED = 1_000
SAMPLE = {"memory": 15, "local": len(THEMES["local"]), "s3": 4}


Playing = dict[str, "asyncio.Task[Sequence[str]]"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def playing() -> AsyncIterator[Playing]:
    tasks = {"memory": asyncio.create_task(_failures("memory"))}
    tasks |= {
        backend: asyncio.create_task(_after(tasks["memory"], backend)) for backend in SAMPLE if backend not in tasks
    }
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.timeout(280)
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("backend", SAMPLE)
async def test_every_row_is_where_it_belongs(backend: str, playing: Playing) -> None:
    failures = await playing[backend]
    assert not failures, "\n".join(failures)


async def _after(before: asyncio.Task[Sequence[str]], backend: str) -> Sequence[str]:
    await asyncio.wait([before])
    return await _failures(backend)


async def _failures(backend: str) -> Sequence[str]:
    """For people, of every episode that failed."""
    failures: list[str] = []
    async with Stage(backend) as stage:
        for seed in range(SEED, SEED + SAMPLE[backend]):
            plan = draw(backend, seed)
            result = await stage.play(plan)
            print(result.line())
            if result.failure:
                failures += [*plan.lines(), result.failure, replay_command(backend, seed)]
    return failures


def test_a_plan_is_its_seed() -> None:
    for backend in THEMES:
        plans = [draw(backend, seed) for seed in range(EPISODES[backend])]
        assert plans == [draw(backend, seed) for seed in range(EPISODES[backend])]
        assert {plan.theme for plan in plans} == set(THEMES[backend])
    assert set(GROUNDS) | {"memory"} <= set(THEMES)
    assert END in PAGE.read_text()


def test_the_verdict_sees_what_is_wrong() -> None:
    given, standing = {0: 3, 2: 2}, {0: (3, 3), 2: (2, 2)}
    good = [0, 1, 2, 2 * SPAN, 2 * SPAN + 1]
    assert judge(good, given, standing).faults == []
    assert judge(good[1:], given, standing).lost == 1
    assert judge([*good, 1], given, standing).doubled == 1
    assert judge([*good, 3], given, standing).strangers == 1
    assert judge([*good, SPAN], given, standing).strangers == 1
    assert judge(good, given, {**standing, 2: (2, 1)}).faults
