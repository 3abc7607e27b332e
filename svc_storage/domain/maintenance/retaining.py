"""Rows that a table's retention gives up: whole files where that is enough, the rest of a file where the policy is exact."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from svc_storage.domain.opened import OpenTable
from svc_storage.domain.reading.bounds import bounds_of
from svc_storage.domain.reading.filtering import evaluate
from svc_storage.domain.reading.predicates import Compare, Op, Predicate
from svc_storage.domain.reading.pruning import ColumnBounds, may_match
from svc_storage.domain.retention import Retention
from svc_storage.domain.writing import rewrite
from svc_storage.ports import CommitKind, Committed, DataFile, Snapshot, Version

AT_ONCE = 64
"""Files of one commit."""
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Due:
    """`whole`: files all of whose rows are too old. `partly`: files with some, when the policy is exact."""

    whole: tuple[DataFile, ...]
    partly: tuple[DataFile, ...]


def due(head: Snapshot, retention: Retention, column: str, *, now_us: int, reader: Version | None) -> Due:
    """`reader`: the slowest named reader's version; what came in after it stays."""
    cutoff = _EPOCH + dt.timedelta(microseconds=now_us - retention.keep_rows_us)
    older = Compare(column, Op.LT, cutoff)
    whole, partly = [], []
    for file in head.files.values():
        if reader is not None and file.added_in > reader:
            continue
        bounds = bounds_of(file, head.schema, frozenset({column}))
        known = bounds.columns.get(column, ColumnBounds())
        if known.nulls == 0 and isinstance(known.high, dt.datetime) and known.high < cutoff:
            whole.append(file)
        elif retention.exact and file.row_count and may_match(older, bounds):
            partly.append(file)
    return Due(tuple(whole), tuple(partly))


def older_than(column: str, cutoff_us: int) -> Predicate:
    return Compare(column, Op.LT, _EPOCH + dt.timedelta(microseconds=cutoff_us))


class RowsKept:
    """Takes rows out of one table that its retention gives up."""

    def __init__(self, table: OpenTable) -> None:
        self._table = table

    async def apply(self, *, now_us: int, reader: Version | None) -> Sequence[Committed]:
        """The commits, of kind MERGE; none when nothing is due. A file that leaves meanwhile is looked at next time."""
        table = self._table
        retention, column = table.definition.retention, table.definition.event_time_column
        if not retention.keep_rows_us or not column:
            return []
        found = due(table.versions.head, retention, column, now_us=now_us, reader=reader)
        commits = []
        for start in range(0, len(found.whole), AT_ONCE):
            swap = rewrite.Swap(kind=CommitKind.MERGE, inputs=found.whole[start : start + AT_ONCE], id="retention/")
            commits.append(await rewrite.swap(table.committer, swap, now_us=now_us))
        predicate = older_than(column, now_us - retention.keep_rows_us)
        for file in found.partly:
            commits.append(await self._cut(file, predicate, now_us))
        return [commit for commit in commits if commit is not None]

    async def _cut(self, file: DataFile, predicate: Predicate, now_us: int) -> Committed | None:
        table = self._table

        def keep(batch: pa.RecordBatch) -> pa.RecordBatch:
            return batch.filter(pc.invert(pc.fill_null(evaluate(predicate, batch), False)))

        written = await rewrite.write_without(table.files, file, table.versions.head.schema, keep)
        if written is not None and written.row_count == file.row_count:  # bounds are not always reached
            await table.files.remove([written.path])
            return None
        outputs = () if written is None else (written,)
        swap = rewrite.Swap(kind=CommitKind.MERGE, inputs=(file,), outputs=outputs, id="retention/")
        return await rewrite.swap(table.committer, swap, now_us=now_us)
