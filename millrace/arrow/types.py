"""The one table of types: what may be in flight, and what every other Arrow type becomes before it is.

Canonical: bool, int8–64, float32/64, decimal128(p ≤ 38), string, binary, date32, time64[us], timestamp[us] with and without
zone, duration[us], list, struct, map. All conversions are exact; what would lose a digit raises ValueNotRepresentable.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TypeVar
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from millrace.errors import UnsupportedType, ValueNotRepresentable

MAX_NESTING = 16
"""How deep lists, structs and maps may stand in each other; `list<int64>` is 1."""

MICROS_PER_DAY = 86_400_000_000
MIN_MICROS = -62_135_596_800_000_000
"""0001-01-01T00:00:00, in microseconds since 1970."""
MAX_MICROS = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999."""
MAX_DURATION_MICROS = 315_576_000_000_000_000
"""What `google.protobuf.Duration` holds: about 10,000 years."""

_T = TypeVar("_T", pa.RecordBatch, pa.Table)

_SIMPLE: dict[pa.DataType, pa.DataType] = {
    **{kind: kind for kind in (pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64())},
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    **dict.fromkeys((pa.string(), pa.large_string(), pa.string_view()), pa.string()),
    **dict.fromkeys((pa.binary(), pa.large_binary(), pa.binary_view()), pa.binary()),
    **dict.fromkeys((pa.date32(), pa.date64()), pa.date32()),
    **dict.fromkeys((pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")), pa.time64("us")),
    **{pa.duration(unit): pa.duration("us") for unit in ("s", "ms", "us", "ns")},
}
_OFFSET_ZONE = re.compile(r"[+-](0\d|1[0-4]):?[0-5]\d")


def canonical(kind: pa.DataType, *, where: str = "") -> pa.DataType:
    """The type that `kind` travels as. `where` names the column in errors. Raises UnsupportedType."""
    return _canonical(kind, where, 0)


def canonical_field(field: pa.Field, *, where: str = "") -> pa.Field:
    """`field` with its canonical type; name, nullability and metadata stay. Raises UnsupportedType."""
    name = where or field.name
    if (field.metadata or {}).get(b"ARROW:extension:name"):
        raise UnsupportedType(f"column `{name}`: extension types have no place in a table", field=name)
    return field.with_type(canonical(field.type, where=name))


def canonical_schema(schema: pa.Schema) -> pa.Schema:
    """Every field canonical. Raises UnsupportedType naming the first column that cannot be."""
    return pa.schema([canonical_field(field) for field in schema], metadata=schema.metadata)


def nesting(kind: pa.DataType) -> int:
    """Levels of lists, structs and maps: 0 for a plain type."""
    children = [kind.field(index).type for index in range(kind.num_fields)]
    return 1 + max(map(nesting, children)) if children else 0


def _canonical(kind: pa.DataType, where: str, depth: int) -> pa.DataType:
    if depth > MAX_NESTING:
        raise _unsupported(kind, where, f"nested deeper than {MAX_NESTING} levels")
    simple = _SIMPLE.get(kind)
    if simple is not None:
        return simple
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", _zone(kind, where))
    if pa.types.is_decimal(kind):
        return _decimal(kind, where)
    if pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_dictionary(kind):
        return _canonical(kind.value_type, where, depth)
    return _nested(kind, where, depth + 1)


def _nested(kind: pa.DataType, where: str, depth: int) -> pa.DataType:
    types = pa.types
    if types.is_map(kind):
        return pa.map_(
            _canonical(kind.key_type, f"{where}.key", depth),
            pa.field("value", _canonical(kind.item_type, f"{where}.value", depth), kind.item_field.nullable),
        )
    if types.is_struct(kind):
        if not kind.num_fields:
            raise _unsupported(kind, where, "a struct without fields")
        if len({field.name for field in kind.fields}) != kind.num_fields:
            raise _unsupported(kind, where, "two fields of the struct have one name")
        return pa.struct(
            [field.with_type(_canonical(field.type, f"{where}.{field.name}", depth)) for field in kind.fields]
        )
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    if any(matches(kind) for matches in lists):
        item = kind.value_field
        return pa.list_(pa.field("item", _canonical(item.type, f"{where}[]", depth), item.nullable))
    if types.is_null(kind):
        raise _unsupported(kind, where, "all NULL, so its type is not known")
    raise _unsupported(kind, where, "no such type in the table of types")


def _decimal(kind: pa.DataType, where: str) -> pa.DataType:
    if kind.precision > 38 or not 0 <= kind.scale <= kind.precision:
        raise _unsupported(kind, where, "decimals have 1 to 38 digits, none to all of them after the point")
    return pa.decimal128(kind.precision, kind.scale)


def _zone(kind: pa.DataType, where: str) -> str | None:
    if not kind.tz:
        return None
    if not _OFFSET_ZONE.fullmatch(kind.tz) and not known_zone(kind.tz):
        raise _unsupported(kind, where, "its time zone is not an IANA name or an offset like +02:00")
    return str(kind.tz)


@lru_cache(maxsize=1024)
def known_zone(name: str) -> bool:
    """True for an IANA zone that this machine's database has, and always for "UTC"."""
    if name == "UTC":
        return True
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return True


def _unsupported(kind: pa.DataType, where: str, why: str) -> UnsupportedType:
    column = f"column `{where}`: " if where else ""
    shown = str(kind) if len(str(kind)) <= 80 else f"{str(kind)[:77]}..."
    return UnsupportedType(f"{column}{shown} is not supported: {why}", field=where, hint="cast it before sending")


# -- values ------------------------------------------------------------------------------------------------------------
def normalise(rows: _T) -> _T:
    """`rows` (RecordBatch or Table) with canonical types and values in range; the same object when nothing changes.

    Raises UnsupportedType and ValueNotRepresentable, each naming the column, never a value."""
    schema = canonical_schema(rows.schema)
    columns = [
        normalise_array(column, where=name) for column, name in zip(rows.columns, rows.schema.names, strict=True)
    ]
    if schema.equals(rows.schema):
        return rows
    if isinstance(rows, pa.Table):
        return pa.Table.from_arrays(columns, schema=schema)
    return pa.RecordBatch.from_arrays(columns, schema=schema) if columns else rows


def normalise_array(array: pa.Array | pa.ChunkedArray, *, where: str = "") -> pa.Array | pa.ChunkedArray:
    """One column, canonical and in range. Raises as `normalise`."""
    converted = cast_exactly(array, canonical(array.type, where=where), where=where)
    check_values(converted, where=where)
    return converted


def cast_exactly(
    array: pa.Array | pa.ChunkedArray, kind: pa.DataType, *, where: str = ""
) -> pa.Array | pa.ChunkedArray:
    """`array` as `kind`, digit for digit. Raises ValueNotRepresentable, or UnsupportedType when there is no such cast."""
    if array.type.equals(kind):
        return array
    source = _without_list_views(array) if "list_view" in str(array.type) else array
    try:
        if pa.types.is_integer(array.type) and pa.types.is_decimal(kind):
            # Arrow demands room for any integer, not for those that are there.
            source = pc.cast(source, pa.decimal256(20 + kind.scale, kind.scale))
        cast = pc.cast(source, kind, safe=True)
    except pa.ArrowNotImplementedError as error:
        raise _unsupported(array.type, where, f"it cannot become {kind}") from error
    except pa.ArrowInvalid as error:
        raise _inexact(where, kind) from error
    if _rounds(array.type, kind):
        _check_same(array, pc.cast(cast, array.type, safe=False), where, kind)
    return cast


def _rounds(given: pa.DataType, kind: pa.DataType) -> bool:
    """True where Arrow's safe cast rounds silently, so that only the way back shows a loss."""
    types = pa.types
    if types.is_date64(given):
        return True
    if types.is_decimal(given):
        return bool(types.is_floating(kind))
    narrower = types.is_floating(kind) and given.bit_width > kind.bit_width
    return bool(types.is_floating(given) and (types.is_decimal(kind) or narrower))


def _without_list_views(array: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Lists instead of list views, also inside lists and structs: Arrow's own cast mislays offsets where a view is NULL."""
    kind, types = array.type, pa.types
    if isinstance(array, pa.ChunkedArray):
        chunks = [_without_list_views(chunk) for chunk in array.chunks]
        return pa.chunked_array(chunks or [_without_list_views(pa.array([], kind))])
    if types.is_struct(kind):
        children = [_without_list_views(child) for child in array.flatten()]
        fields = [field.with_type(child.type) for field, child in zip(kind.fields, children, strict=True)]
        return pa.StructArray.from_arrays(children, fields=fields, mask=array.is_null())
    if types.is_map(kind) or not (types.is_list(kind) or types.is_list_view(kind) or types.is_large_list_view(kind)):
        return array
    ends = pc.cumulative_sum(pc.fill_null(pc.list_value_length(array), 0).cast(pa.int32()))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    return pa.ListArray.from_arrays(offsets, _without_list_views(array.flatten()), mask=array.is_null())


def _check_same(before: pa.Array, after: pa.Array, where: str, kind: pa.DataType) -> None:
    same = pc.equal(before, after)
    if pa.types.is_floating(before.type):
        same = pc.or_(same, pc.and_(pc.is_nan(before), pc.is_nan(after)))
    if not pc.all(same, min_count=0).as_py():
        raise _inexact(where, kind)


def _inexact(where: str, kind: pa.DataType) -> ValueNotRepresentable:
    column = f"column `{where}`: " if where else ""
    return ValueNotRepresentable(
        f"{column}a value cannot be held exactly as {kind}",
        field=where,
        hint="round or cast it yourself if that is meant",
    )


def check_values(array: pa.Array | pa.ChunkedArray, *, where: str = "") -> None:
    """Refuses instants, dates, times and spans that one of the encodings cannot write. Raises ValueNotRepresentable.

    `array` is of a canonical type. Values under a NULL list, struct or map do not count."""
    for chunk in array.chunks if isinstance(array, pa.ChunkedArray) else [array]:
        _check_values(chunk, where)


def _check_values(array: pa.Array, where: str) -> None:
    kind, types = array.type, pa.types
    if limits := _limits(kind):
        _check_limits(array, limits, where)
    elif types.is_struct(kind):
        for field, child in zip(kind.fields, array.flatten(), strict=True):
            _check_values(child, f"{where}.{field.name}")
    elif types.is_map(kind):
        entries = array.cast(pa.list_(pa.struct([kind.key_field, kind.item_field]))).flatten()
        keys, values = entries.flatten()
        _check_values(keys, f"{where}.key")
        _check_values(values, f"{where}.value")
    elif types.is_list(kind) and (types.is_nested(kind.value_type) or _limits(kind.value_type)):
        _check_values(array.flatten(), f"{where}[]")


def _limits(kind: pa.DataType) -> tuple[int, int] | None:
    if pa.types.is_timestamp(kind):
        return MIN_MICROS, MAX_MICROS
    if pa.types.is_date32(kind):
        return MIN_MICROS // MICROS_PER_DAY, MAX_MICROS // MICROS_PER_DAY
    if pa.types.is_time64(kind):
        return 0, MICROS_PER_DAY - 1
    if pa.types.is_duration(kind):
        return -MAX_DURATION_MICROS, MAX_DURATION_MICROS
    return None


def _check_limits(array: pa.Array, limits: tuple[int, int], where: str) -> None:
    numbers = array.view(pa.int32() if array.type.bit_width == 32 else pa.int64())
    bounds = pc.min_max(numbers).as_py()
    if bounds["min"] is not None and (bounds["min"] < limits[0] or bounds["max"] > limits[1]):
        column = f"column `{where}`: " if where else ""
        raise ValueNotRepresentable(
            f"{column}a value is outside what {array.type} may hold here",
            field=where,
            hint="dates and times are of the years 1 to 9999, times of day under 24 h, spans under 10,000 years",
        )
