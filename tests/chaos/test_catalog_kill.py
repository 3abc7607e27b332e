"""Resources through kill -9 around the catalog's commit: each request is answered at last, and was done once."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from svc_storage.adapters.clock import SystemClock
from svc_storage.adapters.sqlite.store import SqliteControl
from svc_storage.domain.control.resource_names import Selection
from svc_storage.domain.control.resources import Resources
from tests.chaos import catalog_child
from tests.chaos.nursery import Nursery

LAST = 59
POINTS = ("storage.before_catalog_commit", "storage.after_catalog_commit")


def run_child(nursery: Nursery, path: Path, first: int, failpoints: str) -> tuple[int, int]:
    """(exit code, the last number that was answered)."""
    env = {**os.environ, "MILLRACE_FAILPOINTS": failpoints}
    code, said, _ = nursery.run(catalog_child.__name__, [str(path), str(first), str(LAST)], env, path.parent)
    answered = [int(line) for line in said.split()]
    return code, answered[-1] if answered else first - 1


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_request_is_done_once(tmp_path: Path, seed: int, nursery: Nursery) -> None:
    dice, path, first, kills = random.Random(seed), tmp_path / "catalog.sqlite", 0, 0
    while first <= LAST:
        point = f"{dice.choice(POINTS)}=kill:{dice.randint(1, 12)}" if kills < 8 else ""
        code, answered = run_child(nursery, path, first, point)
        kills += code == -9
        first = answered + 1
    assert kills >= 4
    store = await SqliteControl.open(path)
    resources = Resources(store, SystemClock())
    found, revision = await resources.page(Selection("runs"), after_name="", limit=1_000)
    assert revision == LAST + 1
    assert [(one.generation, one.last_event) for one in found] == [(1, 1)] * ((LAST + 1) // 2)
    await store.close()
