"""A model of power loss: whatever the fsync journal (MILLRACE_FSYNC_JOURNAL) does not vouch for may be lost.

A file's bytes are safe after its own fsync, its name after one of its folder. What is not safe is deleted, emptied, cut or kept, as the
dice fall: a disk may have written any part of it. SQLite syncs by itself and is left out.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path


def lose_power(root: Path, journal: Path, dice: random.Random) -> list[str]:
    """Call while nothing runs on `root`. What was done, one line per file."""
    entries = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    synced: dict[str, tuple[int, int]] = {}  # path -> (place in the journal, size)
    named: dict[str, int] = {}  # folder -> place of its last fsync
    for place, entry in enumerate(entries):
        if entry["kind"] == "file":
            synced[entry["path"]] = (place, entry["size"])
        else:
            named[entry["path"]] = place
    return [
        line
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(("catalog.sqlite", "LOCK"))
        for line in _lose(path, synced.get(str(path)), named.get(str(path.parent), -1), dice)
    ]


def _lose(path: Path, synced: tuple[int, int] | None, folder_synced: int, dice: random.Random) -> list[str]:
    if synced is None:
        fate = dice.choice(["deleted", "emptied", "cut", "kept"])
    elif folder_synced < synced[0]:
        fate = dice.choice(["deleted", "kept"])
    else:
        return []
    if fate == "deleted":
        path.unlink()
    elif fate != "kept":
        os.chmod(path, 0o644)
        os.truncate(path, 0 if fate == "emptied" else path.stat().st_size // 2)
    return [f"{fate} {path.name}"]
