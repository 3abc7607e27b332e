"""MergeRows: rows come in by primary key, replace or delete what is there, and land together in one commit of kind MERGE.

Streams, offsets and acknowledgements are AppendRows' (`appending`, `writers`); here is what differs: a batch's rows say UPSERT or DELETE,
and a group becomes a commit by writing anew, without the rows it replaces, every file that holds one of them.

A table is appended to or merged into. It may begin by being appended to; from its first merge on it is merged into for good
(`MERGED` among its writers), and as long as a stream of the one kind is open, none of the other is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.domain.definition import TableDefinition
from svc_storage.domain.reading.keys import IndexOf, Keys, Mask, Rows, codes, equal, key_schema, read_rows
from svc_storage.domain.writing import assembly, contract, rewrite
from svc_storage.domain.writing.appending import AppendStream, Desk, OpenRequest
from svc_storage.domain.writing.assembly import Written
from svc_storage.domain.writing.contract import BadRow, Checked
from svc_storage.domain.writing.group import Pending
from svc_storage.domain.writing.schema_change import SchemaChange, reshape
from svc_storage.ports import MERGED, Commit, CommitKind, DataFile, Snapshot, TableFiles, WriterState

UPSERT, DELETE = "UPSERT", "DELETE"
_DELETED = "_deleted"
_INSERTED, _UPDATED, _GONE, _IGNORED = range(4)
Fates = npt.NDArray[np.int8]


# -- opening a stream -------------------------------------------------------------------------------------------------
def check_mode(
    request: OpenRequest, definition: TableDefinition, head: Snapshot, streams: Iterable[AppendStream]
) -> None:
    """Raises WriterModeConflict, NoPrimaryKey, FieldInvalid (op_column)."""
    merges = request.op_column is not None
    if not merges and MERGED in head.writers:
        raise assembly.merged_already()
    if not merges and definition.native_lookup and definition.sequence_column:
        raise errors.WriterModeConflict(
            "looked up in a derived table and ordered by a sequence: the table is only merged into",
            field="open.table",
            hint="use MergeRows",
        )
    if merges and not definition.primary_key:
        raise errors.NoPrimaryKey("rows are merged by the primary key, and the table has none", field="open.table")
    if merges:
        wire_schema(definition, request.op_column or "")
    if request.sequence_column not in ("", definition.sequence_column):
        raise errors.FieldInvalid(
            f"the table's sequence column is `{definition.sequence_column}`"
            if definition.sequence_column
            else "the table has no sequence column",
            field="open.sequence_column",
            hint="set it on the table, or leave it out here",
        )
    if any(stream.live and stream.merges is not merges and stream.writer != request.writer for stream in streams):
        doing, hint = ("appends to", "MergeRows") if merges else ("merges into", "AppendRows")
        raise errors.WriterModeConflict(
            f"another writer {doing} the table", field="open.table", hint=f"wait until it is done before {hint}"
        )


def columns_of(stream: AppendStream) -> pa.Schema:
    """What the next batch must match."""
    return wire_schema(stream.definition, stream.op_column) if stream.merges else stream.definition.schema


def wire_schema(definition: TableDefinition, op_column: str) -> pa.Schema:
    """What batches must match: the table's columns, of which only the key's and the sequence must be there (a DELETE needs no others),
    then the operation's, unless the table has it. Raises FieldInvalid."""
    needed = strict_columns(definition)
    columns = [column.with_nullable(column.name not in needed) for column in definition.schema]
    if op_column in definition.schema.names:
        if not pa.types.is_string(definition.schema.field(op_column).type):
            raise errors.FieldInvalid("the operation is a text", field="open.op_column")
        columns = [column.with_nullable(column.nullable and column.name != op_column) for column in columns]
    elif op_column:
        columns.append(pa.field(op_column, pa.string(), nullable=False))
    return pa.schema(columns, metadata=definition.schema.metadata)


def strict_columns(definition: TableDefinition) -> tuple[str, ...]:
    """Never NULL in a merged row."""
    return (*definition.primary_key, *filter(None, (definition.sequence_column,)))


def desk_for(desk: Desk, request: OpenRequest) -> Desk:
    """Where the stream hands in its batches: `desk` itself when it appends."""
    return desk if request.op_column is None else MergeDesk(desk, request.op_column)


