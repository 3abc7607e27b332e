from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.integration.fleet.processes import Processes
from tests.integration.fleet.replicas import SHARED, Place, shared

FULL = bool(os.environ.get("FLEET_FULL"))
"""`make fleet`: the numbers of the promise instead of a sample of it."""


def _s3() -> Mapping[str, str]:
    from tests.servers.weed import settings, shared_weed

    return settings(shared_weed(), f"fleet/{uuid.uuid4().hex[:12]}")


def _cassandra() -> Mapping[str, str]:
    from tests.servers.cassandra import shared_cassandra

    return {
        "MILLRACE_STORAGE_BACKEND": "cassandra",
        "MILLRACE_STORAGE_CASSANDRA_CONTACT_POINTS": ",".join(shared_cassandra().contact_points),
        "MILLRACE_STORAGE_CASSANDRA_KEYSPACE": f"f_{uuid.uuid4().hex[:12]}",
    }


STORES: Mapping[str, Callable[[], Mapping[str, str]]] = {"s3": _s3, "cassandra": _cassandra}


@pytest.fixture(params=SHARED)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with shared(request.param, tmp_path) as found:
        yield found


@pytest.fixture(scope="module", params=[name for name in SHARED if name in STORES])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    made = Processes(tmp_path_factory.mktemp("fleet"), STORES[request.param]())
    try:
        made.start()
        yield made
    finally:
        made.close()
