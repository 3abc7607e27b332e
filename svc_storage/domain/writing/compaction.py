"""Fewer, larger files: 32 fresh ones become one of level 1, 32 of those one of level 2. Never deltalake's own compaction (storage.md 1.1).

The new file is written beside the running commits; only the swap takes a turn of the committer. Rows and their order stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.domain.writing import rewrite
from svc_storage.domain.writing.assembly import new_name
from svc_storage.domain.writing.committer import Committer
from svc_storage.ports import CommitKind, Committed, DataFile

FAN_IN = 32
LEVELS = 2
MAX_OUTPUT_BYTES = 256 * 1024 * 1024
LARGE_BYTES = MAX_OUTPUT_BYTES // 2
"""A file of this size is left alone, whatever its level."""
_FEWEST = 8


@dataclass(frozen=True, slots=True)
class Merge:
    inputs: tuple[DataFile, ...]
    level: int  # of the output


def pick(files: Iterable[DataFile]) -> Merge | None:
    """The oldest files of one level that are due: 32 of them, or as many as make a full output. None when nothing is due."""
    by_level: dict[int, list[DataFile]] = {}
    for file in files:
        if file.level < LEVELS and file.size_bytes < LARGE_BYTES:
            by_level.setdefault(file.level, []).append(file)
    for level, candidates in sorted(by_level.items()):
        if found := _due(candidates):
            return Merge(found, level + 1)
    return None


def pick_all(files: Iterable[DataFile]) -> Merge | None:
    """The first neighbours that fit one output, whatever their level: for who wants the table compact now. None when none are left."""
    taken: list[DataFile] = []
    size = 0
    for file in files:
        fits = file.size_bytes < LARGE_BYTES and size + file.size_bytes <= MAX_OUTPUT_BYTES
        if not fits:
            if len(taken) > 1:
                break
            taken, size = [], 0
            if file.size_bytes >= LARGE_BYTES:
                continue
        taken.append(file)
        size += file.size_bytes
    return Merge(tuple(taken), LEVELS) if len(taken) > 1 else None


def _due(candidates: Sequence[DataFile]) -> tuple[DataFile, ...]:
    taken: list[DataFile] = []
    size = 0
    for file in candidates:
        if size + file.size_bytes > MAX_OUTPUT_BYTES:
            return tuple(taken) if len(taken) >= _FEWEST else ()
        taken.append(file)
        size += file.size_bytes
        if len(taken) == FAN_IN:
            return tuple(taken)
    return ()


async def merge(committer: Committer, what: Merge, *, commit_id: str, now_us: int) -> Committed | None:
    """Writes, then swaps. None when an input left the table meanwhile; then nothing changed. Raises what files and log raise."""
    files, schema = committer.files, committer.view.head.schema
    rows = rewrite.rows_of(files, what.inputs, schema)  # in the table's present columns
    written = await files.write(new_name(what.level), rows, schema, level=what.level)
    expected = sum(file.row_count for file in what.inputs)
    if written.row_count != expected:
        await files.remove([written.path])
        raise errors.ChecksumMismatch(f"compaction read {written.row_count} rows where the log says {expected}")
    failpoint("storage.before_compact_commit")
    swap = rewrite.Swap(kind=CommitKind.COMPACT, inputs=what.inputs, outputs=(written,), id=commit_id)
    return await rewrite.swap(committer, swap, now_us=now_us)