class MergeDesk:
    """A desk to which rows with an operation are handed in."""

    def __init__(self, desk: Desk, op_column: str) -> None:
        self._desk, self._op_column = desk, op_column
        self.room, self.submit, self.hurry, self.answer = desk.room, desk.submit, desk.hurry, desk.answer
        self.leave = desk.leave

    @property
    def definition(self) -> TableDefinition:
        return self._desk.definition

    async def change_schema(self, change: SchemaChange) -> TableDefinition:
        return await self._desk.change_schema(change)

    async def check(self, rows: pa.RecordBatch, *, aside: bool) -> Checked:
        if aside:
            return await asyncio.to_thread(check, rows, self.definition, self._op_column)
        return check(rows, self.definition, self._op_column)


# -- a batch ----------------------------------------------------------------------------------------------------------
def check(batch: pa.RecordBatch, definition: TableDefinition, op_column: str) -> Checked:
    """CPU-bound. The good rows in order, in the table's columns (NULL where a DELETE has nothing) and `_deleted`.

    Raises as `contract.check`."""
    deleted, unknown = _operations(batch, op_column)
    plain = batch.select([name for name in batch.schema.names if name in definition.schema.names or name != op_column])
    needed = strict_columns(definition)
    full = pa.schema(
        [column.with_nullable(column.nullable and column.name not in needed) for column in definition.schema]
    )
    keyed = pa.schema([full.field(name) for name in full.names if name in needed])
    upserts = _checked(plain, np.flatnonzero(~deleted & ~unknown), replace(definition, schema=full))
    rules = {name: rule for name, rule in definition.rules.items() if name in needed}
    deletes = _checked(
        plain.select(keyed.names), np.flatnonzero(deleted), replace(definition, schema=keyed, rules=rules)
    )
    bad = [
        BadRow(index, op_column, "ENUM", f"neither {UPSERT} nor {DELETE}", contract.raw_of(batch, index))
        for index in np.flatnonzero(unknown).tolist()
    ]
    bad += [*upserts.bad, *deletes.bad]
    parts = [
        _change(part.rows, definition, gone) for part, gone in ((upserts, False), (deletes, True)) if part.rows.num_rows
    ]
    order = np.argsort(np.concatenate([upserts.places, deletes.places]), kind="stable")
    rows = pa.concat_batches(parts).take(pa.array(order)) if parts else _change(upserts.rows, definition, False)
    return Checked(rows, tuple(sorted(bad, key=lambda row: row.index)))


@dataclass(frozen=True, slots=True)
class _Part:
    """Rows that passed, with their places in the batch, and those that did not."""

    rows: pa.RecordBatch
    places: Rows
    bad: tuple[BadRow, ...]


def _checked(batch: pa.RecordBatch, places: Rows, definition: TableDefinition) -> _Part:
    part = batch if len(places) == batch.num_rows else batch.take(pa.array(places))
    if not len(places):
        part = pa.RecordBatch.from_pylist([], schema=definition.schema)
    found = contract.check(part, definition)
    bad = tuple(replace(row, index=int(places[row.index])) for row in found.bad)
    kept = np.delete(places, [row.index for row in found.bad]) if bad else places
    return _Part(found.rows, kept, bad)


def _operations(batch: pa.RecordBatch, op_column: str) -> tuple[Mask, Mask]:
    """Which rows delete, and which have an operation that is none."""
    if not op_column or op_column not in batch.schema.names:
        none = np.zeros(batch.num_rows, np.bool_)
        return none, none
    column = batch.column(op_column)
    deleted = pc.fill_null(pc.equal(column, DELETE), False).to_numpy(zero_copy_only=False)
    upserted = pc.fill_null(pc.equal(column, UPSERT), False).to_numpy(zero_copy_only=False)
    return deleted, ~deleted & ~upserted


def _change(rows: pa.RecordBatch, definition: TableDefinition, deleted: bool) -> pa.RecordBatch:
    wide = reshape(rows, _loose(definition.schema))
    flags = pa.repeat(pa.scalar(deleted), rows.num_rows)
    return pa.RecordBatch.from_arrays([*wide.columns, flags], schema=_loose(definition.schema).append(_FLAG))


def _loose(schema: pa.Schema) -> pa.Schema:
    return pa.schema([column.with_nullable(True) for column in schema])


_FLAG = pa.field(_DELETED, pa.bool_())


