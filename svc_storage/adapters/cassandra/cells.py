"""Arrow columns as CQL cells, whole columns at a time, and back: types that carry every value exactly.

A timestamp is a bigint of microseconds (CQL's own has milliseconds). Nested columns have no cells.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Cell = bytes | None
_DATE_ZERO = 1 << 31
_PLAIN: Mapping[pa.DataType, tuple[str, str]] = {
    pa.int8(): ("tinyint", ">i1"),
    pa.int16(): ("smallint", ">i2"),
    pa.int32(): ("int", ">i4"),
    pa.int64(): ("bigint", ">i8"),
    pa.float32(): ("float", ">f4"),
    pa.float64(): ("double", ">f8"),
}


def cql_type(kind: pa.DataType) -> str:
    """ "" where there is none."""
    types = pa.types
    if kind in _PLAIN:
        return _PLAIN[kind][0]
    tests: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
        (types.is_boolean, "boolean"),
        (types.is_string, "text"),
        (types.is_binary, "blob"),
        (types.is_date32, "date"),
        (types.is_timestamp, "bigint"),
        (types.is_decimal, "decimal"),
    )
    return next((name for test, name in tests if test(kind)), "")


def cells(values: pa.Array) -> Sequence[Cell]:
    """The serialised values. CPU-bound."""
    found = _cells(values)
    if not values.null_count:
        return found
    return [cell if valid else None for cell, valid in zip(found, values.is_valid().to_pylist(), strict=True)]


def _cells(values: pa.Array) -> Sequence[Cell]:
    kind, types = values.type, pa.types
    if types.is_string(kind) or types.is_binary(kind):
        return values.cast(pa.binary()).to_pylist()  # type: ignore[no-any-return]
    if types.is_decimal(kind):
        return _decimals(values)
    if types.is_boolean(kind):
        return [b"\x01" if value else b"\x00" for value in values.to_pylist()]
    if types.is_timestamp(kind):
        return _fixed(values.view(pa.int64()), ">i8")
    if types.is_date32(kind):
        days = pc.add(pc.cast(values.view(pa.int32()), pa.int64()), _DATE_ZERO)
        return _fixed(days, ">u4")
    return _fixed(values, _PLAIN[kind][1])


def _fixed(values: pa.Array, form: str) -> Sequence[bytes]:
    plain = pc.fill_null(values, 0) if values.null_count else values
    numbers = plain.to_numpy(zero_copy_only=False).astype(form)
    return numbers.view(f"V{numbers.itemsize}").tolist()  # type: ignore[no-any-return]


def _decimals(values: pa.Array) -> Sequence[Cell]:
    """Scale, then the unscaled integer, as short as it goes, big-endian."""
    width, data = values.type.byte_width, values.buffers()[1]
    if data is None:
        return [None] * len(values)
    raw, head = data.to_pybytes(), struct.pack(">i", values.type.scale)
    found = []
    for at in range(values.offset * width, (values.offset + len(values)) * width, width):
        unscaled = int.from_bytes(raw[at : at + width], "little", signed=True)
        found.append(head + unscaled.to_bytes((unscaled.bit_length() + 8) // 8, "big", signed=True))
    return found


def bound(values: pa.Array) -> Sequence[Any]:
    """As the driver takes them, for reads by key."""
    if pa.types.is_timestamp(values.type):
        return values.view(pa.int64()).to_pylist()  # type: ignore[no-any-return]
    return values.to_pylist()  # type: ignore[no-any-return]


def array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """From what the driver gives."""
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.int64()).view(kind)
    if pa.types.is_date32(kind):
        return pa.array([None if value is None else _days(value) for value in values], pa.int32()).view(kind)
    return pa.array(values, kind)


def _days(value: Any) -> int:
    if isinstance(value, dt.date):
        return (value - dt.date(1970, 1, 1)).days
    return int(value.days_from_epoch)


def buckets_of(hashes: np.ndarray[Any, np.dtype[np.uint64]], count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The partition of each key."""
    return (hashes % np.uint64(count)).astype(np.int64)
