from __future__ import annotations

import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.contract.storage.backends import BACKENDS, Rig

ONLY = [name for name in os.environ.get("TEST_BACKENDS", "").split(",") if name]
"""`make test-storage BACKEND=…` names one or more; none named: those that start in a second."""
# What only Cassandra has is not collected where it was not asked for: a skip would count as a gap of this machine.
collect_ignore = [] if "cassandra" in ONLY else ["test_key_tables.py"]
CHOSEN = ONLY or [name for name in BACKENDS if name in ("memory", "local", "s3")]

START_AND_TEST_S = 300
"""Limit of a test where stores are named: the first that needs one may wait for three servers to start."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if ONLY and Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(START_AND_TEST_S))


@pytest.fixture(params=CHOSEN)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    pool = ThreadPoolExecutor(4)
    async with BACKENDS[request.param](tmp_path, pool) as backend:
        built = Rig(tmp_path, backend, pool)
        yield built
        await built.close()