# -- a group ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Into:
    """The table that is merged into, at its newest version."""

    files: TableFiles
    definition: TableDefinition
    head: Snapshot
    index_of: IndexOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged(Written):
    """`rows`: the new file (`upserts`: its path, "" when there is none) and those written anew. `based_on`: paths of the version that it
    was decided on. `fates`: what became of each entry's rows, by the entry."""

    removes: tuple[DataFile, ...]
    upserts: str = ""
    based_on: frozenset[str] = frozenset()
    fates: Mapping[Pending, Fates] = field(default_factory=dict)

    def count(self, fate: int) -> int:
        return sum(int((own == fate).sum()) for own in self.fates.values())


async def write_files(into: Into, entries: Sequence[Pending], *, time_us: int) -> Merged:
    """Raises DiskFull, StoreUnavailable, FileMissing, ChecksumMismatch."""
    dead = [replace(entry, rows=entry.rows.slice(0, 0)) for entry in entries if entry.dead]
    letters = await assembly.write_files(into.files, into.definition, dead, time_us=time_us)
    changes = await asyncio.to_thread(_Changes.of, into.definition, [entry.rows for entry in entries])
    plan = await asyncio.to_thread(_plan, into, changes)
    written = [await _upserts(into, changes, plan, time_us)] if plan.upserts.any() else []
    removes = []
    for file, rows in plan.doomed.items():
        failpoint("storage.before_merge_rewrite")
        removes.append(file)
        anew = await rewrite.write_without(into.files, file, into.head.schema, _Without(rows))
        written += [anew] if anew is not None else []
    ends = np.cumsum([entry.rows.num_rows for entry in entries])[:-1]
    return Merged(
        time_us=time_us,
        schema_id=into.definition.schema_id,
        rows=tuple(written),
        dead=letters.dead,
        removes=tuple(removes),
        upserts=written[0].path if plan.upserts.any() else "",
        based_on=frozenset(into.head.files),
        fates=dict(zip(entries, np.split(plan.fates, ends), strict=True)),
    )


def commit_of(entries: Sequence[Pending], merged: Merged, head: Snapshot) -> Commit:
    """The commit as the successor of `head`. Raises OtherColumns when the table's files are others than it was decided on: decide anew;
    and as `assembly.commit_of`."""
    if head.files.keys() != merged.based_on or merged.schema_id != head.schema_id:
        raise assembly.OtherColumns
    before = head.writers.get(MERGED)
    done = {
        "inserted": str(merged.count(_INSERTED)),
        "updated": str(merged.count(_UPDATED)),
        "deleted": str(merged.count(_GONE)),
        "upserts": merged.upserts,
    }
    # Nobody owns it: it is no writer that anybody could list, open or forget.
    mark = WriterState(epoch=1, next_offset=(before.next_offset if before else 0) + 1, positions=done)
    plain = assembly.commit_of(entries, merged, head)
    return replace(plain, kind=CommitKind.MERGE, removes=merged.removes, writers={**plain.writers, MERGED: mark})


def counts(entries: Sequence[Pending], written: Written) -> dict[str, Any]:
    """What an acknowledgement of these entries of one stream says about their rows."""
    if not isinstance(written, Merged):
        return {"rows_written": sum(entry.rows.num_rows for entry in entries)}
    fates = np.concatenate([written.fates[entry] for entry in entries])
    inserted, updated, deleted, ignored = (int((fates == fate).sum()) for fate in range(4))
    return {
        "rows_written": inserted + updated,
        "rows_updated": updated,
        "rows_deleted": deleted,
        "rows_ignored": ignored,
    }


@dataclass(frozen=True, slots=True)
class _Changes:
    """All rows of a group. `winners`: the row of each key that counts, by the sequence, then by the order they came in."""

    rows: pa.RecordBatch
    deleted: Mask
    winners: Rows

    @classmethod
    def of(cls, definition: TableDefinition, parts: Sequence[pa.RecordBatch]) -> _Changes:
        schema = _loose(definition.schema).append(_FLAG)
        rows = pa.concat_batches([reshape(part, schema) for part in parts])
        if not rows.num_rows:
            return cls(rows, np.zeros(0, np.bool_), np.zeros(0, np.int64))
        key = codes([rows.column(name) for name in definition.primary_key])
        columns = {"key": pa.array(key)}
        if definition.sequence_column:
            columns["sequence"] = rows.column(definition.sequence_column)
        columns["row"] = pa.array(np.arange(rows.num_rows))
        order = pc.sort_indices(pa.table(columns), sort_keys=[(name, "ascending") for name in columns]).to_numpy()
        last = np.append(key[order][1:] != key[order][:-1], True)
        deleted = rows.column(_DELETED).to_numpy(zero_copy_only=False)
        return cls(rows, deleted, np.sort(order[last]).astype(np.int64))


