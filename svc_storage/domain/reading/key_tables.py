"""Derived tables by key (`KeyTable`) follow their tables' logs: filled from the files once, then version by version.

The replica that commits to a table fills its derived table; the others only hear how far it is. A change that is more than rows that came
and went by key (restored, erased, other columns) fills a new one. What is in a derived table is never the truth: look-ups fall back to the
files for whatever it does not surely know.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from millrace import errors
from millrace.failpoints import failpoint
from svc_storage.domain.definition import INGESTED_AT
from svc_storage.domain.opened import Opened, OpenTable
from svc_storage.domain.reading.keys import key_schema, read_rows
from svc_storage.ports import (
    MERGED,
    SAME_ROWS,
    Commit,
    CommitKind,
    Committed,
    DataFile,
    KeyTable,
    KeyTableState,
    Snapshot,
)

LOOK_EVERY_S = 0.25
RETRY_S = 1.0
_log = logging.getLogger(__name__)


class KeyTables:
    """Keep `run` running."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                for table in self._opened.now_open():
                    task = self._tasks.get(table.row.uid)
                    if table.key_table is not None and table.definition.native_lookup and (task is None or task.done()):
                        self._tasks[table.row.uid] = asyncio.create_task(_follow(table, table.key_table))
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def _follow(table: OpenTable, key_table: KeyTable) -> None:
    """Until the table is closed; a fault is logged and tried again."""
    while not table.deleted:
        try:
            await _step(table, key_table)
        except errors.TableNotFound:
            return
        except Exception:
            _log.exception("the key table of %s does not follow; look-ups read its files", table.row.name)
            table.key_state = None
            await asyncio.sleep(RETRY_S)


async def _step(table: OpenTable, key_table: KeyTable) -> None:
    state = table.key_state or await key_table.state()
    if state is not None and state.through >= table.head and _fits(state, table):
        table.key_state = state
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_S):
                await table.wait_beyond(table.head)
        return
    if await table.leader.holder(table.row.uid):
        table.key_state = await key_table.state()
        await asyncio.sleep(LOOK_EVERY_S)
        return
    table.key_state = await catch_up(table, key_table, state)


async def catch_up(table: OpenTable, key_table: KeyTable, state: KeyTableState | None) -> KeyTableState:
    """The derived table as it is once it holds the newest version. Raises what files and store raise."""
    head = table.versions.head
    if state is None or not _fits(state, table):
        return await fill(table, key_table)
    try:
        for committed in table.commits_in(state.through, head.version):
            state = await _apply(table, key_table, state, committed)
    except (_Beyond, errors.VersionExpired, errors.FileMissing):
        return await fill(table, key_table)
    failpoint("storage.before_key_table_complete")
    state = replace(state, through=head.version)
    await key_table.complete(state)
    return state


async def fill(table: OpenTable, key_table: KeyTable) -> KeyTableState:
    """A new derived table with all rows of the newest version."""
    head, key = table.versions.head, table.definition.primary_key
    state = await key_table.begin(_columns(table), key, size_bytes=head.size_bytes)
    rows = _rows(table, list(head.files.values()), head, None)
    await key_table.put(state, head.version, rows)
    state = replace(state, through=head.version, last_us=head.time_us)
    await key_table.complete(state)
    return state


class _Beyond(Exception):
    """A commit did more than rows coming and going by key."""


async def _apply(table: OpenTable, key_table: KeyTable, state: KeyTableState, committed: Committed) -> KeyTableState:
    commit = committed.commit
    if commit.kind in SAME_ROWS or not (commit.adds or commit.removes):
        return state
    time_us = max(commit.time_us, state.last_us + 1)  # the same whenever it is done again
    if commit.kind is CommitKind.APPEND and not commit.removes:
        await key_table.put(state, committed.version, _rows(table, commit.adds, table.versions.head, time_us))
    elif commit.kind is CommitKind.MERGE and (merged := commit.writers.get(MERGED)) and "upserts" in merged.positions:
        new = [file for file in commit.adds if file.path == merged.positions["upserts"]]
        if int(merged.positions["deleted"]):
            keys = await asyncio.to_thread(_deleted, table, commit)
            await key_table.remove(state, keys, time_us)
        await key_table.put(state, committed.version, _rows(table, new, table.versions.head, time_us))
    else:
        raise _Beyond
    return replace(state, last_us=time_us)


def _rows(
    table: OpenTable, files: Sequence[DataFile], head: Snapshot, time_us: int | None
) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """Blocking. With the time of each: `time_us`, or when it came in."""
    columns = _columns(table)
    wide = columns if time_us is not None else columns.append(head.schema.field(INGESTED_AT))
    for file in files:
        for _, batch in table.files.batches(file, wide):
            if time_us is not None:
                yield batch, pa.repeat(pa.scalar(time_us, pa.int64()), batch.num_rows)
            else:
                yield batch.select(columns.names), batch.column(INGESTED_AT).cast(pa.int64()).fill_null(0)


def _deleted(table: OpenTable, commit: Commit) -> pa.RecordBatch:
    """Blocking. Keys that the files which left had, and those which came do not."""
    keys = key_schema(table.versions.head.schema, table.definition.primary_key)
    added = [table.index_of(file, keys).sorted for file in commit.adds]
    known = np.concatenate(added) if added else np.zeros(0, np.uint64)
    parts = []
    for file in commit.removes:
        index = table.index_of(file, keys)
        rows = index.rows[~np.isin(index.sorted, known)].astype(np.int64)
        if len(rows):
            parts.append(read_rows(table.files, file, rows, keys)[0])
    return pa.concat_batches(parts) if parts else pa.RecordBatch.from_pylist([], schema=keys)


def _columns(table: OpenTable) -> pa.Schema:
    return table.definition.schema


def _fits(state: KeyTableState, table: OpenTable) -> bool:
    assert table.key_table is not None
    return state.columns == table.key_table.columns(_columns(table), table.definition.primary_key)
