"""The only place that makes files durable. deltalake and pyarrow never fsync (storage.md 1.4); we do, before anyone is told.

With MILLRACE_FSYNC_JOURNAL set, each fsync appends one JSON line there ({"kind": "file" | "folder", "path", "size"}): a test
that models a power loss deletes or empties whatever is not in it. The journal must lie outside the data folder.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import tempfile
from pathlib import Path

from millrace import errors

JOURNAL = "MILLRACE_FSYNC_JOURNAL"
COMMITTED_MODE = 0o444
_numbers = itertools.count()


def fsync_file(path: Path) -> None:
    """Blocking. The file's bytes are on the disk; its name only after `fsync_folder` of its folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        size = os.fstat(handle).st_size
    finally:
        os.close(handle)
    _note("file", path, size)


def fsync_folder(path: Path) -> None:
    """Blocking. The names in the folder, and their removals, are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    _note("folder", path, 0)


def make_folder(path: Path) -> None:
    """Blocking. Makes `path` and its missing parents, each durably named in its parent. 0700."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        fsync_folder(folder.parent)


def put(path: Path, content: bytes) -> None:
    """Blocking. Replaces `path` by `content`, whole or not at all, durably."""
    make_folder(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".put-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        fsync_file(Path(temporary))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _note("file", path, len(content))
    fsync_folder(path.parent)


def put_new(path: Path, content: bytes) -> bool:
    """Blocking. Makes `path` with `content`, whole, where there is none; False where there is one. Not yet durable."""
    temporary = path.with_name(f"{path.name}#{os.getpid()}.{next(_numbers)}")
    try:
        temporary.write_bytes(content)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def move_aside(path: Path, folder: Path) -> Path:
    """Blocking. Moves a file out of the way under a name that is free, durably; returns where it went."""
    make_folder(folder)
    target = folder / path.name
    number = 0
    while target.exists():
        number += 1
        target = folder / f"{path.name}.{number}"
    os.replace(path, target)
    fsync_folder(path.parent)
    fsync_folder(folder)
    return target


def from_os_error(error: OSError) -> errors.MillraceError:
    """A full disk is said by name; anything else is the store not answering. Paths stay out of the message."""
    if (error.errno or _native_errno(error)) in (errno.ENOSPC, errno.EDQUOT):
        return errors.DiskFull(
            "the storage disk is full", hint="free room; writers go on by themselves", retry_after_ms=5_000
        )
    return errors.StoreUnavailable(
        f"the storage disk failed: {error.strerror or type(error).__name__}", retry_after_ms=1_000
    )


def _native_errno(error: OSError) -> int:
    """Of an error that native code made, which has its number in its words only. 0: none."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0


def _note(kind: str, path: Path, size: int) -> None:
    journal = os.environ.get(JOURNAL)
    if not journal:
        return
    line = json.dumps({"kind": kind, "path": str(path), "size": size}) + "\n"
    handle = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
