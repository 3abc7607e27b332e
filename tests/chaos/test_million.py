"""The million of `python -m tests.chaos.million`, at a size for every day."""

from __future__ import annotations

import pytest

from tests.chaos.million import Task, play
from tests.chaos.nursery import Nursery


@pytest.mark.parametrize(("through", "kills"), [("push", 2), ("csv", 2), ("postgres", 1)])
async def test_every_row_is_there_once(through: str, kills: int, nursery: Nursery) -> None:
    task = Task(through=through, rows=40_000, seconds=5.0, kills=kills)
    outcome = await play(task, nursery)
    assert outcome.good(task.rows), outcome
    assert outcome.kills == kills
    assert outcome.kills_with_unacknowledged_rows >= kills - 1
