"""Primary keys as numbers: rows of files are found by key without reading more than the key columns, once per file.

A key's hash decides where to look; whoever uses the rows compares the keys themselves (`equal`). A key with a NULL in it is no key.
NaN equals NaN and 0.0 equals -0.0, as in predicates.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from svc_storage.domain.reading.bounds import bounds_of
from svc_storage.ports import DataFile, TableFiles

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

CACHE_BYTES = 256 << 20
"""Of indices in memory, over all tables: 12 bytes a row."""
GAP_ROWS = 65_536
"""Rows of one file further apart than this are read as two ranges."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(0xBF58476D1CE4E5B9)
_BASE = np.uint64(0x100000001B3)
_INVERSE = np.uint64(pow(0x100000001B3, -1, 1 << 64))


def hashes(columns: Sequence[pa.Array]) -> tuple[Hashes, Mask]:
    """One hash per row of the key `columns`, and which rows have a key (no NULL in it). Equal keys have equal hashes, whatever the
    width of their integers and floats. CPU-bound."""
    rows = len(columns[0])
    found = np.zeros(rows, np.uint64)
    valid = np.ones(rows, np.bool_)
    with np.errstate(over="ignore"):
        for column in columns:
            if column.null_count:
                valid &= column.is_valid().to_numpy(zero_copy_only=False)
            found = _mixed(found * _MIX + _numbers(column))
    return found, valid


def equal(left: Sequence[pa.Array], right: Sequence[pa.Array]) -> Mask:
    """Row by row: is the one key the other? The columns have the same types."""
    same = np.ones(len(left[0]), np.bool_)
    for one, other in zip(left, right, strict=True):
        mask = pc.equal(one, other)
        if pa.types.is_floating(one.type):
            mask = pc.or_(mask, pc.and_(pc.is_nan(one), pc.is_nan(other)))
        same &= pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
    return same


@dataclass(frozen=True, slots=True)
class KeyIndex:
    """Where the keys of one file stand: their hashes ascending, and the row of each."""

    sorted: Hashes
    rows: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, parts: Iterator[tuple[int, pa.RecordBatch]]) -> KeyIndex:
        """From (first row, batch of the key columns). Blocking (CPU)."""
        numbers: list[Hashes] = []
        places: list[npt.NDArray[np.uint32]] = []
        for first, batch in parts:
            found, valid = hashes(batch.columns)
            rows = np.arange(first, first + batch.num_rows, dtype=np.uint32)
            numbers.append(found if valid.all() else found[valid])
            places.append(rows if valid.all() else rows[valid])
        if not numbers:
            return cls(np.zeros(0, np.uint64), np.zeros(0, np.uint32))
        joined = np.concatenate(numbers)
        order = np.argsort(joined, kind="stable")
        return cls(joined[order], np.concatenate(places)[order])

    def find(self, wanted: Hashes) -> tuple[Rows, Rows]:
        """(index in `wanted`, row of the file) of every possible match; rows of one index ascend."""
        left = np.searchsorted(self.sorted, wanted, "left")
        counts = np.searchsorted(self.sorted, wanted, "right") - left
        which = np.repeat(np.arange(len(wanted)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return which, self.rows[np.repeat(left, counts) + within].astype(np.int64)

    @property
    def nbytes(self) -> int:
        return self.sorted.nbytes + self.rows.nbytes + 200


IndexOf = Callable[[DataFile, pa.Schema], KeyIndex]
"""Of one table: the index of a file for key columns. Blocking."""


class KeyIndexes:
    """The indices of files that were looked into lately. Files never change, so nothing here is ever stale. For any thread."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._limit = limit_bytes
        self._guard = threading.Lock()
        self._held: OrderedDict[tuple[str, str], KeyIndex] = OrderedDict()
        self._bytes = 0

    def get(self, uid: str, files: TableFiles, file: DataFile, schema: pa.Schema) -> KeyIndex:
        """Of the key columns `schema` of a table's file. Blocking; reads them unless it is known. Raises FileMissing,
        ChecksumMismatch."""
        key = (f"{uid}/{file.path}", _signature(schema))
        with self._guard:
            if held := self._held.get(key):
                self._held.move_to_end(key)
                return held
        built = KeyIndex.of(files.batches(file, schema))
        with self._guard:
            if key not in self._held:
                self._held[key] = built
                self._bytes += built.nbytes
            while self._bytes > self._limit and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1].nbytes
        return built

    def known(self, uid: str, file: DataFile, schema: pa.Schema) -> KeyIndex | None:
        """What `get` would give without reading anything."""
        with self._guard:
            return self._held.get((f"{uid}/{file.path}", _signature(schema)))


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys that are looked for: the columns of a primary key, at least one row."""

    batch: pa.RecordBatch
    hashes: Hashes
    valid: Mask

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Keys:
        return cls(batch, *hashes(batch.columns))

    def take(self, rows: Rows) -> Keys:
        """Some of them."""
        if len(rows) == len(self.hashes):
            return self
        return Keys(self.batch.take(pa.array(rows)), self.hashes[rows], self.valid[rows])

    def within(self, file: DataFile) -> Rows:
        """Indices of the keys that the file may hold, by its statistics."""
        schema = self.batch.schema
        bounds = bounds_of(file, schema, frozenset(schema.names))
        mask = self.valid
        for name, column in zip(schema.names, self.batch.columns, strict=True):
            known = bounds.columns.get(name)
            if known is None or known.low is None or known.high is None:
                continue
            low, high = pa.scalar(known.low, column.type), pa.scalar(known.high, column.type)
            inside = pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high))
            mask = mask & pc.fill_null(inside, False).to_numpy(zero_copy_only=False)
            if not mask.any():
                break
        return np.flatnonzero(mask)


