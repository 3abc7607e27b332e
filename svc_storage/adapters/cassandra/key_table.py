"""A table's rows by primary key as an ordinary CQL table, for LookupRows and for tools that speak CQL.

`keys_<uid>_<random>`: the key's columns are the clustering key, `_bucket` (the key's hash modulo a number fixed when the table is made)
is the partition, so that rows are written a hundred to a partition at a time and no partition grows large. `_version`: the version that
the row is of. Rows are written with their time, so that writing one again changes nothing and an older one never covers a newer.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from millrace import errors
from svc_storage.adapters.cassandra import cells
from svc_storage.adapters.cassandra.session import Pending, Session
from svc_storage.domain.reading.keys import Mask, Rows, codes, hashes
from svc_storage.ports import KeyRows, KeyTableState, Version

BATCH_ROWS = 100
BATCH_BYTES = 40_000
"""Below the 50 KiB at which a node refuses an unlogged batch."""
IN_FLIGHT, FIRST_IN_FLIGHT = 64, 8
"""Batches under way: few for a commit's rows, so that look-ups meanwhile find the nodes at leisure, more the longer it goes on."""
READS = 128
GATHERED_ROWS = 131_072
BUCKET_BYTES = 8 << 20
FEWEST, MOST = 64, 65_536
_GET = "SELECT state FROM key_tables WHERE uid = ?"
_PUT = "INSERT INTO key_tables (uid, state) VALUES (?, ?)"
_DELETE = "DELETE FROM key_tables WHERE uid = ?"
STATEMENTS = (_GET, _PUT, _DELETE)


