from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest

from tests.codebase.tree import Module, parse

Planter = Callable[..., Module]


@pytest.fixture
def planted() -> Planter:
    """A module that breaks a rule, so that each rule shows that it can fail."""

    def plant(source: str, path: str = "svc_storage/domain/planted.py") -> Module:
        return parse(path, textwrap.dedent(source))

    return plant
