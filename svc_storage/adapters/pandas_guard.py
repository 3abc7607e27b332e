"""Storage never meets pandas, but pyarrow imports it (0.9 s, 60 MB) at its first array from Python values, to look for its types.

In the middle of the first commit of a process that is a second of silence; without pandas pyarrow works the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _NoPandas(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError("this process runs without pandas", name=fullname)
        return None


def run_without_pandas() -> None:
    """For this process, from now on. Call it before pyarrow makes its first array."""
    sys.meta_path.insert(0, _NoPandas())