class CassandraKeyTable:
    """Work that blocks runs on `pool`."""

    def __init__(self, session: Session, uid: str, pool: Executor) -> None:
        self._session, self._uid, self._pool = session, uid, pool

    async def state(self) -> KeyTableState | None:
        rows = await self._session.run(_GET, self._uid)
        return KeyTableState(**json.loads(rows[0][0])) if rows and rows[0][0] else None

    def columns(self, schema: pa.Schema, key: Sequence[str]) -> str:
        return columns_text(schema, key)

    def can_hold(self, schema: pa.Schema, key: Sequence[str]) -> str:
        for name in key:
            kind = schema.field(name).type
            if not cells.cql_type(kind) or pa.types.is_floating(kind):
                return f"`{name}` is {kind}, which is no key of a CQL table"
        return ""

    async def begin(self, schema: pa.Schema, key: Sequence[str], *, size_bytes: int) -> KeyTableState:
        buckets = FEWEST
        while buckets < MOST and buckets * BUCKET_BYTES < size_bytes * 4:
            buckets *= 2
        name = f"keys_{re.sub('[^a-z0-9]', '', self._uid)[-32:]}_{secrets.token_hex(3)}"
        state = KeyTableState(name=name, columns=columns_text(schema, key), buckets=buckets, through=-1)
        await asyncio.get_running_loop().run_in_executor(self._pool, self._session.define, self._creation(state))
        return state

    async def put(
        self, state: KeyTableState, version: Version, batches: Iterable[tuple[pa.RecordBatch, pa.Array]]
    ) -> int:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._write, state, version, batches)

    async def remove(self, state: KeyTableState, keys: pa.RecordBatch, time_us: int) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, self._remove, state, keys, time_us)

    async def complete(self, state: KeyTableState) -> None:
        before = await self.state()
        await self._session.run(_PUT, self._uid, json.dumps(asdict(state)))
        if before is not None and before.name != state.name:
            await self._drop(before.name)

    def find(self, state: KeyTableState, keys: pa.RecordBatch, schema: pa.Schema) -> KeyRows | None:
        known = parsed(state)
        if any(known.get(field.name) != str(field.type) for field in schema):
            return None
        key = _key(state)
        cql = (
            f"SELECT {_names(['_version', *schema.names])} FROM {state.name} WHERE "
            f'"_bucket" = ? AND {" AND ".join(_quoted(name) + " = ?" for name in key)}'
        )
        try:
            return self._find(cql, state, keys, schema)
        except errors.MillraceError:  # whatever it is, the files know too
            return None

    async def drop(self) -> None:
        state = await self.state()
        if state is not None:
            await self._session.run(_DELETE, self._uid)
            await self._drop(state.name)

    # -- on a worker thread -------------------------------------------------------------------------------------------
    def _find(self, cql: str, state: KeyTableState, keys: pa.RecordBatch, schema: pa.Schema) -> KeyRows:
        numbers, valid = hashes(keys.columns)
        buckets = cells.buckets_of(numbers, state.buckets).tolist()
        values = [cells.bound(column) for column in keys.columns]
        told: list[tuple[object, ...] | None] = [None] * keys.num_rows
        waiting: deque[tuple[int, Pending]] = deque()
        for at in np.flatnonzero(valid).tolist():
            if len(waiting) >= READS:
                place, pending = waiting.popleft()
                told[place] = next(iter(pending.rows()), None)
            waiting.append((at, self._session.start(cql, buckets[at], *(column[at] for column in values))))
        for place, pending in waiting:
            told[place] = next(iter(pending.rows()), None)
        rows = [row for row in told if row is not None]
        columns = [cells.array([row[index + 1] for row in rows], field.type) for index, field in enumerate(schema)]
        since = [-1 if row is None else int(str(row[0])) for row in told]
        return KeyRows([row is not None for row in told], since, pa.RecordBatch.from_arrays(columns, schema=schema))

    def _write(self, state: KeyTableState, version: Version, batches: Iterable[tuple[pa.RecordBatch, pa.Array]]) -> int:
        names, key = list(parsed(state)), _key(state)
        cql = (
            f"INSERT INTO {state.name} ({_names(['_bucket', '_version', *names])}) "
            f"VALUES ({', '.join('?' * (len(names) + 2))}) USING TIMESTAMP ?"
        )
        written = 0
        with _Flight(self._session) as flight:
            for batch, times in _gathered(batches):
                numbers, valid = hashes([batch.column(name) for name in key])
                kept = _newest([batch.column(name) for name in key], valid, times)
                buckets = cells.buckets_of(numbers[kept], state.buckets)
                order = np.argsort(buckets, kind="stable")
                kept, buckets = kept[order], buckets[order]
                rows = _lines(batch.take(pa.array(kept)), names, buckets, version, times[kept])
                flight.send(cql, rows, buckets)
                written += len(kept)
        return written

    def _remove(self, state: KeyTableState, keys: pa.RecordBatch, time_us: int) -> None:
        key = _key(state)
        cql = (
            f"DELETE FROM {state.name} USING TIMESTAMP ? WHERE "
            f'"_bucket" = ? AND {" AND ".join(_quoted(name) + " = ?" for name in key)}'
        )
        numbers, _ = hashes(keys.columns)
        buckets = cells.buckets_of(numbers, state.buckets)
        order = np.argsort(buckets, kind="stable")
        ordered = keys.take(pa.array(order))
        at = time_us.to_bytes(8, "big", signed=True)
        parts = [
            cells.cells(pa.array(buckets[order], pa.int32())),
            *(cells.cells(column) for column in ordered.columns),
        ]
        rows = [[at, *values] for values in zip(*parts, strict=True)]
        with _Flight(self._session) as flight:
            flight.send(cql, rows, buckets[order])

    def _creation(self, state: KeyTableState) -> str:
        columns = parsed(state)
        key = _key(state)
        types = ", ".join(f"{_quoted(name)} {cells.cql_type(_type(text))}" for name, text in columns.items())
        return (
            f'CREATE TABLE IF NOT EXISTS {self._session.place.keyspace}.{state.name} ("_bucket" int, "_version" bigint, {types}, '
            f'PRIMARY KEY ("_bucket", {_names(key)})) '
            "WITH compaction = {'class': 'UnifiedCompactionStrategy', 'scaling_parameters': 'L8'} "
            f"AND comment = 'derived from the table {self._uid} of Millrace; read only'"
        )

    async def _drop(self, name: str) -> None:
        text = f"DROP TABLE IF EXISTS {self._session.place.keyspace}.{name}"
        await asyncio.get_running_loop().run_in_executor(self._pool, self._session.define, text)