def read_rows(
    files: TableFiles, file: DataFile, rows: Rows, schema: pa.Schema, *, check: Callable[[], None] | None = None
) -> tuple[pa.RecordBatch, Rows]:
    """Blocking. The columns of some rows of a file, each row once, and for each of `rows` (at least one) its place among them. Only the
    ranges around them are read. `check` is called between pieces and may raise."""
    wanted, at = np.unique(rows, return_inverse=True)
    parts: list[pa.RecordBatch] = []
    for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > GAP_ROWS) + 1):
        for first, batch in files.batches(file, schema, int(run[0]), int(run[-1]) + 1):
            if check is not None:
                check()
            here = run[(run >= first) & (run < first + batch.num_rows)] - first
            if len(here):
                parts.append(batch.take(pa.array(here)))
    return pa.concat_batches(parts), at


def codes(columns: Sequence[pa.Array]) -> Rows:
    """One number per row, equal exactly where the keys are equal. NULL equals NULL here."""
    found = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        if pa.types.is_floating(column.type):
            plain = column.to_numpy(zero_copy_only=False) + 0.0
            column = pa.array(plain, column.type)
        indices = pc.dictionary_encode(column, null_encoding="encode").indices.to_numpy(zero_copy_only=False)
        _, found = np.unique(found * (int(indices.max(initial=0)) + 1) + indices, return_inverse=True)
    return found


def key_schema(schema: pa.Schema, primary_key: Sequence[str]) -> pa.Schema:
    """The key's columns, in its order, without what is only for people."""
    return pa.schema([pa.field(name, schema.field(name).type) for name in primary_key])


def _signature(schema: pa.Schema) -> str:
    return ",".join(f"{field.name}:{field.type}" for field in schema)


def _mixed(numbers: Hashes) -> Hashes:
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _FOLD
    return numbers ^ (numbers >> np.uint64(27))


def _numbers(values: pa.Array) -> Hashes:
    """A number for each value; NULL's is anything."""
    kind, types = values.type, pa.types
    if types.is_boolean(kind):
        values, kind = values.cast(pa.uint8()), pa.uint8()
    if types.is_integer(kind):
        return _plain(values.cast(pa.int64()), np.int64).view(np.uint64)
    if types.is_floating(kind):
        plain = np.asarray(_plain(values.cast(pa.float64()), np.float64), np.float64) + 0.0  # -0.0 becomes 0.0
        return np.where(np.isnan(plain), np.nan, plain).view(np.uint64)
    if types.is_date(kind):
        return _plain(values.view(pa.int32()), np.int32).astype(np.int64).view(np.uint64)
    if types.is_temporal(kind):
        return _plain(values.view(pa.int64()), np.int64).view(np.uint64)
    if types.is_decimal(kind):
        return _of_decimals(values)
    return _of_texts(values)


def _plain(values: pa.Array, kind: type) -> npt.NDArray[np.generic]:
    """The values' buffer, NULLs holding whatever lies there."""
    data = values.buffers()[1]
    if data is None:
        return np.zeros(len(values), kind)
    return np.frombuffer(data, kind, count=values.offset + len(values))[values.offset :]


def _of_decimals(values: pa.Array) -> Hashes:
    halves, data = values.type.byte_width // 8, values.buffers()[1]
    if data is None:
        return np.zeros(len(values), np.uint64)
    raw = np.frombuffer(data, np.uint64, count=(values.offset + len(values)) * halves)
    parts = raw.reshape(-1, halves)[values.offset :]
    found = np.zeros(len(values), np.uint64)
    for half in range(halves):
        found = _mixed(found * _MIX + parts[:, half])
    return found


def _of_texts(values: pa.Array) -> Hashes:
    """A polynomial of the bytes, for all rows at once: differences of one running sum, moved to a common exponent."""
    if not len(values):
        return np.zeros(0, np.uint64)
    if values.offset:
        values = pa.concat_arrays([values])
    _, ends, data = values.buffers()
    wide = pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)
    places = np.frombuffer(ends, np.int64 if wide else np.int32, count=values.offset + len(values) + 1)[values.offset :]
    first, last = int(places[0]), int(places[-1])
    places = places.astype(np.int64) - first
    text = (
        np.frombuffer(data, np.uint8)[first:last].astype(np.uint64) + np.uint64(1) if data else np.zeros(0, np.uint64)
    )
    powers = np.full(len(text) + 1, _BASE)
    powers[0] = 1
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(text * np.cumprod(powers)[:-1], dtype=np.uint64)])
    inverses = np.full(len(text) + 1, _INVERSE)
    inverses[0] = 1
    start, end = places[:-1], places[1:]
    spread = (sums[end] - sums[start]) * np.cumprod(inverses)[start]
    return _mixed(spread + (end - start).astype(np.uint64) * _FOLD)
