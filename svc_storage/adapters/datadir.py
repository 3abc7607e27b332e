"""The data folder: who has it (an exclusive flock on LOCK), which store it is (store-id), where things lie."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path

from millrace import errors
from svc_storage.adapters import disk


class DataFolder:
    """Held until the process ends. `store_id` proves to a DIRECT reader that it sees the same disk."""

    def __init__(self, root: Path, lock: int, store_id: str) -> None:
        self.root, self.store_id = root, store_id
        self.tables = root / "tables"
        self.catalog = root / "catalog.sqlite"
        self._lock = lock

    async def release(self) -> None:
        """Another process may have it; the end of this one does the same."""
        os.close(self._lock)

    @classmethod
    def claim(cls, root: Path) -> DataFolder:
        """Blocking. Makes the folder (0700) when it is missing. Raises StoreUnavailable naming the pid that has it."""
        disk.make_folder(root)
        root.chmod(0o700)
        lock = _lock(root / "LOCK")
        disk.make_folder(root / "tables")
        return cls(root, lock, _store_id(root / "store-id"))


def _lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as held:
        pid = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(handle)
        raise errors.StoreUnavailable(
            f"the data folder is in use by process {pid}", hint="stop that process first"
        ) from held
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _store_id(path: Path) -> str:
    if path.exists() and (found := path.read_text().strip()):
        return found
    made = uuid.uuid4().hex
    disk.put(path, f"{made}\n".encode())
    path.chmod(0o600)
    return made