class _Flight:
    """Batches under way, a bounded number and size at a time. Leaving it waits for all; the first failure is raised."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: deque[tuple[Pending, int]] = deque()
        self._sent = 0

    def __enter__(self) -> _Flight:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        while self._waiting:
            pending, size = self._waiting.popleft()
            try:
                pending.settle() if kind else pending.rows()
            finally:
                self._session.writes.give(size)

    def send(self, cql: str, rows: Sequence[Sequence[bytes | None]], buckets: Rows) -> None:
        """`rows` by bucket."""
        ends = np.append(np.flatnonzero(np.diff(buckets)) + 1, len(buckets)).tolist() if len(buckets) else []
        start = 0
        for end in ends:
            for part, size in _parts(rows[start:end]):
                if len(self._waiting) >= min(IN_FLIGHT, FIRST_IN_FLIGHT + self._sent // FIRST_IN_FLIGHT**2):
                    self._one()
                self._sent += 1
                self._session.writes.take(size)
                try:
                    self._waiting.append((self._session.start_batch(cql, part), size))
                except BaseException:
                    self._session.writes.give(size)
                    raise
            start = end

    def _one(self) -> None:
        pending, size = self._waiting.popleft()
        try:
            pending.rows()
        finally:
            self._session.writes.give(size)


def _parts(rows: Sequence[Sequence[bytes | None]]) -> Iterator[tuple[Sequence[Sequence[bytes | None]], int]]:
    part: list[Sequence[bytes | None]] = []
    size = 0
    for row in rows:
        own = sum(len(cell) + 4 for cell in row if cell is not None) + 8
        if part and (len(part) == BATCH_ROWS or size + own > BATCH_BYTES):
            yield part, size
            part, size = [], 0
        part.append(row)
        size += own
    if part:
        yield part, size


def _lines(
    batch: pa.RecordBatch,
    names: Sequence[str],
    buckets: Rows,
    version: Version,
    times: Rows,
) -> Sequence[Sequence[bytes | None]]:
    at = version.to_bytes(8, "big", signed=True)
    columns = [cells.cells(batch.column(name)) for name in names]
    first = cells.cells(pa.array(buckets, pa.int32()))
    return list(zip(first, [at] * len(first), *columns, cells.cells(pa.array(times)), strict=True))


def _gathered(batches: Iterable[tuple[pa.RecordBatch, pa.Array]]) -> Iterator[tuple[pa.RecordBatch, Rows]]:
    """Larger ones, so that more rows of one partition go together."""
    held: list[pa.RecordBatch] = []
    times: list[Rows] = []
    rows = 0
    for batch, own in batches:
        held.append(batch)
        times.append(own.to_numpy(zero_copy_only=False))
        rows += batch.num_rows
        if rows >= GATHERED_ROWS:
            yield pa.concat_batches(held), np.concatenate(times)
            held, times, rows = [], [], 0
    if rows:
        yield pa.concat_batches(held), np.concatenate(times)


def _newest(columns: Sequence[pa.Array], valid: Mask, times: Rows) -> Rows:
    """Of rows with one key the last of the highest time: two that were written with one time would be mixed cell by cell."""
    key = codes(columns)
    order = np.lexsort((np.arange(len(key)), times, key))
    last = np.append(key[order][1:] != key[order][:-1], True) if len(order) else np.zeros(0, np.bool_)
    kept: Rows = np.sort(order[last])
    return kept[valid[kept]]


def columns_text(schema: pa.Schema, key: Sequence[str]) -> str:
    """Of the columns that have cells, with which of them are the key, as JSON."""
    columns = {field.name: str(field.type) for field in schema if cells.cql_type(field.type)}
    return json.dumps({"key": list(key), "columns": columns})


def parsed(state: KeyTableState) -> dict[str, str]:
    found: dict[str, str] = json.loads(state.columns)["columns"]
    return found


def _key(state: KeyTableState) -> list[str]:
    found: list[str] = json.loads(state.columns)["key"]
    return found


def _type(text: str) -> pa.DataType:
    if text.startswith("decimal128("):
        precision, scale = text[len("decimal128(") : -1].split(",")
        return pa.decimal128(int(precision), int(scale))
    if text.startswith("timestamp"):
        return pa.timestamp("us", "UTC" if "UTC" in text else None)
    names = {
        "bool": pa.bool_(),
        "string": pa.string(),
        "binary": pa.binary(),
        "date32[day]": pa.date32(),
        "float": pa.float32(),
        "double": pa.float64(),
    }
    return names[text] if text in names else pa.type_for_alias(text)


def _quoted(name: str) -> str:
    return f'"{name}"'


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(_quoted, names))
