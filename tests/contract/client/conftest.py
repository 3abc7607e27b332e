"""The client against the real storage service, in this process, with every layer of the server; once per backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millrace.client import Client
from millrace.server.runtime import ServiceSpec
from millrace.server.testing import Served, running
from svc_storage.__main__ import compose
from svc_storage.config import Settings


@pytest.fixture(params=["memory", "local"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    spec = ServiceSpec(name="storage", settings=Settings.from_env, compose=compose)
    env = {"MILLRACE_STORAGE_DATA_DIR": str(tmp_path / "data"), "MILLRACE_STORAGE_BACKEND": request.param}
    async with running(spec, env, home=tmp_path) as served:
        yield served


@pytest.fixture
async def client(storage: Served) -> AsyncIterator[Client]:
    async with Client.find(storage=storage.target, token="local-token") as found:
        yield found
