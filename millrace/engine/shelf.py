"""A folder of files that may be made again at any time: bounded, and the least recently used go first, but never while somebody holds them.

A file is written under another name and appears whole or not at all. One process per folder. Thread-safe.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from millrace.errors import DiskFull

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_PARTIAL = ".partial"


class Hold:
    """Keeps files on the shelf until it is released, or gone itself."""

    __slots__ = ("__weakref__", "release")

    def __init__(self, let_go: Callable[[list[Path]], None], paths: list[Path]) -> None:
        self.release = weakref.finalize(self, let_go, paths)
        self.release.atexit = False


@dataclass(slots=True)
class _Kept:
    size_bytes: int
    holds: int = 0


class Draft:
    """A file under way. `path`: where to write it."""

    def __init__(self, shelf: Shelf, path: Path) -> None:
        self.path = path
        self._shelf, self._reserved = shelf, 0

    def reserve(self, size_bytes: int) -> None:
        """Makes room until the file may have `size_bytes`. Raises DiskFull when what is held leaves no room."""
        if (more := size_bytes - self._reserved) > 0:
            self._shelf._reserve(more)
            self._reserved = size_bytes

    def release(self) -> None:
        self._shelf._reserve(-self._reserved)
        self._reserved = 0


class Shelf:
    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """`folder` exists, is empty, and belongs to this process."""
        self.folder, self._limit = folder, limit_bytes
        self._lock = threading.RLock()  # again in one thread: the end of a Hold may come at any allocation
        self._kept: OrderedDict[Path, _Kept] = OrderedDict()
        self._bytes = 0

    def path(self, name: str) -> Path:
        return self.folder / name

    def hold(self, files: Iterable[str]) -> Hold | None:
        """Keeps those of `files` that are the shelf's; None when one of these is gone. They count as used now."""
        mine = [path for path in map(Path, files) if path.parent == self.folder]
        with self._lock:
            if any(path not in self._kept for path in mine):
                return None
            for path in mine:
                self._kept[path].holds += 1
                self._kept.move_to_end(path)
        return Hold(self._let_go, mine)

    @contextlib.contextmanager
    def draft(self, name: str) -> Iterator[Draft]:
        """Write the file at `draft.path`, then `keep` it; else nothing of it stays. Raises DiskFull in place of the system's error."""
        draft = Draft(self, self.folder / f"{name}{_PARTIAL}")
        try:
            yield draft
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise DiskFull("the disk is full", hint="free room for local copies", retry_after_ms=5_000) from error
        finally:
            draft.path.unlink(missing_ok=True)
            draft.release()

    def keep(self, draft: Draft) -> Hold:
        """The file is whole: it gets its name. Held at once, so that it is not the next to go."""
        path = draft.path.with_name(draft.path.name.removesuffix(_PARTIAL))
        size = draft.path.stat().st_size
        draft.reserve(size)
        with self._lock:
            os.replace(draft.path, path)
            if (old := self._kept.pop(path, None)) is not None:
                self._bytes -= old.size_bytes
            self._kept[path] = _Kept(size, old.holds if old else 0)
            self._bytes += size
            hold = self.hold([str(path)])
        assert hold is not None
        return hold

    def drop(self, file: str) -> None:
        """A file that nobody was told of goes at once."""
        with self._lock:
            if (kept := self._kept.pop(Path(file), None)) is not None:
                self._bytes -= kept.size_bytes
                Path(file).unlink(missing_ok=True)

    @property
    def size_bytes(self) -> int:
        """Of files and drafts."""
        return self._bytes

    def _let_go(self, paths: list[Path]) -> None:
        with self._lock:
            for path in paths:
                if (kept := self._kept.get(path)) is not None:
                    kept.holds -= 1

    def _reserve(self, more: int) -> None:
        with self._lock:
            if self._bytes + more > self._limit and more > 0:
                self._evict(self._bytes + more - self._limit)
            self._bytes += more

    def _evict(self, needed: int) -> None:
        if (short := self._remove_free(needed)) > 0:
            gc.collect()  # what failed or was cancelled holds on in cycles of frames and errors
            short = self._remove_free(short)
        if short > 0:
            raise DiskFull(
                f"the versions being read need more than the {self._limit >> 20} MiB set aside for files that are not on this machine",
                hint="raise STREAM_MB, or ask again when other queries are done",
                retry_after_ms=2_000,
            )

    def _remove_free(self, needed: int) -> int:
        """The least recently used that nobody holds; how many bytes are still missing."""
        for path in [path for path, kept in self._kept.items() if not kept.holds]:
            if needed <= 0:
                break
            kept = self._kept.pop(path)
            path.unlink(missing_ok=True)
            self._bytes -= kept.size_bytes
            needed -= kept.size_bytes
        return needed
