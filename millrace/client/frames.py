"""Applies the frames of a subscription to an Arrow table: replace all, or upsert and delete by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, slots=True)
class Change:
    """One whole frame. `replace`: forget what was there; `upserts` are then all rows. `deletes` have the key columns only."""

    replace: bool
    upserts: pa.Table
    deletes: pa.Table | None = None


def apply(table: pa.Table, change: Change, keys: Sequence[str]) -> pa.Table:
    """`table` after `change`: changed rows stay where they were, new ones come last. NULL equals NULL and NaN equals NaN in keys."""
    if change.replace or not keys:
        return change.upserts
    deletes = change.deletes if change.deletes is not None else table.select(list(keys)).slice(0, 0)
    old, new, gone = _codes([part.select(list(keys)) for part in (table, change.upserts, deletes)])
    # Of several upserts of one key the last one counts.
    last = {code: index for index, code in enumerate(new.tolist())}
    removed = set(gone.tolist()) - last.keys()
    picked = [
        last.pop(code) + len(old) if code in last else index
        for index, code in enumerate(old.tolist())
        if code not in removed
    ]
    picked += sorted(index + len(old) for index in last.values())
    both = pa.concat_tables([table, change.upserts])
    return both.take(pa.array(picked, pa.int64())).combine_chunks()


def _codes(parts: Sequence[pa.Table]) -> list[npt.NDArray[np.int64]]:
    """Each row's key as one number, equal where all key columns are equal."""
    codes = np.zeros(sum(part.num_rows for part in parts), np.int64)
    for name in parts[0].column_names:
        chunks = [
            pa.array([], parts[0].schema.field(name).type),
            *(chunk for part in parts for chunk in part.column(name).chunks),
        ]
        indices = (
            pc.dictionary_encode(pa.concat_arrays(chunks), null_encoding="encode").indices.to_numpy().astype(np.int64)
        )
        _, codes = np.unique(codes * (int(indices.max(initial=0)) + 1) + indices, return_inverse=True)
    bounds = np.cumsum([part.num_rows for part in parts])[:-1]
    return list(np.split(codes, bounds))
