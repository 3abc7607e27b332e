"""A read request pinned to a version: which files, in which order, with which columns and filter. Deterministic on any replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from millrace.errors import ChangesNotAppendOnly, FieldInvalid, VersionInFuture
from svc_storage.domain.reading.bounds import bounds_of
from svc_storage.domain.reading.predicates import And, Compare, Op, Predicate, bind, columns_of
from svc_storage.domain.reading.pruning import may_match
from svc_storage.domain.reading.scans import Scan, TimeRange
from svc_storage.ports import SAME_ROWS, CommitKind, DataFile, Snapshot, TableView, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """`files`: the whole list that places in tokens count in. `kept`: for each, may it hold a matching row?
    `schema`: of the rows to come; `stored`: all columns of the version. `filter`: predicate and time range in one; None: all rows."""

    view: TableView
    version: Version
    scan: Scan
    schema: pa.Schema
    stored: pa.Schema
    schema_id: int
    files: Sequence[DataFile]
    kept: Sequence[bool]
    filter: Predicate | None


async def pin(view: TableView, scan: Scan, version: Version) -> Pinned:
    """Raises FieldInvalid (column, predicate, time range, after_version), VersionExpired, VersionInFuture, ChangesNotAppendOnly."""
    snapshot = await view.snapshot(version)
    columns = chosen_columns(scan.columns, snapshot.schema)
    files = _files(view, scan, snapshot)
    wanted = _filter(scan, snapshot.schema, view.event_time_column)
    return Pinned(
        view=view,
        version=version,
        scan=replace(scan, predicate=scan.predicate and bind(scan.predicate, snapshot.schema)),
        schema=pa.schema([snapshot.schema.field(name) for name in columns]),
        stored=snapshot.schema,
        schema_id=snapshot.schema_id,
        files=files,
        kept=_kept(files, wanted, snapshot.schema, scan.limit),
        filter=wanted,
    )


def chosen_columns(asked: Sequence[str], schema: pa.Schema) -> Sequence[str]:
    """The named columns, or all but storage's own. Raises FieldInvalid."""
    if not asked:
        return [name for name in schema.names if not name.startswith("_")]
    for index, name in enumerate(asked):
        if name not in schema.names:
            raise FieldInvalid(f"the table has no column `{name}`", field=f"columns[{index}]")
        if name in asked[:index]:
            raise FieldInvalid(f"`{name}` is named twice", field=f"columns[{index}]")
    return asked


def _files(view: TableView, scan: Scan, snapshot: Snapshot) -> Sequence[DataFile]:
    if scan.after_version is None:
        # Of one snapshot two replicas may hold the files in different order; these two properties travel in the log.
        return sorted(snapshot.files.values(), key=lambda file: (file.modified_ms, file.path))
    if scan.after_version > snapshot.version:
        raise VersionInFuture(
            f"after_version lies behind version {snapshot.version}",
            field="after_version",
            metadata={"version": str(snapshot.version)},
            hint="watch the table, read what comes",
        )
    added: list[DataFile] = []
    for committed in view.commits_in(scan.after_version, snapshot.version):
        commit = committed.commit
        if commit.kind in SAME_ROWS:
            continue
        if commit.removes or commit.kind in (CommitKind.MERGE, CommitKind.RESTORE):
            raise ChangesNotAppendOnly(
                f"version {committed.version} did more than append",
                field="after_version",
                metadata={"version": str(committed.version)},
                hint="do a full refresh",
            )
        added.extend(commit.adds)
    return added


def _filter(scan: Scan, schema: pa.Schema, event_time: str) -> Predicate | None:
    parts: list[Predicate] = []
    if scan.predicate is not None:
        parts.append(bind(scan.predicate, schema))
    if scan.time_range is not None:
        parts.extend(_time_filter(scan.time_range, schema, event_time))
    return None if not parts else parts[0] if len(parts) == 1 else And(tuple(parts))


def _time_filter(wanted: TimeRange, schema: pa.Schema, event_time: str) -> list[Predicate]:
    if not event_time:
        raise FieldInvalid(
            "the table has no event-time column", field="time_range", hint="filter by a predicate instead"
        )
    bounds = ((Op.GE, wanted.start), (Op.LT, wanted.end))
    if wanted.start is not None and wanted.end is not None and wanted.end < wanted.start:
        raise FieldInvalid("the end lies before the start", field="time_range.end")
    found: list[Predicate] = [Compare(event_time, op, value) for op, value in bounds if value is not None]
    return [bind(one, schema, field="time_range") for one in found]


def _kept(files: Sequence[DataFile], wanted: Predicate | None, schema: pa.Schema, limit: int) -> Sequence[bool]:
    if wanted is not None:
        columns = frozenset(columns_of(wanted))
        return [may_match(wanted, bounds_of(file, schema, columns)) for file in files]
    if not limit:
        return [file.row_count > 0 for file in files]
    kept, rows = [], 0
    for file in files:
        kept.append(rows < limit and file.row_count > 0)
        rows += file.row_count
    return kept
