from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.contract.storage.backends import BACKENDS, Rig


@pytest.fixture(params=BACKENDS)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    pool = ThreadPoolExecutor(4)
    built = Rig(tmp_path, BACKENDS[request.param](tmp_path, pool), pool)
    yield built
    await built.close()
