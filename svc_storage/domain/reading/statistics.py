"""A file's statistics: the one function that makes them, and the one that reads them.

The form is Delta's (`numRecords`, `minValues`, `maxValues`, `nullCount`), JSON. A value that JSON or Delta cannot carry poisons a
table for good (storage.md 1.10), so what is in doubt is left out: an absent bound only means that the file is not pruned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from svc_storage.ports import ColumnStatistics

COLUMNS = 64
"""Only the first columns of a table get bounds, and storage's own."""
TEXT_LIMIT = 64
"""Longer texts get no bound (a cut maximum would be too low)."""


class StatisticsBuilder:
    """Collects over the batches of one file."""

    def __init__(self, schema: pa.Schema) -> None:
        fields = [*list(schema)[:COLUMNS], *(field for field in list(schema)[COLUMNS:] if field.name.startswith("_"))]
        # A null count for a nested column would have to be nested too; a plain number makes the table unreadable.
        self._columns = {field.name: _Column(field.type) for field in fields if not pa.types.is_nested(field.type)}
        self._rows = 0
        self.texts = frozenset(field.name for field in fields if pa.types.is_string(field.type))
        """Columns whose bounds come by `add_text`."""

    def add_text(self, name: str, bounds: tuple[str, str] | None) -> None:
        """Bounds of one of `texts` over a part of the file that has values; None: not known."""
        if bounds is None:
            self._columns[name].give_up()
        else:
            self._columns[name].widen(*bounds)

    def add(self, rows: pa.Table) -> None:
        """Takes rows of the schema."""
        self._rows += rows.num_rows
        for name, column in self._columns.items():
            column.add(rows.column(name))

    def to_json(self) -> str:
        """Never raises for a value: what cannot be carried is left out."""
        if not self._rows:
            return "{}"
        low = {name: column.low for name, column in self._columns.items() if column.low is not None}
        high = {name: column.high for name, column in self._columns.items() if column.high is not None}
        bounded = low.keys() & high.keys()
        return json.dumps(
            {
                "numRecords": self._rows,
                "minValues": {name: _plain(value) for name, value in low.items() if name in bounded},
                "maxValues": {name: _plain(value) for name, value in high.items() if name in bounded},
                "nullCount": {name: column.nulls for name, column in self._columns.items()},
            },
            allow_nan=False,
            separators=(",", ":"),
        )


def parse(stats_json: str) -> Mapping[str, ColumnStatistics]:
    """Bounds by column, in Delta's JSON form; a column without an entry is unknown. Never raises for foreign nonsense."""
    try:
        raw = json.loads(stats_json) if stats_json else {}
    except ValueError:
        return {}
    low, high, nulls = (_mapping(raw, key) for key in ("minValues", "maxValues", "nullCount"))
    return {
        name: ColumnStatistics(
            low.get(name), high.get(name), count if isinstance(count := nulls.get(name), int) else None
        )
        for name in (low.keys() & high.keys()) | nulls.keys()
    }


def rows_in(stats_json: str) -> int:
    """`numRecords`, 0 when absent (a foreign writer's file)."""
    try:
        raw = json.loads(stats_json) if stats_json else {}
    except ValueError:
        return 0
    count = raw.get("numRecords") if isinstance(raw, dict) else None
    return count if isinstance(count, int) else 0


def _mapping(raw: Any, key: str) -> Mapping[str, Any]:
    value = raw.get(key) if isinstance(raw, dict) else None
    return value if isinstance(value, dict) else {}


class _Column:
    __slots__ = ("bounded", "floating", "high", "low", "nulls", "text")

    def __init__(self, kind: pa.DataType) -> None:
        self.floating = pa.types.is_floating(kind)
        self.text = pa.types.is_string(kind)
        self.bounded = _has_order(kind)
        self.nulls = 0
        self.low: Any = None
        self.high: Any = None

    def add(self, values: pa.ChunkedArray) -> None:
        self.nulls += values.null_count
        if self.text or not self.bounded or values.null_count == len(values):
            return
        if self.floating and not pc.all(pc.is_finite(values)).as_py():  # is_finite is null for null, which `all` skips
            self.give_up()
            return
        bounds = pc.min_max(values).as_py()
        self.widen(bounds["min"], bounds["max"])

    def widen(self, low: Any, high: Any) -> None:
        if not (self.bounded and _can_carry(low) and _can_carry(high)):
            self.give_up()
            return
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)

    def give_up(self) -> None:
        self.bounded, self.low, self.high = False, None, None


def _has_order(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_string(kind)
        or pa.types.is_date(kind)
        or pa.types.is_timestamp(kind)
    )


def _can_carry(value: Any) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= TEXT_LIMIT and value.isprintable()
    return not (isinstance(value, float) and not math.isfinite(value))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):  # naive: no Z. A datetime is a date too, so it comes first
        text = value.replace(tzinfo=None).isoformat(timespec="microseconds")
        return text + "Z" if value.tzinfo else text
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    return value
