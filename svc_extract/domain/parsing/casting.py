"""Text to typed columns, exactly: which values do not parse is known one by one, all others are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millrace.arrow.types import check_values
from millrace.errors import MillraceError
from svc_extract.domain.parsing.values import column_of

_BAD = (pa.ArrowException, MillraceError, ValueError, OverflowError)


def cast_text(texts: pa.StringArray, kind: pa.DataType, *, nulls: Collection[str] = ()) -> tuple[pa.Array, np.ndarray]:
    """`texts` as `kind`, and the indexes of those that are none; these are NULL in the array.

    Numbers are plain decimal, without spaces; floats that overflow are none, NaN and infinities are. Instants are ISO 8601, UTC where
    no offset is written. Texts in `nulls` are NULL for every kind but text. Lists, structs and maps are JSON."""
    if pa.types.is_string(kind):
        return texts, np.empty(0, np.int64)
    if pa.types.is_binary(kind):
        return texts.cast(pa.binary()), np.empty(0, np.int64)
    convert = _converter(kind)
    whole = _tried(convert, texts)
    if whole is not None:
        return whole, np.empty(0, np.int64)
    if nulls:
        texts = pc.if_else(pc.is_in(texts, pa.array(sorted(nulls), pa.string())), pa.scalar(None, pa.string()), texts)
    bad: list[int] = []
    parts = list(_bisected(convert, texts, kind, 0, bad))
    return pa.concat_arrays(parts), np.array(bad, np.int64)


def _tried(convert: Callable[[pa.Array], pa.Array], texts: pa.Array) -> pa.Array | None:
    try:
        return convert(texts)
    except _BAD:
        return None


def _bisected(
    convert: Callable[[pa.Array], pa.Array], texts: pa.Array, kind: pa.DataType, first: int, bad: list[int]
) -> list[pa.Array]:
    """The converted parts of `texts`, halved until each converts or is one bad value."""
    found = _tried(convert, texts)
    if found is not None:
        return [found]
    if len(texts) == 1:
        bad.append(first)
        return [pa.nulls(1, kind)]
    half = len(texts) // 2
    return [
        *_bisected(convert, texts.slice(0, half), kind, first, bad),
        *_bisected(convert, texts.slice(half), kind, first + half, bad),
    ]


def _converter(kind: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    types = pa.types
    if types.is_timestamp(kind) and kind.tz:
        return lambda texts: _instants(texts, kind)
    if types.is_time64(kind):
        return lambda texts: _times(texts, kind)
    if types.is_duration(kind):
        return lambda texts: _checked(pc.cast(pc.cast(texts, pa.int64()), kind))
    if types.is_floating(kind):
        return lambda texts: _floats(texts, kind)
    if types.is_integer(kind):
        return lambda texts: _integers(texts, kind)
    if types.is_nested(kind):
        return lambda texts: _from_json(texts, kind)
    return lambda texts: _checked(pc.cast(texts, kind))


def _checked(array: pa.Array) -> pa.Array:
    check_values(array)
    return array


def _integers(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    found = pc.cast(texts, kind)
    if pc.any(pc.match_substring(texts, "x", ignore_case=True), min_count=0).as_py():
        raise ValueError("hexadecimal")
    return found


def _floats(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    found = pc.cast(texts, kind)
    infinite = pc.is_inf(found)
    if pc.any(infinite, min_count=0).as_py():
        written = pc.match_substring(texts, "inf", ignore_case=True)
        if pc.any(pc.and_not(infinite, written), min_count=0).as_py():
            raise ValueError("too large for the column")
    return found


def _instants(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return _checked(pc.cast(texts, kind))
    except pa.ArrowInvalid:
        plain = pc.cast(texts, pa.timestamp(kind.unit))
        return _checked(pc.cast(pc.assume_timezone(plain, "UTC"), kind))


def _times(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    if pc.any(pc.match_substring_regex(texts, "[^0-9:.]"), min_count=0).as_py():
        raise ValueError("not a time of day")
    at = pc.cast(pc.binary_join_element_wise("1970-01-01T", texts, ""), pa.timestamp("us"))
    return pc.cast(at, kind)


def _from_json(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    values = [None if text is None else json.loads(text) for text in texts.to_pylist()]
    column, bad = column_of(values, kind)
    if len(bad):
        raise ValueError("not of the column's type")
    return column
