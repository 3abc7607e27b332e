"""A resolved spec as one SELECT.

Without buckets it is a plain SELECT. With them, the groups are computed once (`g`), every bucket between the ends is made
(`a0`, …), and the groups are joined to it: an empty bucket is a row like any other, filled as asked.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

import pyarrow as pa
from sqlglot import exp

from svc_analysis.adapters.compile.axes import Axis, BinAxis, key_column, key_name, time_axis
from svc_analysis.adapters.compile.parts import measure, time_part
from svc_analysis.adapters.compile.terms import (
    call,
    column,
    condition,
    conjunction,
    edge,
    is_not_null,
    moment,
    named,
    number,
    render,
)
from svc_analysis.ports import Bins, Column, Dimension, Fill, OrderKey, Resolved, TimeBucket, TimePart


def edges_of(spec: Resolved, sql: str) -> dict[str, dt.datetime]:
    """The window's edges as values of the parameters in `sql`: a live question's window moves, its text stays."""
    window = spec.window
    if window is None or window.empty:
        return {}
    last_us = None if window.end_us is None else window.end_us - 1
    edges = {"window_start": window.start_us, "window_end": window.end_us, "window_last": last_us}
    return {name: moment(at_us) for name, at_us in edges.items() if at_us is not None and f"${name}" in sql}


def shape_of(spec: Resolved) -> str:
    """Equal for specs whose texts are equal: all of it but where the window's edges lie."""
    window = spec.window
    if window is None:
        return repr(spec)
    moved = replace(
        window,
        start_us=None if window.start_us is None else 0,
        end_us=None if window.end_us is None else 1,
    )
    return repr(replace(spec, window=moved))


def compile_spec(spec: Resolved, schema: str, table: str, *, total_order: bool) -> str:
    """`schema`, `table`: the view to read. `total_order`: rows (not groups) are ordered by all their columns after what was asked.

    The text has the parameters that `edges_of` gives values for."""
    source = exp.Table(
        this=exp.to_identifier(table, quoted=True),
        db=exp.to_identifier(schema, quoted=True) if schema else None,
    )
    if spec.grouped and any(isinstance(d.expression, TimeBucket | Bins) for d in spec.dimensions):
        query = _filled(spec, source)
    else:
        query = _plain(spec, source)
    order = [*spec.order]
    if total_order and not spec.grouped:
        taken = {key.column for key in order}
        order += [OrderKey(name) for name in spec.names if name not in taken]
    return render(_finished(query, order, spec.limit))


def _finished(query: exp.Select, order: list[OrderKey], limit: int) -> exp.Select:
    for key in order:
        query = query.order_by(exp.Ordered(this=column(key.column), desc=key.descending, nulls_first=False), copy=False)
    return query.limit(limit, copy=False) if limit else query


def _rows_of(spec: Resolved, source: exp.Expr) -> exp.Select:
    """FROM and WHERE."""
    conditions: list[exp.Expr] = []
    if spec.window is not None:
        value = column(spec.window.column)
        if spec.window.empty:
            conditions.append(exp.false())
        elif spec.window.start_us is not None:
            conditions.append(exp.GTE(this=value.copy(), expression=edge("start")))
        if spec.window.end_us is not None and not spec.window.empty:
            conditions.append(exp.LT(this=value.copy(), expression=edge("end")))
    if spec.where is not None:
        conditions.append(exp.Paren(this=condition(spec.where)))
    query = exp.Select().from_(source)
    where = conjunction(conditions)
    return query if where is None else query.where(where)


def _plain(spec: Resolved, source: exp.Expr) -> exp.Select:
    query = _rows_of(spec, source)
    inner: exp.Select = query
    for dimension in spec.dimensions:
        inner = inner.select(named(_value(dimension, spec.columns), dimension.name), copy=False)
    for asked in spec.measures:
        inner = inner.select(named(measure(asked, spec.columns), asked.name), copy=False)
    if spec.grouped and spec.dimensions:
        inner = inner.group_by(*(number(i + 1) for i in range(len(spec.dimensions))), copy=False)
    # ORDER BY names columns of the result, which in SQL may be hidden by the table's of the same name: sort outside.
    return exp.select(*(column(name) for name in spec.names)).from_(inner.subquery("r"))


