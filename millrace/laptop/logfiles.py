"""Log files of the services: appended by them, rotated from outside at 20 MB, searched for the FATAL line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

ROTATE_BYTES = 20 << 20
KEPT = 2
_TAIL = 1 << 20


def open_log(path: Path) -> int:
    """A handle for a child to append to; O_APPEND, so that cutting the file from outside is safe."""
    rotate(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def rotate(path: Path, limit: int = ROTATE_BYTES) -> bool:
    """Copies to `.1` and cuts, when the file is larger than `limit`; what is written between the two is lost."""
    try:
        if path.stat().st_size <= limit:
            return False
        for number in range(KEPT - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                path.with_suffix(f".log.{number}").rename(path.with_suffix(f".log.{number + 1}"))
        shutil.copyfile(path, path.with_suffix(".log.1"))
        os.truncate(path, 0)
    except OSError:
        return False
    return True


def append_line(path: Path, text: str) -> None:
    """The supervisor's own lines, with the time in UTC. A disk that takes none is no reason to stop."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(OSError), path.open("a") as log:
        log.write(f"{stamp} {text}\n")


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def fatal_message(path: Path, since: int) -> str:
    """The message of the newest FATAL line behind byte `since`; without one the last line that is no log line (a traceback's); or empty."""
    lines = _lines(path, since)
    for line in reversed(lines):
        if '"FATAL"' in line and (message := _message(line)):
            return message
    return next((line.strip() for line in reversed(lines) if line.strip() and not line.startswith("{")), "")


def last_message(path: Path, since: int) -> str:
    """The message of the last log line behind byte `since`; empty when there is none."""
    return next((message for line in reversed(_lines(path, since)) if (message := _message(line))), "")


def _lines(path: Path, since: int) -> list[str]:
    """What was written behind `since`, at most 1 MiB of it; a file that was cut meanwhile counts from its start."""
    length = size(path)
    try:
        with path.open("rb") as log:
            log.seek(max(since if since <= length else 0, length - _TAIL))
            return log.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _message(line: str) -> str:
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return ""
