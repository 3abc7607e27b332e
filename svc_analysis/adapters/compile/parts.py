"""Parts of a time and measures."""

from __future__ import annotations

import pyarrow as pa
from sqlglot import exp

from svc_analysis.adapters.compile.axes import at_zone
from svc_analysis.adapters.compile.terms import call, cast, column, condition, double
from svc_analysis.ports import Aggregate, Measure, Part, TimePart

_PARTS = {
    Part.HOUR_OF_DAY: "hour",
    Part.DAY_OF_WEEK: "isodow",
    Part.DAY_OF_MONTH: "day",
    Part.MONTH: "month",
    Part.MINUTE: "minute",
}


def time_part(part: TimePart) -> exp.Expr:
    """A part of the local time, as a 64-bit integer."""
    value = column(part.column)
    local = call("make_timestamp", call("epoch_us", value)) if part.zone == "UTC" else at_zone(part.zone, value)
    return call("date_part", exp.Literal.string(_PARTS[part.part]), local)


def measure(asked: Measure, columns: dict[str, pa.DataType]) -> exp.Expr:
    """One number per group."""
    if asked.aggregate is Aggregate.SHARE:
        return _share(asked)
    value = column(asked.column) if asked.column else exp.Star()
    aggregate = _aggregate(asked, value, columns.get(asked.column))
    if asked.where is None:
        return _typed(asked, aggregate, columns)
    where = exp.Where(this=condition(asked.where))
    return _typed(asked, exp.Filter(this=aggregate, expression=where), columns)


def _share(asked: Measure) -> exp.Expr:
    assert asked.where is not None, "resolve() saw to it"
    chosen = exp.Filter(this=call("count", exp.Star()), expression=exp.Where(this=condition(asked.where)))
    rows = call("nullif", call("count", exp.Star()), 0)
    return exp.Div(this=cast(chosen, "DOUBLE"), expression=rows)


def _aggregate(asked: Measure, value: exp.Expr, kind: pa.DataType | None) -> exp.Expr:
    if asked.aggregate is Aggregate.COUNT_DISTINCT:
        return exp.Count(this=exp.Distinct(expressions=[value]))
    if asked.aggregate is Aggregate.QUANTILE:
        return call("quantile_cont", cast(value, "DOUBLE"), double(asked.quantile or 0.0))
    if asked.aggregate is Aggregate.STDDEV:
        return call("stddev_samp", cast(value, "DOUBLE"))
    names = {
        Aggregate.COUNT: "count",
        Aggregate.SUM: "sum",
        Aggregate.AVG: "avg",
        Aggregate.MIN: "min",
        Aggregate.MAX: "max",
    }
    return call(names[asked.aggregate], value)


def _typed(asked: Measure, aggregate: exp.Expr, columns: dict[str, pa.DataType]) -> exp.Expr:
    """Sums of integers are 128 bits wide in DuckDB: a chart wants a number, and beyond 64 bits an error."""
    if asked.aggregate is Aggregate.SUM and pa.types.is_integer(columns[asked.column]):
        return cast(aggregate, "BIGINT")
    return aggregate
