"""Files of an object store on a local disk, for readers: bounded, the least recently used go first. Nothing here is the truth.

Files never change once they are written, so a copy is good for as long as it is kept. Every process has a folder of its own, locked;
one that a dead process left is taken over with what is in it, unless the machine stopped meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

_LARGEST = 4
"""A file above this part of the limit would push out too much: it is not kept."""


class FileCache:
    """Made by `claim`; `limit_bytes` bounds what is kept. Any thread; a file that is being fetched is fetched once."""

    def __init__(self, folder: Path, lock: int, limit_bytes: int) -> None:
        self._folder, self._lock, self._limit_bytes = folder, lock, limit_bytes
        self._kept: OrderedDict[str, int] = OrderedDict()  # name -> bytes, least recently used first
        self._bytes = 0
        self._guard = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}
        self.hits = self.misses = 0

    @classmethod
    def claim(cls, root: Path, limit_bytes: int) -> FileCache:
        """A folder below `root` that no living process has. Raises OSError."""
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = 0
        while True:
            folder = root / f"{number}"
            folder.mkdir(exist_ok=True, mode=0o700)
            lock = os.open(folder / "LOCK", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                number += 1
                continue
            made = cls(folder, lock, limit_bytes)
            made._take_over()
            return made

    def close(self) -> None:
        """Another process may have the folder now."""
        os.close(self._lock)

    def takes(self, size_bytes: int) -> bool:
        return size_bytes * _LARGEST <= self._limit_bytes

    def spool(self) -> Path:
        """A new name on the same disk, for a file that is being made. Whoever asked removes it, or gives it to `adopt`."""
        return self._folder / f"new-{uuid.uuid4().hex}"

    def adopt(self, key: str, path: Path) -> None:
        """A spooled file becomes the copy of `key`."""
        size = path.stat().st_size
        if not self.takes(size):
            path.unlink()
            return
        with self._guard:
            self._add(key, path, size)

    def open(self, key: str, fetch: Callable[[Path], None]) -> pa.NativeFile:
        """The copy of `key`, fetched first when there is none; stays readable when it is evicted. Raises what `fetch` raises, OSError."""
        name = _name(key)
        with self._guard:
            turn = self._fetching.setdefault(name, threading.Lock())
        with turn:
            try:
                if (found := self._open_kept(name)) is not None:
                    return found
                path = self.spool()
                try:
                    fetch(path)
                    with self._guard:
                        self.misses += 1
                        self._add(key, path, path.stat().st_size)
                        return pa.OSFile(str(self._folder / name), "rb")
                finally:
                    path.unlink(missing_ok=True)
            finally:
                with self._guard:
                    self._fetching.pop(name, None)

    def forget(self, key: str) -> None:
        """The object is gone, or the copy turned out to be bad."""
        with self._guard:
            self._drop(_name(key))

    def _open_kept(self, name: str) -> pa.NativeFile | None:
        with self._guard:
            if name not in self._kept:
                return None
            try:
                found = pa.OSFile(str(self._folder / name), "rb")
            except OSError:  # somebody tidied up
                self._drop(name)
                return None
            self._kept.move_to_end(name)
            self.hits += 1
            return found

    def _add(self, key: str, path: Path, size: int) -> None:
        name = _name(key)
        self._drop(name)
        os.replace(path, self._folder / name)
        self._kept[name] = size
        self._bytes += size
        while self._bytes > self._limit_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, name: str) -> None:
        size = self._kept.pop(name, None)
        if size is not None:
            self._bytes -= size
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()

    def _take_over(self) -> None:
        """What is there is good as long as the machine did not stop: copies are not fsynced."""
        boot = _boot()
        same = bool(boot) and os.pread(self._lock, 64, 0) == boot
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, boot, 0)
        found = []
        for path in self._folder.iterdir():
            if path.name.startswith("new-") or (path.name != "LOCK" and not same):
                path.unlink(missing_ok=True)
            elif path.name != "LOCK":
                seen = path.stat()
                found.append((max(seen.st_atime_ns, seen.st_mtime_ns), path.name, seen.st_size))
        for _, name, size in sorted(found):
            self._kept[name] = size
            self._bytes += size
        while self._bytes > self._limit_bytes:
            self._drop(next(iter(self._kept)))


def _boot() -> bytes:
    """Changes when the machine starts; empty where nobody can tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b""


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:40]
