"""Opening a log after anything: contracts.md W4 (a) to (c), then reading it from the oldest base.

After kill -9 followed by power loss the newest N.json may be empty or torn. It was never acknowledged (the fsync comes first), so it is
moved aside; delta-rs would refuse the table for it, and open one with an empty *middle* without a word, so that is looked for too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from millrace import errors
from svc_storage.adapters import disk
from svc_storage.adapters.delta import checkpoint, codec
from svc_storage.adapters.delta.files import LOG
from svc_storage.ports import Committed, LogTail, Snapshot, Version

QUARANTINE = "_millrace/quarantine"


def log_name(version: Version) -> str:
    return f"{version:020d}.json"


def settle(root: Path) -> None:
    """Blocking. Afterwards everything that will be served is whole and on the disk."""
    log = root / LOG
    numbers = log_versions(root)
    if numbers and not _is_whole(log / log_name(numbers[-1])):
        disk.move_aside(log / log_name(numbers[-1]), root / QUARANTINE)
        numbers = numbers[:-1]
    if not numbers:
        raise errors.ChecksumMismatch("the table's log is empty", hint="restore the table's folder from a copy")
    _settle_checkpoints(root, numbers[-1])
    disk.fsync_file(log / log_name(numbers[-1]))
    disk.fsync_folder(log)
    disk.fsync_folder(root)


def read(root: Path) -> LogTail:
    """Blocking. The oldest base from which the log goes on without a gap, and every commit after it."""
    numbers = log_versions(root)
    first = _unbroken_from(numbers)
    removed: Mapping[str, int] = {}
    if first == 0:
        created = _decode(root, 0)
        if created.commit.schema is None:
            raise errors.ChecksumMismatch("version 0 has no schema")
        base = Snapshot(version=0, time_us=created.commit.time_us, schema=created.commit.schema)
    else:
        bases = [version for version in checkpoint.versions(root) if version >= first - 1]
        if not bases:
            raise errors.ChecksumMismatch(f"commits are missing from the log before version {first}")
        try:
            base, removed = checkpoint.load(root, bases[0])
        except (OSError, ValueError) as torn:
            raise errors.ChecksumMismatch(f"the record of version {bases[0]} is damaged") from torn
    return LogTail(base, tuple(_decode(root, number) for number in numbers if number > base.version), removed)


def read_commits(root: Path, after: Version) -> Sequence[Committed]:
    """Blocking. The commits after a version, as far as they go without a gap. Raises ValueError for a torn one, OSError."""
    found = []
    version = after + 1
    while (path := root / LOG / log_name(version)).exists():
        found.append(codec.decode_log_file(version, path.read_bytes()))
        version += 1
    return found


def log_versions(root: Path) -> list[Version]:
    """Numbers of the log files, ascending."""
    names = (path.name for path in (root / LOG).iterdir())
    return sorted(
        int(name[:20]) for name in names if len(name) == 25 and name.endswith(".json") and name[:20].isdigit()
    )


def _decode(root: Path, version: Version) -> Committed:
    try:
        return codec.decode_log_file(version, (root / LOG / log_name(version)).read_bytes())
    except (ValueError, KeyError, TypeError) as torn:
        raise errors.ChecksumMismatch(f"version {version} of the table's log is damaged") from torn


def _unbroken_from(numbers: Sequence[Version]) -> Version:
    first = numbers[-1]
    for number in reversed(numbers[:-1]):
        if number != first - 1:
            break
        first = number
    return first


def _is_whole(path: Path) -> bool:
    try:
        codec.decode_log_file(checkpoint.version_of(path), path.read_bytes())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _settle_checkpoints(root: Path, newest: Version) -> None:
    """A checkpoint without footer, one above the newest commit, and a hint to a missing one go away; the rest becomes durable."""
    kept: set[Version] = set()
    for path in checkpoint.checkpoints_on_disk(root):
        version = checkpoint.version_of(path)
        if version > newest or not checkpoint.is_sound(path):
            disk.move_aside(path, root / QUARANTINE)
        else:
            kept.add(version)
            disk.fsync_file(path)
    hint = root / LOG / checkpoint.HINT
    if not hint.exists():
        return
    try:
        named = json.loads(hint.read_bytes())["version"]
    except (ValueError, KeyError, TypeError):
        named = -1
    if named in kept:
        disk.fsync_file(hint)
    else:
        hint.unlink()
