"""A spec against the table it asks: every name found, every type fit, every default filled in. What passes compiles."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pyarrow as pa

from millrace.arrow.types import known_zone
from millrace.errors import FieldInvalid, FieldRequired
from svc_analysis.domain.conditions import Columns, check_condition, columns_of
from svc_analysis.ports import (
    Aggregate,
    Bins,
    Column,
    Dimension,
    Expression,
    Fill,
    Measure,
    OrderKey,
    Resolved,
    Spec,
    TimeBucket,
    TimePart,
    Window,
)

MAX_COUNT = 10_000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_LOOSE = re.compile(r"[^\x00-\x1f\"]{1,255}")
_NUMERIC_RESULT = frozenset(
    {
        Aggregate.COUNT, Aggregate.COUNT_DISTINCT, Aggregate.SUM, Aggregate.AVG, Aggregate.QUANTILE, Aggregate.STDDEV, Aggregate.SHARE,
    }
)  # fmt: skip


def time_column(spec: Spec, event_time_column: str) -> str:
    """The column that `time_range` and `last_seconds` speak of; empty when neither is used. Raises FieldRequired."""
    if spec.time_range.start_us is None and spec.time_range.end_us is None and not spec.last_seconds:
        return ""
    if column := spec.time_column or event_time_column:
        return column
    raise FieldRequired("the table has no event-time column: say which column is the time", field="spec.time_column")


def names_storage_columns(spec: Spec) -> bool:
    """True when the spec names a column that storage adds (`_ingested_at`): `*` leaves those out."""
    conditions = [c for c in (spec.where, *(m.where for m in spec.measures)) if c is not None]
    found = {spec.time_column, *(d.expression.column for d in spec.dimensions), *(m.column for m in spec.measures)}
    found.update(*map(columns_of, conditions))
    return any(name.startswith("_") for name in found)


def resolve(spec: Spec, schema: pa.Schema, event_time_column: str, high_us: int | None) -> Resolved:
    """`high_us`: the highest value of the time column at this version, needed for `last_seconds`; None when there is none.

    Raises FieldInvalid and FieldRequired, naming the field."""
    columns = {field.name: field.type for field in schema}
    dimensions = _dimensions(spec, columns, event_time_column)
    measures = tuple(_measure(m, columns, f"spec.measures[{i}]") for i, m in enumerate(spec.measures))
    names = [*(d.name for d in dimensions), *(m.name for m in measures)]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise FieldInvalid(f"two columns of the result are called `{name}`", field="spec")
    if spec.where is not None:
        check_condition(spec.where, columns, "spec.where")
    if spec.limit < 0:
        raise FieldInvalid("a limit is 0 (none) or more", field="spec.limit")
    fill = _fill(spec, dimensions, measures, columns)
    return Resolved(
        dimensions=dimensions,
        measures=measures,
        where=spec.where,
        window=_window(spec, columns, event_time_column, high_us),
        fill=fill,
        order=_order(spec, dimensions, names),
        limit=spec.limit,
        columns=columns,
    )


# -- time ------------------------------------------------------------------------------------------------------------------
def _window(spec: Spec, columns: Columns, event_time_column: str, high_us: int | None) -> Window | None:
    if spec.last_seconds < 0 or not math.isfinite(spec.last_seconds):
        raise FieldInvalid("0 or more seconds are expected", field="spec.last_seconds")
    if spec.previous_period and not spec.last_seconds:
        raise FieldRequired("`previous_period` needs `last_seconds`", field="spec.last_seconds")
    if not (column := time_column(spec, event_time_column)):
        return None
    _instant(columns, column, "spec.time_column")
    start, end = spec.time_range.start_us, spec.time_range.end_us
    if start is not None and end is not None and start > end:
        raise FieldInvalid("the range ends before it starts", field="spec.time_range")
    if not spec.last_seconds:
        return Window(column, start, end, empty=start is not None and start == end)
    if high_us is None:
        return Window(column, start, end, empty=True)
    length = max(1, round(spec.last_seconds * 1e6))
    # (high - length, high] in whole microseconds: the newest row counts, the one exactly `length` before it does not.
    last = high_us + 1 - (length if spec.previous_period else 0)
    first = last - length
    start, end = max(first, start) if start is not None else first, min(last, end) if end is not None else last
    return Window(column, start, end, empty=start >= end)


def _instant(columns: Columns, column: str, field: str) -> None:
    kind = _known(columns, column, field)
    if not (pa.types.is_timestamp(kind) and kind.tz):
        raise FieldInvalid(f"column `{column}` is {kind}; a timestamp is expected", field=field)


def _known(columns: Columns, column: str, field: str) -> pa.DataType:
    if column not in columns:
        raise FieldInvalid(f"the table has no column `{column}`", field=field)
    return columns[column]


def _zone(zone: str, field: str) -> str:
    if zone and not known_zone(zone):
        raise FieldInvalid("an IANA time zone is expected, for instance America/New_York", field=field)
    return zone or "UTC"


# -- dimensions --------------------------------------------------------------------------------------------------------------
def _dimensions(spec: Spec, columns: Columns, event_time_column: str) -> tuple[Dimension, ...]:
    asked = spec.dimensions
    if not asked and not spec.measures:
        asked = tuple(Dimension(name, Column(name)) for name in columns if not name.startswith("_"))
    return tuple(_dimension(d, columns, event_time_column, f"spec.dimensions[{i}]") for i, d in enumerate(asked))


def _dimension(asked: Dimension, columns: Columns, event_time_column: str, field: str) -> Dimension:
    expression = _expression(asked.expression, columns, event_time_column, field)
    name = asked.name or expression.column
    if not (_NAME if asked.name else _LOOSE).fullmatch(name):
        raise FieldInvalid("a name matches [a-z][a-z0-9_]{0,62}", field=f"{field}.name")
    return Dimension(name, expression)


def _expression(asked: Expression, columns: Columns, event_time_column: str, field: str) -> Expression:
    if isinstance(asked, Column):
        _known(columns, asked.column, f"{field}.column")
        return asked
    if isinstance(asked, Bins):
        return _bins(asked, columns, f"{field}.bin")
    field = f"{field}.{'bucket' if isinstance(asked, TimeBucket) else 'part'}"
    if not (column := asked.column or event_time_column):
        raise FieldRequired("the table has no event-time column: name a column", field=f"{field}.column")
    _instant(columns, column, f"{field}.column")
    zone = _zone(asked.zone, f"{field}.zone")
    if isinstance(asked, TimePart):
        return replace(asked, column=column, zone=zone)
    if not 0 <= asked.count <= MAX_COUNT:
        raise FieldInvalid(f"0 (1) to {MAX_COUNT} units are expected", field=f"{field}.count")
    return replace(asked, column=column, zone=zone, count=asked.count or 1)


def _bins(asked: Bins, columns: Columns, field: str) -> Bins:
    kind = _known(columns, asked.column, f"{field}.column")
    if not is_number(kind):
        raise FieldInvalid(f"column `{asked.column}` is {kind}; a number is expected", field=f"{field}.column")
    if not (math.isfinite(asked.width) and asked.width > 0):
        raise FieldInvalid("a finite width above 0 is expected", field=f"{field}.width")
    for name, value in (("clamp_low", asked.clamp_low), ("clamp_high", asked.clamp_high)):
        if value is not None and not math.isfinite(value):
            raise FieldInvalid("a finite number is expected", field=f"{field}.{name}")
    if asked.clamp_low is not None and asked.clamp_high is not None and asked.clamp_low >= asked.clamp_high:
        raise FieldInvalid("`clamp_low` must lie below `clamp_high`", field=f"{field}.clamp_high")
    return asked


def is_number(kind: pa.DataType) -> bool:
    """Integers, floats and decimals."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


