"""The stores that measurements run over: what a storage service needs to reach one, its servers started and ended here.

BENCH_BACKENDS=local,s3 chooses; the default is all that start by themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """`settings`: of a storage service. `log_bytes`: what the log of a table (its uid) takes."""

    settings: Mapping[str, str]
    log_bytes: Callable[[str], int]


@contextmanager
def _local(home: Path) -> Iterator[Place]:
    def log_bytes(uid: str) -> int:
        return sum(file.stat().st_size for file in (home / "data" / "tables" / uid / "_delta_log").iterdir())

    yield Place({}, log_bytes)


STORES: Mapping[str, Callable[[Path], AbstractContextManager[Place]]] = {"local": _local}
"""By name; each with an empty store of its own below `home`."""


def chosen() -> Sequence[str]:
    named = [name for name in os.environ.get("BENCH_BACKENDS", "").split(",") if name]
    return named or list(STORES)
