"""What runs against real parts. Not in `make test`: `make infra-test`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.infra.real.ground import Ground
from tests.infra.rendered import of_kind, overlay


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """One API for the session, with the namespace, the accounts and the priority classes of the base."""
    with Ground.start(tmp_path_factory.mktemp("ground")) as made:
        objects = overlay("prod-s3")
        for kind in ("Namespace", "PriorityClass", "ServiceAccount"):
            made.apply(list(of_kind(objects, kind).values()))
        yield made