# -- measures ----------------------------------------------------------------------------------------------------------------
def _measure(asked: Measure, columns: Columns, field: str) -> Measure:
    if not _NAME.fullmatch(asked.name):
        raise FieldInvalid("a name matches [a-z][a-z0-9_]{0,62}", field=f"{field}.name")
    if asked.where is not None:
        check_condition(asked.where, columns, f"{field}.where")
    if asked.aggregate is Aggregate.SHARE:
        if asked.where is None:
            raise FieldRequired("SHARE needs a condition", field=f"{field}.where")
        if asked.column:
            raise FieldInvalid("SHARE counts rows: leave the column out", field=f"{field}.column")
        return asked
    if not asked.column:
        if asked.aggregate is not Aggregate.COUNT:
            raise FieldRequired(f"{asked.aggregate.name} needs a column", field=f"{field}.column")
        return asked
    kind = _known(columns, asked.column, f"{field}.column")
    _fits(asked, kind, field)
    return asked


def _fits(asked: Measure, kind: pa.DataType, field: str) -> None:
    numeric = {Aggregate.SUM, Aggregate.AVG, Aggregate.QUANTILE, Aggregate.STDDEV}
    if asked.aggregate in numeric and not is_number(kind):
        raise FieldInvalid(
            f"{asked.aggregate.name} needs a number; `{asked.column}` is {kind}", field=f"{field}.column"
        )
    if asked.aggregate in (Aggregate.MIN, Aggregate.MAX) and pa.types.is_nested(kind):
        raise FieldInvalid(f"{kind} has no smallest value", field=f"{field}.column")
    if asked.aggregate is Aggregate.QUANTILE and (asked.quantile is None or not 0 <= asked.quantile <= 1):
        raise FieldInvalid("0 to 1 is expected", field=f"{field}.quantile")


# -- fill and order ------------------------------------------------------------------------------------------------------------
def _fill(spec: Spec, dimensions: tuple[Dimension, ...], measures: tuple[Measure, ...], columns: Columns) -> Fill:
    gridded = any(isinstance(d.expression, TimeBucket | Bins) for d in dimensions)
    if not gridded or not measures:
        return Fill.NONE
    if spec.fill is Fill.NONE:
        raise FieldRequired("say what stands in an empty bucket: ZERO, GAP or LAST", field="spec.fill")
    if spec.fill is Fill.ZERO:
        for index, measure in enumerate(measures):
            number = measure.aggregate in _NUMERIC_RESULT or is_number(columns[measure.column])
            if not number:
                raise FieldInvalid(
                    f"`{measure.name}` is no number, so 0 cannot stand in it", field=f"spec.measures[{index}]"
                )
    return spec.fill


def _order(spec: Spec, dimensions: tuple[Dimension, ...], names: list[str]) -> tuple[OrderKey, ...]:
    for index, key in enumerate(spec.order):
        if key.column not in names:
            raise FieldInvalid(f"the result has no column `{key.column}`", field=f"spec.order[{index}].column")
    if not spec.measures and not spec.order:
        # Rows as they come when nothing was named: sorting a whole table by all its columns is not what a look at it means.
        return tuple(OrderKey(d.name) for d in dimensions) if spec.dimensions else ()
    asked = {key.column for key in spec.order}
    ties = tuple(OrderKey(d.name) for d in dimensions if d.name not in asked) if spec.measures else ()
    return (*spec.order, *ties)
