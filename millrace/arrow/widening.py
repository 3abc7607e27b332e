"""Which types hold every value of another: how a column's type may grow."""

from __future__ import annotations

import pyarrow as pa

_DIGITS = {8: 3, 16: 5, 32: 10, 64: 19}
_EXACT_BITS = {16: 11, 32: 24, 64: 53}


def widens(have: pa.DataType, want: pa.DataType) -> bool:
    """Every value of `have` is one of `want`, digit for digit; equal types too. Lists, structs and maps by their parts."""
    types = pa.types
    if have.equals(want):
        return True
    if types.is_integer(have):
        return _widens_integer(have, want)
    if types.is_floating(have):
        return bool(types.is_floating(want) and have.bit_width <= want.bit_width)
    if types.is_decimal(have) and types.is_decimal(want):
        return bool(have.scale <= want.scale and have.precision - have.scale <= want.precision - want.scale)
    if types.is_timestamp(have) and types.is_timestamp(want):  # instants stay instants, whatever their zone
        return (have.tz is None) == (want.tz is None)
    return _widens_nested(have, want)


def _widens_integer(have: pa.DataType, want: pa.DataType) -> bool:
    if pa.types.is_integer(want):
        return bool(have.bit_width <= want.bit_width)
    if pa.types.is_floating(want):
        return bool(have.bit_width <= _EXACT_BITS[want.bit_width])
    return bool(pa.types.is_decimal(want) and want.precision - want.scale >= _DIGITS[have.bit_width])


def _widens_nested(have: pa.DataType, want: pa.DataType) -> bool:
    types = pa.types
    if types.is_list(have) and types.is_list(want):
        return widens(have.value_type, want.value_type)
    if types.is_map(have) and types.is_map(want):
        return widens(have.key_type, want.key_type) and widens(have.item_type, want.item_type)
    if types.is_struct(have) and types.is_struct(want):
        return [part.name for part in have.fields] == [part.name for part in want.fields] and all(
            widens(mine.type, theirs.type) for mine, theirs in zip(have.fields, want.fields, strict=True)
        )
    return False
