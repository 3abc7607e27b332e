"""A change of columns becomes a commit of kind SCHEMA, between two commits of rows and with nothing else in it.

Where the backend cannot hold files of a narrower type beside wider ones (`TableFiles.widens_in_place`), the files are written anew
first, beside the running commits; only those that came meanwhile are written within the committer's turn.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.domain.definition import TableDefinition
from svc_storage.domain.writing.assembly import new_name
from svc_storage.domain.writing.committing import Committing
from svc_storage.domain.writing.schema_change import SchemaChange, evolve, needs_rewrite
from svc_storage.ports import Commit, CommitKind, DataFile, Snapshot

IN_TURN_BYTES = 16 * 1024 * 1024
"""Files of no more than this are written while appends wait."""
_ROUNDS = 8


@dataclass(slots=True)
class _Rewrites:
    """Files in the new columns, by the path of the old one. `schema_id`: of the new columns."""

    schema_id: int
    done: dict[str, DataFile] = field(default_factory=dict)


class _Again(Exception):
    """Files came meanwhile that are to be written anew first."""


async def change_schema(
    committer: Committing, change: SchemaChange, *, now_us: Callable[[], int], at: str = "schema_change"
) -> TableDefinition:
    """Durable when it returns; the definition with the columns as wished. Raises as `evolve`, and what files and log raise."""
    rewrites = _Rewrites(0)
    for number in range(_ROUNDS):
        new = evolve(committer.definition, change, at=at)
        if new is committer.definition:
            return new
        if rewrites.schema_id != new.schema_id:
            rewrites = _Rewrites(new.schema_id)
        if _rewrites_files(committer, new):
            await _write_anew(committer, new, rewrites)
        last = number == _ROUNDS - 1
        try:
            return await committer.turn(lambda: _commit(committer, change, rewrites, now_us, at=at, wait=last))  # noqa: B023
        except _Again:
            continue
    raise errors.CommitConflict("files kept coming while the table was written anew", retry_after_ms=1_000)


async def _commit(
    committer: Committing,
    change: SchemaChange,
    rewrites: _Rewrites,
    now_us: Callable[[], int],
    *,
    at: str,
    wait: bool,
) -> TableDefinition:
    """One turn. `wait`: writes whatever is missing, however much."""
    commit_id = str(uuid.uuid4())
    new = evolve(committer.definition, change, at=at)
    if new is committer.definition:
        return new
    if _rewrites_files(committer, new):
        if new.schema_id != rewrites.schema_id or not (wait or _missing_bytes(committer, rewrites) <= IN_TURN_BYTES):
            raise _Again
        await _write_anew(committer, new, rewrites)

    def make() -> Commit:
        head = committer.view.head
        again = evolve(committer.definition, change, at=at)  # after a lost race
        if again.schema_id != new.schema_id or again is committer.definition:
            raise _Again
        adds, removes = _swapped(head, rewrites) if _rewrites_files(committer, new) else ((), ())
        return Commit(
            id=commit_id,
            kind=CommitKind.SCHEMA,
            time_us=max(now_us(), head.time_us),
            adds=adds,
            removes=removes,
            schema=again.stored_schema,
            schema_id=again.schema_id,
        )

    failpoint("storage.before_schema")
    await committer.commit(make)
    failpoint("storage.after_schema")
    return committer.definition


def _rewrites_files(committer: Committing, new: TableDefinition) -> bool:
    return not committer.files.widens_in_place and needs_rewrite(committer.definition.schema, new.schema)


def _missing_bytes(committer: Committing, rewrites: _Rewrites) -> int:
    return sum(file.size_bytes for path, file in committer.view.head.files.items() if path not in rewrites.done)


async def _write_anew(committer: Committing, new: TableDefinition, rewrites: _Rewrites) -> None:
    files, schema = committer.files, new.stored_schema
    for file in list(committer.view.head.files.values()):
        if file.path in rewrites.done:
            continue
        written = await files.write(new_name(file.level), _rows(committer, file, schema), schema, level=file.level)
        if written.row_count != file.row_count:
            await files.remove([written.path])
            raise errors.ChecksumMismatch(
                f"{file.path} has {written.row_count} rows where the log says {file.row_count}"
            )
        rewrites.done[file.path] = written


def _rows(committer: Committing, file: DataFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for _, batch in committer.files.batches(file, schema):
        yield batch


def _swapped(head: Snapshot, rewrites: _Rewrites) -> tuple[tuple[DataFile, ...], tuple[DataFile, ...]]:
    """Every file's new form, in the old order. Raises _Again when one has none yet."""
    if any(path not in rewrites.done for path in head.files):
        raise _Again
    added = tuple(replace(rewrites.done[path], added_in=head.version + 1) for path in head.files)
    return added, tuple(head.files.values())
