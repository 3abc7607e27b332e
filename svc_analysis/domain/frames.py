"""What a live question shows at one moment, and what changed between two moments."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millrace.errors import FieldInvalid

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Delta:
    """`upserts`: rows that are new or changed, whole. `deletes`: keys of rows that are gone."""

    upserts: pa.Table
    deletes: pa.Table

    @property
    def size(self) -> int:
        return int(self.upserts.num_rows + self.deletes.num_rows)


@dataclass(slots=True)
class Frame:
    """A whole result. `landed`: per table, versions that changed rows since its watch began. Times in microseconds since 1970."""

    table: pa.Table
    versions: Mapping[str, int]
    uids: Mapping[str, str]
    landed: Mapping[str, int]
    elapsed_s: float
    commit_time_us: int | None
    event_time_high_us: int | None
    number: int = field(default_factory=lambda: next(_numbers))
    _deltas: dict[tuple[int, tuple[str, ...]], asyncio.Task[Delta | None]] = field(default_factory=dict)

    async def since(self, before: Frame, keys: tuple[str, ...]) -> Delta | None:
        """What changed since `before`; None when `keys` do not name one row each. Computed once for all who ask, off the loop."""
        key = (before.number, keys)
        if (task := self._deltas.get(key)) is None:
            work = asyncio.to_thread(difference, before.table, self.table, keys)
            task = self._deltas[key] = asyncio.create_task(work, name="difference")
        return await asyncio.shield(task)


def check_keys(schema: pa.Schema, keys: Sequence[str]) -> None:
    """Raises FieldInvalid for a key that is no column, is named twice, or is nested."""
    for index, name in enumerate(keys):
        if name not in schema.names:
            raise FieldInvalid(f"the result has no column `{name}`", field=f"key_columns[{index}]")
        if name in keys[:index] or pa.types.is_nested(schema.field(name).type):
            raise FieldInvalid(f"`{name}` cannot be (part of) a key here", field=f"key_columns[{index}]")


def difference(before: pa.Table, after: pa.Table, keys: Sequence[str]) -> Delta | None:
    """From `before` to `after` (same columns). None when a key occurs twice in one of them."""
    old, new = _codes(before, after, keys)
    if len(np.unique(old)) < len(old) or len(np.unique(new)) < len(new):
        return None
    order = np.argsort(old, kind="stable")
    found = np.searchsorted(old, new, sorter=order)
    found_clipped = np.minimum(found, max(len(old) - 1, 0))
    places = order[found_clipped] if len(old) else np.zeros(len(new), dtype=np.int64)
    known = (old[places] == new) if len(old) else np.zeros(len(new), dtype=bool)
    changed = ~known
    if known.any():
        mine = np.flatnonzero(known)
        changed[mine] = _differ(before.take(pa.array(places[mine])), after.take(pa.array(mine)), keys)
    gone = ~np.isin(old, new)
    deletes = before.select(list(keys)).filter(pa.array(gone))
    return Delta(after.filter(pa.array(changed)), deletes)


def _codes(
    before: pa.Table, after: pa.Table, keys: Sequence[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A number per row, equal where all keys are (NULL equals NULL)."""
    total = np.zeros(before.num_rows + after.num_rows, dtype=np.int64)
    for name in keys:
        column = pa.chunked_array([*before[name].chunks, *after[name].chunks], type=before.schema.field(name).type)
        codes = pc.dictionary_encode(column, null_encoding="encode").combine_chunks()
        indices = _indices(codes)
        paired = total * (int(indices.max(initial=0)) + 1) + indices
        # Numbering anew after each key keeps the product of the numbers far below 64 bits.
        total = np.unique(paired, return_inverse=True)[1].astype(np.int64)
    return total[: before.num_rows], total[before.num_rows :]


def _indices(codes: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
    if isinstance(codes, pa.ChunkedArray):
        parts = [chunk.indices.to_numpy(zero_copy_only=False) for chunk in codes.chunks]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)
    return np.asarray(codes.indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def _differ(old: pa.Table, new: pa.Table, keys: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Row by row: does any column but the keys differ? NULL equals NULL, NaN equals NaN."""
    different = np.zeros(new.num_rows, dtype=bool)
    for name in new.schema.names:
        if name not in keys:
            different |= _column_differs(old[name].combine_chunks(), new[name].combine_chunks())
    return different


def _column_differs(old: pa.Array, new: pa.Array) -> npt.NDArray[np.bool_]:
    if pa.types.is_nested(new.type):
        pairs = zip(old.to_pylist(), new.to_pylist(), strict=True)
        return np.fromiter((a != b for a, b in pairs), dtype=bool, count=len(new))
    same = pc.fill_null(pc.equal(old, new), False)
    if pa.types.is_floating(new.type):
        same = pc.or_(same, pc.fill_null(pc.and_(pc.is_nan(old), pc.is_nan(new)), False))
    same = pc.or_(same, pc.and_(pc.is_null(old), pc.is_null(new)))
    return ~np.asarray(same.to_numpy(zero_copy_only=False), dtype=bool)
