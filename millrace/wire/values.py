"""Values: `millrace.types.v1.Value` and Arrow, without loss in either direction.

Instants, dates, times and spans go through whole microseconds, never through floats or a local clock.
"""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa

from millrace.arrow.types import MICROS_PER_DAY, canonical, normalise_array
from millrace.errors import FieldInvalid, FixRequest, ValueNotRepresentable
from millrace.types.v1 import types_pb2 as pb
from millrace.wire import clock

_NULL = pb.Null()
_INT_LIMITS = {8: 2**7, 16: 2**15, 32: 2**31, 64: 2**63}
_EXACT_FLOAT = 2**53
# Wide enough for any decimal of 38 digits; the default context rounds at 28.
_CONTEXT = decimal.Context(prec=200)
_MAX_DIGITS = 100


# -- to proto ----------------------------------------------------------------------------------------------------------
def array_to_protos(array: pa.Array | pa.ChunkedArray) -> list[pb.Value]:
    """One column's values. Raises UnsupportedType, ValueNotRepresentable."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return _protos(normalise_array(array))


def value_to_proto(value: Any, kind: pa.DataType | None = None) -> pb.Value:
    """One value: a `pa.Scalar` or a Python value (of type `kind`, guessed when None).

    Raises FieldInvalid when `value` is not of `kind` or of no type at all; UnsupportedType, ValueNotRepresentable."""
    if isinstance(value, pa.Scalar):
        return array_to_protos(pa.array([value.as_py()] if not value.is_valid else [value], value.type))[0]
    if value is None:
        return pb.Value(null=_NULL)
    try:
        return array_to_protos(pa.array([value], kind))[0]
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        wanted = f"a value of {kind}" if kind is not None else "a value of any type"
        raise FieldInvalid(f"a {type(value).__name__} is not {wanted}") from error


def _protos(array: pa.Array) -> list[pb.Value]:
    kind, types = array.type, pa.types
    if types.is_list(kind):
        return _lists(array)
    if types.is_struct(kind):
        return _structs(array)
    if types.is_map(kind):
        return _maps(array)
    make = _maker(kind)
    return [pb.Value(null=_NULL) if value is None else make(value) for value in _plain(array).to_pylist()]


def _plain(array: pa.Array) -> pa.Array:
    """Temporal columns as their integers."""
    if not pa.types.is_temporal(array.type):
        return array
    return array.view(pa.int32() if array.type.bit_width == 32 else pa.int64())


def _maker(kind: pa.DataType) -> Callable[[Any], pb.Value]:
    types = pa.types
    for matches, make in (
        (types.is_boolean, lambda value: pb.Value(bool=value)),
        (types.is_integer, lambda value: pb.Value(int=value)),
        (types.is_floating, lambda value: pb.Value(float=value)),
        (types.is_decimal, lambda value: pb.Value(decimal=f"{value:f}")),
        (types.is_string, lambda value: pb.Value(string=value)),
        (types.is_binary, lambda value: pb.Value(binary=value)),
        (types.is_date, lambda value: pb.Value(date=clock.date_text(value))),
        (types.is_time, lambda value: pb.Value(time=clock.time_text(value))),
        (types.is_duration, lambda value: pb.Value(duration=clock.duration_proto(value))),
    ):
        if matches(kind):
            return make
    if kind.tz:
        return lambda value: pb.Value(timestamp=clock.timestamp_proto(value))
    return lambda value: pb.Value(datetime=clock.datetime_text(value))


def _spans(array: pa.Array) -> Iterable[tuple[int, int] | None]:
    """Where each list or map begins and ends in its values; None where it is NULL."""
    offsets = array.offsets.to_pylist()
    for index, valid in enumerate(array.is_valid().to_pylist()):
        yield (offsets[index], offsets[index + 1]) if valid else None


def _lists(array: pa.Array) -> list[pb.Value]:
    start, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
    items = _protos(array.values.slice(start, end - start))
    return [
        pb.Value(null=_NULL)
        if span is None
        else pb.Value(list=pb.ValueList(values=items[span[0] - start : span[1] - start]))
        for span in _spans(array)
    ]


def _maps(array: pa.Array) -> list[pb.Value]:
    start, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
    keys = _protos(array.keys.slice(start, end - start))
    items = _protos(array.items.slice(start, end - start))
    entries = [pb.ValueMapEntry(key=key, value=item) for key, item in zip(keys, items, strict=True)]
    return [
        pb.Value(null=_NULL)
        if span is None
        else pb.Value(map=pb.ValueMap(entries=entries[span[0] - start : span[1] - start]))
        for span in _spans(array)
    ]


def _structs(array: pa.Array) -> list[pb.Value]:
    columns = [_protos(child) for child in array.flatten()]
    return [
        pb.Value(struct=pb.ValueList(values=values)) if valid else pb.Value(null=_NULL)
        for valid, *values in zip(array.is_valid().to_pylist(), *columns, strict=True)
    ]


# -- from proto --------------------------------------------------------------------------------------------------------
def array_from_protos(values: Sequence[pb.Value], kind: pa.DataType, *, where: str = "values[{index}]") -> pa.Array:
    """One column of the canonical type `kind`. `where` is the path of one value in its request, with `{index}` in it.

    Raises FieldInvalid (unset, another kind, unreadable text) and ValueNotRepresentable (too large, too many digits), with the path."""
    types = pa.types
    if types.is_list(kind):
        return _lists_from(values, kind, where)
    if types.is_struct(kind):
        return _structs_from(values, kind, where)
    if types.is_map(kind):
        return _maps_from(values, kind, where)
    read = _reader(kind)
    found: list[Any] = []
    for index, value in enumerate(values):
        try:
            found.append(None if value.WhichOneof("kind") == "null" else read(value, ""))
        except FixRequest as error:
            # The path is only spelled out for the value that is refused.
            raise type(error)(error.message, field=where.format(index=index), hint=error.hint) from error
    if types.is_temporal(kind):
        return pa.array(found, pa.int32() if kind.bit_width == 32 else pa.int64()).view(kind)
    return pa.array(found, kind)


def value_from_proto(value: pb.Value, kind: pa.DataType, *, where: str = "value") -> pa.Scalar:
    """One value as a scalar of the canonical type of `kind`. Raises as `array_from_protos`."""
    return array_from_protos([value], canonical(kind), where=where)[0]


def _member(value: pb.Value, wanted: str, where: str) -> Any:
    held = value.WhichOneof("kind")
    if held is None:
        raise FieldInvalid("a value is unset", field=where, hint='NULL is written {"null":{}}')
    if held != wanted:
        raise FieldInvalid(f"expected `{wanted}`, got `{held}`", field=where)
    return getattr(value, wanted)


def _reader(kind: pa.DataType) -> Callable[[pb.Value, str], Any]:
    types = pa.types
    if types.is_integer(kind):
        limit = _INT_LIMITS[kind.bit_width]
        return lambda value, where: _int_from(value, limit, where)
    if types.is_floating(kind):
        return lambda value, where: _float_from(value, kind, where)
    if types.is_decimal(kind):
        return lambda value, where: _decimal_from(value, kind, where)
    if types.is_timestamp(kind) and kind.tz:
        return lambda value, where: clock.micros_of(_member(value, "timestamp", where), where)
    for matches, member, parse in (
        (types.is_date, "date", clock.date_days),
        (types.is_time, "time", clock.time_micros),
        (types.is_timestamp, "datetime", clock.datetime_micros),
        (types.is_duration, "duration", clock.duration_micros),
    ):
        if matches(kind):
            return _parsed(member, parse)
    name = "bool" if types.is_boolean(kind) else "string" if types.is_string(kind) else "binary"
    return lambda value, where: _member(value, name, where)


def _parsed(member: str, parse: Callable[[Any, str], int]) -> Callable[[pb.Value, str], int]:
    return lambda value, where: parse(_member(value, member, where), where)


def _int_from(value: pb.Value, limit: int, where: str) -> int:
    number: int = _member(value, "int", where)
    if not -limit <= number < limit:
        raise ValueNotRepresentable("the number does not fit the column's integer", field=where)
    return number


def _float_from(value: pb.Value, kind: pa.DataType, where: str) -> float:
    if value.WhichOneof("kind") == "int" and abs(value.int) <= _EXACT_FLOAT:
        number = float(value.int)
    else:
        number = _member(value, "float", where)
    if kind.bit_width == 32:
        narrow: float = pa.scalar(number, pa.float32()).as_py()
        if narrow != number and number == number:
            raise ValueNotRepresentable("the number has no exact float32", field=where)
    return number


def _decimal_from(value: pb.Value, kind: pa.DataType, where: str) -> decimal.Decimal:
    # A whole number is one of a decimal column's: it may have been an integer column when the sender learned it.
    text: str = str(value.int) if value.WhichOneof("kind") == "int" else _member(value, "decimal", where)
    try:
        number = decimal.Decimal(text[:_MAX_DIGITS])
    except decimal.InvalidOperation as error:
        raise FieldInvalid("not a decimal number", field=where, hint='write for instance "1.20"') from error
    if not number.is_finite():
        raise FieldInvalid("a decimal is finite", field=where)
    fits = (len(text) <= _MAX_DIGITS and number.adjusted() < kind.precision - kind.scale) or not number
    exact = number.quantize(decimal.Decimal(1).scaleb(-kind.scale), context=_CONTEXT) if fits else None
    if exact is None or exact != number:
        raise ValueNotRepresentable(f"the number does not fit decimal({kind.precision},{kind.scale})", field=where)
    return exact


def _mask(values: Sequence[pb.Value]) -> pa.Array:
    return pa.array([value.WhichOneof("kind") == "null" for value in values], pa.bool_())


def _members(values: Sequence[pb.Value], wanted: str, where: str) -> list[Any]:
    """What each value holds; None where it is NULL."""
    return [
        None if value.WhichOneof("kind") == "null" else _member(value, wanted, where.format(index=index))
        for index, value in enumerate(values)
    ]


def _inside(where: str, below: str) -> str:
    """The path of items, which are checked for all rows at once: it names no row."""
    return f"{where.replace('{index}', '*')}.{below}"


def _offsets(sizes: Iterable[int]) -> pa.Array:
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + size)
    return pa.array(offsets, pa.int32())


def _lists_from(values: Sequence[pb.Value], kind: pa.DataType, where: str) -> pa.Array:
    mask = _mask(values)
    lists = [message.values if message else () for message in _members(values, "list", where)]
    items = array_from_protos(
        [item for one in lists for item in one], kind.value_type, where=_inside(where, "list.values[*]")
    )
    return pa.ListArray.from_arrays(_offsets(map(len, lists)), items, type=kind, mask=mask)


def _maps_from(values: Sequence[pb.Value], kind: pa.DataType, where: str) -> pa.Array:
    mask = _mask(values)
    maps = [message.entries if message else () for message in _members(values, "map", where)]
    entries = [entry for one in maps for entry in one]
    keys = array_from_protos(
        [entry.key for entry in entries], kind.key_type, where=_inside(where, "map.entries[*].key")
    )
    if keys.null_count:
        raise FieldInvalid("a map's key is never NULL", field=_inside(where, "map.entries[*].key"))
    items = array_from_protos(
        [entry.value for entry in entries], kind.item_type, where=_inside(where, "map.entries[*].value")
    )
    return pa.MapArray.from_arrays(_offsets(map(len, maps)), keys, items, type=kind, mask=mask)


def _structs_from(values: Sequence[pb.Value], kind: pa.DataType, where: str) -> pa.Array:
    mask = _mask(values)
    nothing = [pb.Value(null=_NULL)] * kind.num_fields
    rows: list[Sequence[pb.Value]] = []
    for index, message in enumerate(_members(values, "struct", where)):
        row = message.values if message else nothing
        if len(row) != kind.num_fields:
            raise FieldInvalid(f"{len(row)} items for a struct of {kind.num_fields}", field=where.format(index=index))
        rows.append(row)
    children = [
        array_from_protos([row[at] for row in rows], field.type, where=f"{where}.struct.values[{at}]")
        for at, field in enumerate(kind.fields)
    ]
    return pa.StructArray.from_arrays(children, fields=kind.fields, mask=mask)


# -- without a type ----------------------------------------------------------------------------------------------------
def python_from_proto(value: pb.Value, *, where: str = "value") -> Any:
    """The Python value, by what `value` itself says: for parameters and for showing. Structs become lists. Raises FieldInvalid."""
    member = value.WhichOneof("kind")
    if member == "null":
        return None
    held = _member(value, member or "", where)
    match member:
        case "list" | "struct":
            return [
                python_from_proto(item, where=f"{where}.{member}.values[{at}]") for at, item in enumerate(held.values)
            ]
        case "map":
            return [
                (
                    python_from_proto(entry.key, where=f"{where}.key"),
                    python_from_proto(entry.value, where=f"{where}.value"),
                )
                for entry in held.entries
            ]
        case "decimal":
            return _decimal_from(value, pa.decimal128(38, min(38, len(held.partition(".")[2]))), where)
        case "timestamp":
            return clock.EPOCH.replace(tzinfo=dt.UTC) + dt.timedelta(microseconds=clock.micros_of(held, where))
        case "datetime":
            return clock.EPOCH + dt.timedelta(microseconds=clock.datetime_micros(held, where))
        case "date":
            return clock.EPOCH.date() + dt.timedelta(days=clock.date_days(held, where))
        case "time":
            micros = clock.time_micros(held, where)
            return (clock.EPOCH + dt.timedelta(microseconds=micros % MICROS_PER_DAY)).time()
        case "duration":
            return dt.timedelta(microseconds=clock.duration_micros(held, where))
    return held
