"""Files of a table written anew: the outputs beside the running commits, the swap in one turn of the committer.

Whoever takes rows out or changes them in place uses it: compaction, erasure, retention, merges.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.domain.writing.assembly import new_name
from svc_storage.domain.writing.committing import Committing
from svc_storage.ports import Commit, CommitKind, Committed, DataFile, DeadLetterFile, TableFiles

Keep = Callable[[pa.RecordBatch], pa.RecordBatch]
"""The rows of a batch that stay, or what stands in their place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """`inputs` leave the table, `outputs` (written, of no version yet) come in. `id` begins the commit's id: who asked for it."""

    kind: CommitKind
    inputs: tuple[DataFile, ...] = ()
    outputs: tuple[DataFile, ...] = ()
    dead_inputs: tuple[DeadLetterFile, ...] = ()
    dead_outputs: tuple[DeadLetterFile, ...] = ()
    id: str = ""


async def swap(committer: Committing, what: Swap, *, now_us: int) -> Committed | None:
    """One commit. None when an input has left the table meanwhile: then nothing changed, and the outputs are removed.

    Raises what the log raises; after an unknown outcome the outputs stay, garbage collection takes them if no version names them."""
    failpoint("storage.before_swap")
    done = await committer.turn(lambda: _commit(committer, what, now_us))
    if done is None:
        written = [file.path for file in what.outputs] + [file.path for file in what.dead_outputs]
        await committer.files.remove(written)
    return done


async def _commit(committer: Committing, what: Swap, now_us: int) -> Committed | None:
    id = f"{what.id}{secrets.token_hex(8)}"

    def make() -> Commit:
        head = committer.view.head
        letters = {file.path for file in head.dead_letters}
        if any(file.path not in head.files for file in what.inputs) or any(
            file.path not in letters for file in what.dead_inputs
        ):
            raise _InputLeft
        return Commit(
            id=id,
            kind=what.kind,
            time_us=max(now_us, head.time_us),
            adds=tuple(replace(file, added_in=head.version + 1) for file in what.outputs),
            removes=what.inputs,
            dead_letters=tuple(replace(file, added_in=head.version + 1) for file in what.dead_outputs),
            dead_letters_removed=what.dead_inputs,
        )

    try:
        return await committer.commit(make)
    except _InputLeft:
        return None


class _InputLeft(Exception):
    """Another commit took an input out."""


async def write_without(
    files: TableFiles, file: DataFile, schema: pa.Schema, keep: Keep, *, path: str = ""
) -> DataFile | None:
    """`file` written anew with what `keep` leaves of each batch, in its order and level; None when nothing stays.

    Raises ChecksumMismatch when the file has other rows than the log says, and what the files raise; then nothing of it is left."""
    counted = [0, 0]

    def kept() -> Iterator[pa.RecordBatch]:
        for _, batch in files.batches(file, schema):
            left = keep(batch)
            counted[0] += batch.num_rows
            counted[1] += left.num_rows
            if left.num_rows:
                yield left

    written = await files.write(path or new_name(file.level), kept(), schema, level=file.level)
    if counted[0] != file.row_count:
        await files.remove([written.path])
        raise errors.ChecksumMismatch(f"{file.path} has {counted[0]} rows where the log says {file.row_count}")
    if not counted[1]:
        await files.remove([written.path])
        return None
    return written


def rows_of(files: TableFiles, inputs: Sequence[DataFile], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Blocking. The rows of several files, in the given columns."""
    for file in inputs:
        for _, batch in files.batches(file, schema):
            yield batch
