"""One running stack per module, without the demo; `test_demo.py` starts its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack, started


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All five services, empty."""
    with started(tmp_path_factory.mktemp("home"), "--no-demo") as running:
        yield running
