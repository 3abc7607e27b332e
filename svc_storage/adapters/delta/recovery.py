"""Opening a log after anything: contracts.md W4 (a) to (c), then reading it from the oldest base.

After kill -9 followed by power loss the newest N.json may be empty or torn. It was never acknowledged (the fsync comes first), so it is
moved aside; delta-rs would refuse the table for it, and open one with an empty *middle* without a word, so that is looked for too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from millrace import errors
from svc_storage.adapters.delta import checkpoint, codec
from svc_storage.adapters.delta.place import LOG, Place, log_name
from svc_storage.ports import Committed, LogTail, Snapshot, Version

AT_ONCE = 16
"""Entries that are read side by side where the place can."""


def settle(place: Place) -> None:
    """Blocking. Afterwards everything that will be served is whole and on the disk."""
    if place.whole:
        return
    numbers = log_versions(place)
    if numbers and not _is_whole(place, numbers[-1]):
        place.move_aside(_path(numbers[-1]))
        numbers = numbers[:-1]
    if not numbers:
        raise errors.ChecksumMismatch("the table's log is empty", hint="restore the table's folder from a copy")
    kept = _settle_checkpoints(place, numbers[-1])
    place.keep([*kept, _path(numbers[-1])], [LOG, ""])


def read(place: Place) -> LogTail:
    """Blocking. The oldest base from which the log goes on without a gap, and every commit after it.

    Raises ChecksumMismatch; FileNotFoundError when the log is being cut meanwhile: read again."""
    numbers = log_versions(place)
    if not numbers:
        if place.exists(_path(0)):
            raise errors.StoreUnavailable("the store does not list the table's log", retry_after_ms=1_000)
        raise errors.ChecksumMismatch("the table's log is empty", hint="restore the table's folder from a copy")
    first = _unbroken_from(numbers)
    removed: Mapping[str, int] = {}
    if first == 0:
        (created,) = _decoded(place, [0])
        if created.commit.schema is None:
            raise errors.ChecksumMismatch("version 0 has no schema")
        files = {file.path: file for file in created.commit.adds}  # other programs make a table with its first rows
        base = Snapshot(version=0, time_us=created.commit.time_us, schema=created.commit.schema, files=files)
    else:
        bases = [version for version in checkpoint.versions(place) if version >= first - 1]
        if not bases:
            raise errors.ChecksumMismatch(f"commits are missing from the log before version {first}")
        try:
            base, removed = checkpoint.load(place, bases[0])
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as torn:
            raise errors.ChecksumMismatch(f"the record of version {bases[0]} is damaged") from torn
    return LogTail(base, tuple(_decoded(place, [number for number in numbers if number > base.version])), removed)


def read_commits(place: Place, after: Version) -> Sequence[Committed]:
    """Blocking. The commits after a version, as far as they go without a gap. Raises ValueError for a torn one, OSError."""
    found: list[Committed] = []
    width = (
        1  # most looks find one or none; who is behind reads many at once, or would never meet a busy writer's newest
    )
    while True:
        first = after + 1 + len(found)
        try:
            texts = place.read_all([_path(first + i) for i in range(width)])
            for version, text in enumerate(texts, first):
                found.append(codec.decode_log_file(version, text))
        except FileNotFoundError:
            return found
        width = min(4 * width, AT_ONCE)


def is_cut_above(place: Place, version: Version) -> bool:
    """Whether the log goes on, but not with the next version."""
    numbers = [number for number in log_versions(place) if number > version]
    return bool(numbers) and numbers[0] != version + 1


def log_versions(place: Place) -> list[Version]:
    """Numbers of the log files, ascending."""
    return sorted(
        int(name[:20])
        for name in place.names(LOG)
        if len(name) == 25 and name.endswith(".json") and name[:20].isdigit()
    )


def _path(version: Version) -> str:
    return f"{LOG}/{log_name(version)}"


def _decoded(place: Place, versions: Sequence[Version]) -> Iterator[Committed]:
    texts = place.read_all([_path(version) for version in versions])
    for version, text in zip(versions, texts, strict=True):
        try:
            yield codec.decode_log_file(version, text)
        except (ValueError, KeyError, TypeError) as torn:
            raise errors.ChecksumMismatch(f"version {version} of the table's log is damaged") from torn


def _unbroken_from(numbers: Sequence[Version]) -> Version:
    first = numbers[-1]
    for number in reversed(numbers[:-1]):
        if number != first - 1:
            break
        first = number
    return first


def _is_whole(place: Place, version: Version) -> bool:
    try:
        codec.decode_log_file(version, place.read(_path(version)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _settle_checkpoints(place: Place, newest: Version) -> Sequence[str]:
    """A checkpoint without footer, one above the newest commit, and a hint to a missing one go away; the names of the rest."""
    names = place.names(LOG)
    kept: dict[Version, str] = {}
    for name in checkpoint.checkpoints_among(names):
        path = f"{LOG}/{name}"
        version = checkpoint.version_of(name)
        if version > newest or place.is_torn(path):
            place.move_aside(path)
        else:
            kept[version] = path
    if checkpoint.HINT not in names:
        return list(kept.values())
    hint = f"{LOG}/{checkpoint.HINT}"
    try:
        named = json.loads(place.read(hint))["version"]
    except (ValueError, KeyError, TypeError):
        named = -1
    if named in kept:
        return [*kept.values(), hint]
    place.delete([hint])
    return list(kept.values())