def _value(dimension: Dimension, columns: dict[str, pa.DataType]) -> exp.Expr:
    expression = dimension.expression
    if isinstance(expression, Column):
        return column(expression.column)
    if isinstance(expression, TimePart):
        return time_part(expression)
    axis = axis_of(expression, columns)
    return axis.label(axis.key(column(expression.column)))


def axis_of(expression: TimeBucket | Bins, columns: dict[str, pa.DataType]) -> Axis:
    if isinstance(expression, TimeBucket):
        return time_axis(expression)
    edges = (expression.width, expression.clamp_low or 0.0, expression.clamp_high or 0.0)
    whole = bool(pa.types.is_integer(columns[expression.column])) and all(float(edge).is_integer() for edge in edges)
    return BinAxis(expression, whole)


# -- with buckets ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Cut:
    """Dimension number `index` is cut by `axis`; `low`, `high`: ends that do not come from the data."""

    index: int
    axis: Axis
    low: exp.Expr | None
    high: exp.Expr | None

    @property
    def table(self) -> str:
        return f"a{self.index}"


def _filled(spec: Resolved, source: exp.Expr) -> exp.Select:
    cuts = [_cut(spec, index) for index, d in enumerate(spec.dimensions) if isinstance(d.expression, TimeBucket | Bins)]
    others = [index for index in range(len(spec.dimensions)) if index not in {cut.index for cut in cuts}]
    query = exp.Select().with_("g", as_=_groups(spec, source, cuts), materialized=True, copy=False)
    for cut in cuts:
        query = query.with_(cut.table, as_=_axis_keys(cut), copy=False)
    if others:
        keys = exp.select(*(key_column(index) for index in others)).distinct().from_("g")
        query = query.with_("o", as_=keys, copy=False)
    query = query.with_("f", as_=_grid(spec, cuts, others), copy=False)
    return _labelled(query.from_("f", copy=False), spec, cuts, others)


def _cut(spec: Resolved, index: int) -> _Cut:
    expression = spec.dimensions[index].expression
    assert isinstance(expression, TimeBucket | Bins)
    axis = axis_of(expression, spec.columns)
    low, high = axis.ends()
    window = spec.window
    if (
        isinstance(expression, TimeBucket)
        and window is not None
        and window.column == expression.column
        and not window.empty
    ):
        low = None if window.start_us is None else axis.key(edge("start"))
        high = None if window.end_us is None else axis.key(edge("last"))
    return _Cut(index, axis, low, high)


def _groups(spec: Resolved, source: exp.Expr, cuts: list[_Cut]) -> exp.Select:
    axes = {cut.index: cut.axis for cut in cuts}
    query = _rows_of(spec, source)
    for index, dimension in enumerate(spec.dimensions):
        axis = axes.get(index)
        value = axis.key(column(dimension.expression.column)) if axis else _value(dimension, spec.columns)
        query = query.select(named(value, key_name(index)), copy=False)
    for index, asked in enumerate(spec.measures):
        query = query.select(named(measure(asked, spec.columns), f"m{index}"), copy=False)
    query = query.group_by(*(number(i + 1) for i in range(len(spec.dimensions))), copy=False)
    kept = [is_not_null(key_column(cut.index)) for cut in cuts]
    return exp.select("*").from_(query.subquery("x")).where(*kept)


def _axis_keys(cut: _Cut) -> exp.Select:
    ends = exp.Select().from_("g")
    key = key_column(cut.index)
    low = cut.low or call("min", key.copy())
    high = cut.high or call("max", key.copy())
    if cut.low is not None and cut.high is not None:
        ends = exp.Select()
    ends = ends.select(named(low, "lo"), named(high, "hi"))
    keys = cut.axis.keys(column("lo"), column("hi"))
    return exp.select(named(call("unnest", keys), key_name(cut.index))).from_(ends.subquery("e"))


