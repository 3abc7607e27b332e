"""A file's statistics as bounds in the columns' own values. What cannot be read is unknown, never guessed."""

from __future__ import annotations

import datetime as dt
import decimal
import math
from functools import lru_cache
from typing import Any

import pyarrow as pa

from svc_storage.domain.reading.predicates import Literal
from svc_storage.domain.reading.pruning import ColumnBounds, FileBounds
from svc_storage.domain.reading.statistics import parse
from svc_storage.ports import DataFile

_MILLISECOND = dt.timedelta(milliseconds=1)


def bounds_of(file: DataFile, schema: pa.Schema, columns: frozenset[str]) -> FileBounds:
    """Of the named columns. A column that the file's statistics do not know has no bounds."""
    known = _parsed(file.stats_json)
    found = {}
    for name in columns & known.keys():
        statistics, kind = known[name], schema.field(name).type
        found[name] = ColumnBounds(
            low=_value(statistics.minimum, kind),
            high=_raised(_value(statistics.maximum, kind)),
            nulls=statistics.null_count,
        )
    return FileBounds(file.row_count, found)


@lru_cache(maxsize=4_096)
def _parsed(stats_json: str) -> Any:
    return parse(stats_json)


def _value(raw: Any, kind: pa.DataType) -> Literal | None:
    try:
        return _typed(raw, kind)
    except (ValueError, TypeError, ArithmeticError):
        return None


def _typed(raw: Any, kind: pa.DataType) -> Literal | None:
    if raw is None or isinstance(raw, bool):
        return None
    types = pa.types
    if types.is_integer(kind):
        return raw if isinstance(raw, int) else None
    if types.is_floating(kind):
        number = float(raw)
        return number if math.isfinite(number) else None
    if types.is_decimal(kind):
        # A foreign writer's JSON number went through a double: only exact forms are trusted.
        return decimal.Decimal(raw) if isinstance(raw, (str, int)) else None
    if types.is_string(kind):
        return raw if isinstance(raw, str) else None
    if types.is_timestamp(kind):
        return _instant(str(raw), zoned=kind.tz is not None)
    if types.is_date(kind):
        return dt.date.fromisoformat(str(raw))
    return None


def _instant(text: str, *, zoned: bool) -> dt.datetime:
    value = dt.datetime.fromisoformat(text)
    naive = value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
    return naive.replace(tzinfo=dt.UTC) if zoned else naive


def _raised(high: Literal | None) -> Literal | None:
    """Other Delta writers cut a maximum to whole milliseconds: such a one may be up to a millisecond too low."""
    if isinstance(high, dt.datetime) and high.microsecond % 1_000 == 0:
        try:
            return high + _MILLISECOND
        except OverflowError:
            return None
    return high
