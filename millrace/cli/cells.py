"""One value as text and as JSON: exact decimals, instants with their offset, NULL that is no empty text."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections.abc import Callable
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

import pyarrow as pa

from millrace.wire import clock

Json: TypeAlias = Any
Maker: TypeAlias = Callable[[Any], Json]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def json_maker(kind: pa.DataType) -> Maker:
    """How one non-NULL Python value of `kind` (temporal ones as their integer, see `plain`) becomes JSON."""
    types = pa.types
    for matches, make in (
        (types.is_boolean, bool),
        (types.is_integer, int),
        (types.is_floating, _float),
        (types.is_decimal, lambda value: f"{value:f}"),
        (types.is_string, str),
        (types.is_binary, lambda value: base64.b64encode(value).decode()),
        (types.is_date, clock.date_text),
        (types.is_time, clock.time_text),
        (types.is_duration, duration_text),
    ):
        if matches(kind):
            return make
    if types.is_timestamp(kind):
        return clock.datetime_text if kind.tz is None else instant_maker(kind.tz)
    return _nested_maker(kind)


def _nested_maker(kind: pa.DataType) -> Maker:
    types = pa.types
    if types.is_list(kind):
        item = nullable(json_maker(kind.value_type))
        return lambda values: [item(value) for value in values]
    if types.is_struct(kind):
        makers = [(field.name, nullable(json_maker(field.type))) for field in kind.fields]
        return lambda value: {name: make(value[name]) for name, make in makers}
    if types.is_map(kind):
        key, item = json_maker(kind.key_type), nullable(json_maker(kind.item_type))
        return lambda pairs: [{"key": key(one), "value": item(other)} for one, other in pairs]
    return str


def nullable(make: Maker) -> Maker:
    return lambda value: None if value is None else make(value)


def _float(value: float) -> Json:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def instant_maker(zone: str) -> Callable[[int], str]:
    """Microseconds since 1970 as ISO 8601 in `zone`, its offset included; Z for UTC."""
    utc = zone in ("UTC", "Etc/UTC", "Z")
    place = dt.UTC if utc else ZoneInfo(zone) if not zone.startswith(("+", "-")) else _fixed(zone)

    def make(micros: int) -> str:
        moment = _EPOCH + dt.timedelta(microseconds=micros)
        if utc:
            return moment.isoformat().replace("+00:00", "Z")
        try:
            return moment.astimezone(place).isoformat()
        except OverflowError:  # the edge of year 1 or 9999 in another zone
            return moment.isoformat().replace("+00:00", "Z")

    return make


def _fixed(zone: str) -> dt.timezone:
    sign, hours, minutes = zone[0], int(zone[1:3]), int(zone[-2:])
    span = dt.timedelta(hours=hours, minutes=minutes)
    return dt.timezone(-span if sign == "-" else span)


def duration_text(micros: int) -> str:
    """ "5400s", "0.25s": as proto JSON has it."""
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    seconds, rest = divmod(micros, 1_000_000)
    return f"{sign}{seconds}" + (f".{rest:06d}".rstrip("0") if rest else "") + "s"


def plain(column: pa.Array) -> list[Any]:
    """A column's Python values, instants and spans as integers at every depth: no rounding, no lost zone, no year 9999 limit."""
    found: list[Any] = _plain(column).to_pylist()
    return found


def _plain(column: pa.Array) -> pa.Array:
    return column.cast(_integers(column.type)) if _integers(column.type) != column.type else column


def _integers(kind: pa.DataType) -> pa.DataType:
    """`kind` with temporal types as integers of the same bits."""
    types = pa.types
    if types.is_temporal(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_integers(kind.value_type)))
    if types.is_struct(kind):
        return pa.struct([field.with_type(_integers(field.type)) for field in kind.fields])
    if types.is_map(kind):
        return pa.map_(
            kind.key_field.with_type(_integers(kind.key_type)), kind.item_field.with_type(_integers(kind.item_type))
        )
    return kind


def json_column(column: pa.Array) -> list[Json]:
    make = nullable(json_maker(column.type))
    return [make(value) for value in plain(column)]


def text_column(column: pa.Array) -> list[str | None]:
    """A column as text; None is NULL. Nested values are JSON."""
    return [None if value is None else text_of(value) for value in json_column(column)]


def text_of(value: Json) -> str:
    """A value of `json_column` as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
