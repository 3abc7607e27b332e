"""A folder of this process's own for spilled and streamed data."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_PREFIX = "analysis-"


def claim(root: Path) -> Path:
    """Makes it, and removes what processes that are gone left behind."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for old in root.glob(f"{_PREFIX}*"):
        if not _alive(old.name.removeprefix(_PREFIX)):
            shutil.rmtree(old, ignore_errors=True)
    mine = root / f"{_PREFIX}{os.getpid()}"
    shutil.rmtree(mine, ignore_errors=True)
    for part in ("spill", "rows"):
        (mine / part).mkdir(parents=True, mode=0o700)
    return mine


def release(mine: Path) -> None:
    shutil.rmtree(mine, ignore_errors=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