@dataclass(frozen=True, slots=True)
class _Plan:
    """`fates`: of each row of the group; `upserts`: which of them go into the new file; `doomed`: rows that leave, by file."""

    fates: Fates
    upserts: Mask
    doomed: Mapping[DataFile, Rows]


def _plan(into: Into, changes: _Changes) -> _Plan:
    """Blocking."""
    fates = np.full(changes.rows.num_rows, _IGNORED, np.int8)
    if not len(changes.winners):
        return _Plan(fates, np.zeros(0, np.bool_), {})
    winning = changes.rows.take(pa.array(changes.winners))
    found = list(_present(into, winning))
    known = np.zeros(len(changes.winners), np.bool_)
    stale = np.zeros(len(changes.winners), np.bool_)
    for one in found:
        known[one.winner] = True
        stale[one.winner[one.newer]] = True
    deleted = changes.deleted[changes.winners]
    fate = np.where(deleted, np.where(known, _GONE, _IGNORED), np.where(known, _UPDATED, _INSERTED))
    fates[changes.winners] = np.where(stale, _IGNORED, fate)
    upserts = (fates == _INSERTED) | (fates == _UPDATED)
    doomed = {one.file: rows for one in found if len(rows := np.unique(one.rows[~stale[one.winner]]))}
    return _Plan(fates, upserts, doomed)


@dataclass(frozen=True, slots=True)
class _Present:
    """Rows of a file that have the key of a winner. `newer`: by the sequence the row there is newer than the winner."""

    file: DataFile
    winner: Rows
    rows: Rows
    newer: Mask


def _present(into: Into, winning: pa.RecordBatch) -> Iterator[_Present]:
    """Only files whose statistics allow a key are looked into, and of them only key and sequence are read."""
    stored, definition = into.head.schema, into.definition
    of_keys = key_schema(stored, definition.primary_key)
    keys = Keys.of(pa.RecordBatch.from_arrays([winning.column(name) for name in of_keys.names], schema=of_keys))
    sequence = definition.sequence_column
    names = list(dict.fromkeys((*of_keys.names, *filter(None, (sequence,)))))
    narrow = pa.schema([stored.field(name) for name in names])
    for file in into.head.files.values():
        wanted = keys.within(file)
        if not len(wanted):
            continue
        which, rows = into.index_of(file, of_keys).find(keys.hashes[wanted])
        which = wanted[which]
        if not len(which):
            continue
        batch, at = read_rows(into.files, file, rows, narrow)
        batch = batch.take(pa.array(at))
        true = equal([batch.column(name) for name in of_keys.names], keys.batch.take(pa.array(which)).columns)
        which, rows, batch = which[true], rows[true], batch.filter(pa.array(true))
        newer = np.zeros(len(which), np.bool_)
        if sequence and len(which):
            mine = winning.column(sequence).take(pa.array(which))
            newer = pc.fill_null(pc.greater(batch.column(sequence), mine), False).to_numpy(zero_copy_only=False)
        if len(which):
            yield _Present(file, which, rows, newer)


async def _upserts(into: Into, changes: _Changes, plan: _Plan, time_us: int) -> DataFile:
    schema = into.definition.stored_schema
    rows = changes.rows.filter(pa.array(plan.upserts)).select(into.definition.schema.names)
    stamp = pa.repeat(pa.scalar(time_us, pa.timestamp("us", "UTC")), rows.num_rows)
    batch = pa.RecordBatch.from_arrays([*rows.columns, stamp], schema=schema)
    return await into.files.write(assembly.new_name(0), [batch], schema)


class _Without:
    """Drops rows of a file, whose batches come in order, by their number."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self._first = rows, 0

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        first, self._first = self._first, self._first + batch.num_rows
        here = self._rows[(self._rows >= first) & (self._rows < self._first)] - first
        if not len(here):
            return batch
        keep = np.ones(batch.num_rows, np.bool_)
        keep[here] = False
        return batch.filter(pa.array(keep))
