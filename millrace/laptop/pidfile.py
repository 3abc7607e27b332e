"""One supervisor per home: a locked file that says who it is. The lock, not the number, tells whether it lives."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path


class PidFile:
    """Holds the lock until the process (and every fork of it) ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def take(self) -> int:
        """0 when the lock is ours now; else the pid of the one that runs."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return holder(self._path) or -1
        self.write()
        return 0

    def write(self) -> None:
        """Says that this process is the holder; again after a fork."""
        said = json.dumps({"pid": os.getpid(), "start_time": time.time()}) + "\n"
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, said.encode(), 0)

    def close(self) -> None:
        """Leaves the lock to a fork of this process, if there is one."""
        os.close(self._handle)

    def release(self) -> None:
        os.ftruncate(self._handle, 0)
        fcntl.flock(self._handle, fcntl.LOCK_UN)
        os.close(self._handle)


def holder(path: Path) -> int:
    """The pid that the file names; 0 when it names none."""
    try:
        return int(json.loads(path.read_text())["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def running(path: Path) -> int:
    """The pid of the supervisor that holds the lock; 0 when none does."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        return 0
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return 0
    except BlockingIOError:
        return holder(path)
    finally:
        os.close(handle)