def _grid(spec: Resolved, cuts: list[_Cut], others: list[int]) -> exp.Select:
    """Every combination of what occurs in the other dimensions with every key of every axis, and what `g` has for it."""
    query = exp.Select()
    for cut in cuts:
        query = query.select(key_column(cut.index, cut.table), copy=False)
    for index in others:
        query = query.select(key_column(index, "o"), copy=False)
    for index in range(len(spec.measures)):
        query = query.select(column(f"m{index}", "g"), copy=False)
    query = query.select(named(is_not_null(key_column(cuts[0].index, "g")), "present"), copy=False)
    tables = [cut.table for cut in cuts] + (["o"] if others else [])
    query = query.from_(tables[0], copy=False)
    for table in tables[1:]:
        query = query.join(table, join_type="cross", copy=False)
    owner = {cut.index: cut.table for cut in cuts} | dict.fromkeys(others, "o")
    same = [
        exp.NullSafeEQ(this=key_column(index, table), expression=key_column(index, "g"))
        for index, table in sorted(owner.items())
    ]
    return query.join("g", on=exp.and_(*same), join_type="left", copy=False)


def _labelled(query: exp.Select, spec: Resolved, cuts: list[_Cut], others: list[int]) -> exp.Select:
    axes = {cut.index: cut.axis for cut in cuts}
    inner = query
    for index, dimension in enumerate(spec.dimensions):
        key = key_column(index)
        inner = inner.select(named(axes[index].label(key) if index in axes else key, dimension.name), copy=False)
    if spec.fill is Fill.LAST:
        inner = _with_last(inner, spec, cuts, others)
    else:
        for index, asked in enumerate(spec.measures):
            value = column(f"m{index}")
            inner = inner.select(named(_or_zero(value) if spec.fill is Fill.ZERO else value, asked.name), copy=False)
    return exp.select(*(column(name) for name in spec.names)).from_(inner.subquery("r"))


def _or_zero(value: exp.Expr) -> exp.Expr:
    """0 where the bucket is empty; a NULL that was computed stays one."""
    return exp.Case(ifs=[exp.If(this=column("present"), true=value)], default=number(0))


def _with_last(query: exp.Select, spec: Resolved, cuts: list[_Cut], others: list[int]) -> exp.Select:
    """Each bucket takes its row's values or those of the last bucket before it that has a row: `s` counts rows so far, so it
    names that bucket."""
    along = cuts[0].index
    apart = [*others, *(cut.index for cut in cuts[1:])]
    so_far = exp.Window(
        this=exp.Filter(this=call("count", exp.Star()), expression=exp.Where(this=column("present"))),
        partition_by=[key_column(index) for index in apart],
        order=exp.Order(expressions=[exp.Ordered(this=key_column(along), nulls_first=False)]),
    )
    stepped = exp.select("*", named(so_far, "s")).from_("f")
    query = query.from_(stepped.subquery("f"), copy=False)
    for index, asked in enumerate(spec.measures):
        first = exp.Window(
            this=call("first_value", column(f"m{index}")),
            partition_by=[*(key_column(i) for i in apart), column("s")],
            order=exp.Order(expressions=[exp.Ordered(this=key_column(along), nulls_first=False)]),
        )
        query = query.select(named(first, asked.name), copy=False)
    return query


def compile_highest(name: str, schema: str, table: str) -> str:
    """The highest value of a timestamp column, in microseconds since 1970, as `high`."""
    source = exp.Table(this=exp.to_identifier(table, quoted=True), db=exp.to_identifier(schema, quoted=True))
    return render(exp.select(named(call("epoch_us", call("max", column(name))), "high")).from_(source))
