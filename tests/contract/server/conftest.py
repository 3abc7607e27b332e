"""The toy behind the real layers, in the test's own event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from millrace.server.testing import Served, running
from tests.contract.server.toy import Toy, toy_spec


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
async def served(toy: Toy) -> AsyncIterator[Served]:
    async with running(toy_spec(toy)) as found:
        yield found
