"""A group becomes a commit: one data file, one file of dead letters, each writer's record moved on. Pure but for the files."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from millrace import errors
from svc_storage.domain.definition import TableDefinition
from svc_storage.domain.writing import dead_letters
from svc_storage.domain.writing.group import Pending
from svc_storage.domain.writing.schema_change import reshape
from svc_storage.ports import MERGED, Commit, CommitKind, DataFile, DeadLetterFile, Snapshot, TableFiles, WriterState


@dataclass(frozen=True, slots=True)
class Written:
    """The group's rows and dead letters, durable but not yet part of the table. `time_us`: their `_ingested_at`.

    `schema_id`: of the columns that they are in."""

    time_us: int
    schema_id: int
    rows: tuple[DataFile, ...]
    dead: tuple[DeadLetterFile, ...]


class OtherColumns(Exception):
    """The table's columns changed between writing the files and committing them."""


async def write_files(
    files: TableFiles, definition: TableDefinition, entries: Sequence[Pending], *, time_us: int
) -> Written:
    """Raises DiskFull, StoreUnavailable."""
    letters: tuple[DeadLetterFile, ...] = ()
    parts = [(entry.stream.writer, entry.positions or {}, entry.dead) for entry in entries if entry.dead]
    if parts:
        batch = dead_letters.table_of(parts, time_us=time_us)
        file = await files.write(f"{dead_letters.FOLDER}/{new_name(0)}", [batch], dead_letters.SCHEMA)
        letters = (DeadLetterFile(file.path, file.size_bytes, file.row_count),)
    rows: tuple[DataFile, ...] = ()
    if any(entry.rows.num_rows for entry in entries):
        stamped = _stamped(entries, definition, time_us)
        rows = (await files.write(new_name(0), stamped, definition.stored_schema),)
    return Written(time_us, definition.schema_id, rows, letters)


class WriterMoved(Exception):
    """Another replica moved a writer since its batches were judged: the group is decided anew."""


def refusal(entry: Pending, state: WriterState | None) -> errors.MillraceError | None:
    """Why a batch does not follow what is stored of its writer; None when it does (contracts.md W2, W3)."""
    if state is None or state.epoch != entry.stream.epoch:
        return errors.WriterFenced("another process moved this writer", hint="stop")
    if state.next_offset == entry.mark.offset:
        return None
    where = {"next_offset": str(state.next_offset)}
    return errors.OffsetOverlap(
        "another stream of this writer stored rows meanwhile", metadata=where, hint="open again, send from opened.next_offset"
    )  # fmt: skip


def commit_of(entries: Sequence[Pending], written: Written, head: Snapshot) -> Commit:
    """The commit as the successor of `head`. Raises WriterMoved when a writer moved on since its batches were judged, OtherColumns when
    the files are in older columns than the table is."""
    if written.rows and written.schema_id != head.schema_id:
        raise OtherColumns
    if MERGED in head.writers and not entries[0].stream.merges:
        raise merged_already()
    moved: dict[str, WriterState] = {}
    for entry in entries:
        moved[entry.stream.writer] = _advanced(entry, moved.get(entry.stream.writer), head.writers)
    highs = [state.event_time_high_us for state in moved.values() if state.event_time_high_us is not None]
    return Commit(
        id=str(uuid.uuid4()),
        kind=CommitKind.APPEND,
        schema_id=written.schema_id,
        time_us=max(written.time_us, head.time_us),  # another replica's clock may be ahead
        adds=tuple(replace(file, added_in=head.version + 1) for file in written.rows),
        writers=moved,
        dead_letters=tuple(replace(file, added_in=head.version + 1) for file in written.dead),
        event_time_high_us=max(highs, default=None),
        trace_context=next((entry.stream.trace_context for entry in entries if entry.stream.trace_context), ""),
    )


def merged_already() -> errors.WriterModeConflict:
    return errors.WriterModeConflict(
        "the table is merged into: a key names one row there",
        field="open.table",
        hint="use MergeRows, or another table",
    )


def new_name(level: int) -> str:
    """A file name that nothing else has; the level is readable from it."""
    return f"l{level}-{secrets.token_hex(10)}.parquet"


def _advanced(entry: Pending, within: WriterState | None, stored: Mapping[str, WriterState]) -> WriterState:
    stream = entry.stream
    base = within or stored.get(stream.writer)
    if base is None or refusal(entry, base) is not None:
        raise WriterMoved
    highs = [high for high in (base.event_time_high_us, entry.event_time_high_us) if high is not None]
    marks = within.marks if within else ()  # of this commit only
    return WriterState(
        epoch=base.epoch,
        next_offset=base.next_offset + entry.mark.rows,
        positions=base.positions if entry.positions is None else dict(entry.positions),
        event_time_high_us=max(highs, default=None),
        marks=(*marks, entry.mark) if entry.mark.rows else marks,
        owner=base.owner,
        lease=base.lease,
    )


def _stamped(entries: Sequence[Pending], definition: TableDefinition, time_us: int) -> Iterator[pa.RecordBatch]:
    stamp = pa.scalar(time_us, pa.timestamp("us", "UTC"))
    schema = definition.stored_schema
    for entry in entries:
        if entry.rows.num_rows:
            columns = reshape(entry.rows, definition.schema).columns  # they may have changed since the batch was judged
            yield pa.RecordBatch.from_arrays([*columns, pa.repeat(stamp, entry.rows.num_rows)], schema=schema)
