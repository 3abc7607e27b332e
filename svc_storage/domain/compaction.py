"""Fewer, larger files: 32 fresh ones become one of level 1, 32 of those one of level 2. Never deltalake's own compaction (storage.md 1.1).

The new file is written beside the running commits; only the swap takes a turn of the committer. Rows and their order stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.domain.assembly import new_name
from svc_storage.domain.committer import Committer
from svc_storage.ports import Commit, CommitKind, Committed, DataFile, TableFiles

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
    written = await files.write(new_name(what.level), _rows_of(files, what.inputs, schema), schema, level=what.level)
    expected = sum(file.row_count for file in what.inputs)
    if written.row_count != expected:
        await files.remove([written.path])
        raise errors.ChecksumMismatch(f"compaction read {written.row_count} rows where the log says {expected}")
    failpoint("storage.before_compact_commit")

    async def swap() -> Committed | None:
        active = committer.view.head.files
        if any(file.path not in active for file in what.inputs):
            return None

        def make() -> Commit:
            head = committer.view.head
            return Commit(
                id=commit_id,
                kind=CommitKind.COMPACT,
                time_us=max(now_us, head.time_us),
                adds=(replace(written, added_in=head.version + 1),),
                removes=what.inputs,
            )

        return await committer.commit(make)

    done = await committer.turn(swap)
    if done is None:
        await files.remove([written.path])
    return done


def _rows_of(files: TableFiles, inputs: Sequence[DataFile], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """In the table's present columns."""
    for file in inputs:
        for _, batch in files.batches(file, schema):
            yield batch
