"""A question as DuckDB SQL, for the memory adapter alone. Values are bound as parameters."""

from __future__ import annotations

from datetime import datetime

from svc_viz.ports import AllOf, Compare, Condition, Dimension, IsNull, Literal, Measure, OneOf, Question

UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day"}
AGGREGATES = {"sum": "sum", "avg": "avg", "min": "min", "max": "max", "stddev": "stddev_samp"}


class Sql:
    """Collects parameters while the text grows."""

    def __init__(self, question: Question, event_time: str) -> None:
        self.question, self.time = question, question.time_column or event_time
        self.params: list[Literal] = []

    def text(self) -> str:
        asked = self.question
        if not asked.measures:
            chosen = ", ".join(f"{self.dimension(one)} AS {quoted(one.name)}" for one in asked.dimensions) or "*"
            return f"SELECT {chosen} FROM source {self.where()}{self.tail()}"
        groups = [f"{self.dimension(one)} AS {quoted(one.name)}" for one in asked.dimensions]
        chosen = ", ".join([*groups, *(f"{self.measure(one)} AS {quoted(one.name)}" for one in asked.measures)])
        by = " GROUP BY ALL" if groups else ""
        inner = f"SELECT {chosen} FROM source {self.where()}{by}"
        return f"SELECT * FROM ({self.filled(inner)}){self.tail()}"

    def tail(self) -> str:
        order = self.question.order or tuple((one.name, False) for one in self.question.dimensions)
        keys = ", ".join(f"{quoted(name)} {'DESC' if down else 'ASC'} NULLS LAST" for name, down in order)
        limit = f" LIMIT {int(self.question.limit)}" if self.question.limit else ""
        return (f" ORDER BY {keys}" if keys else "") + limit

    def dimension(self, one: Dimension) -> str:
        column = quoted(one.column or self.time)
        if one.kind == "column":
            return column
        if one.kind == "bin":
            floor = f"floor({column} / {one.width!r}) * {one.width!r}"
            if one.low is not None:
                floor = f"greatest({one.low!r}, {floor})"
            return f"CASE WHEN {column} IS NOT NULL THEN {f'least({one.high!r}, {floor})' if one.high is not None else floor} END"
        if one.kind == "part":
            local = f"timezone('{one.zone}', {column})"
            return {"hour": f"hour({local})", "weekday": f"isodow({local})", "month": f"month({local})"}[one.part]
        return self.cut(one, column)

    def cut(self, one: Dimension, moment: str) -> str:
        """The start of the bucket that `moment` lies in; days are the zone's."""
        if one.unit != "d":
            return f"time_bucket(INTERVAL {int(one.count)} {UNITS[one.unit]}, {moment})"
        local = f"timezone('{one.zone}', {moment})"
        return f"timezone('{one.zone}', time_bucket(INTERVAL {int(one.count)} day, {local}))"

    def measure(self, one: Measure) -> str:
        column = quoted(one.column) if one.column else "*"
        if one.aggregate == "share":
            assert one.where is not None
            return f"avg(CASE WHEN {self.condition(one.where)} THEN 1.0 ELSE 0.0 END)"
        if one.aggregate == "quantile":
            return f"quantile_cont({column}, {float(one.quantile or 0)!r})"
        text = {"count": f"count({column})", "distinct": f"count(DISTINCT {column})"}.get(
            one.aggregate
        ) or f"{AGGREGATES[one.aggregate]}({column})"
        return f"{text} FILTER (WHERE {self.condition(one.where)})" if one.where is not None else text

    def where(self) -> str:
        asked, parts = self.question, []
        if asked.last_s and self.time:
            high = f"(SELECT max({quoted(self.time)}) FROM source)"
            near, far = (asked.last_s, 2 * asked.last_s) if asked.previous else (0, asked.last_s)
            parts.append(
                f"{quoted(self.time)} > {high} - INTERVAL {int(far)} second AND {quoted(self.time)} <= {high} - INTERVAL {int(near)} second"
            )
        for bound, op in ((asked.start, ">="), (asked.end, "<")):
            if bound is not None and self.time:
                parts.append(f"{quoted(self.time)} {op} {self.bound(bound)}")
        if asked.where is not None:
            parts.append(self.condition(asked.where))
        return "WHERE " + " AND ".join(parts) if parts else ""

    def condition(self, one: Condition) -> str:
        match one:
            case AllOf(parts):
                return " AND ".join(f"({self.condition(part)})" for part in parts) or "true"
            case OneOf(column, values):
                return f"{quoted(column)} IN ({', '.join(self.bound(value) for value in values)})"
            case IsNull(column, negated):
                return f"{quoted(column)} IS {'NOT ' if negated else ''}NULL"
            case Compare(column, op, value):
                return f"{quoted(column)} {op} {self.bound(value)}"

    def bound(self, value: Literal) -> str:
        self.params.append(value.isoformat() if isinstance(value, datetime) else value)
        return f"${len(self.params)}" + ("::TIMESTAMPTZ" if isinstance(value, datetime) else "")

    def filled(self, inner: str) -> str:
        """Buckets and bins that have no rows, for each group: from the first to the last, or all within the clamp. NULL lies in none."""
        asked = self.question
        axis = next((one for one in asked.dimensions if one.kind in {"bucket", "bin"}), None)
        if axis is None or not asked.fill:
            return inner
        name = quoted(axis.name)
        step = f"INTERVAL {int(axis.count)} {UNITS[axis.unit]}" if axis.kind == "bucket" else f"{axis.width!r}::DOUBLE"
        others = [quoted(one.name) for one in asked.dimensions if one is not axis]
        start = f"min({name})" if axis.low is None else f"{axis.low!r}"
        end = f"max({name})" if axis.high is None else f"{axis.high!r}"
        if axis.kind == "bucket" and asked.last_s:  # the whole range, also where its ends have no rows
            high = f"(SELECT max({quoted(self.time)}) FROM source)"
            start, end = self.cut(axis, f"{high} - INTERVAL {int(asked.last_s)} second"), self.cut(axis, high)
            spread = f"SELECT unnest(generate_series({start}, {end}, {step})) AS {name}"
        elif axis.kind == "bin":
            at = f"{start} + i * {step}"
            spread = f"SELECT {at} AS {name} FROM grouped, range(0, 100000) t(i) GROUP BY i HAVING {at} <= {end}"
        else:
            spread = f"SELECT unnest(generate_series({start}, {end}, {step})) AS {name} FROM grouped"
        keys = f"(SELECT DISTINCT {', '.join(others)} FROM grouped)" if others else "(SELECT 1)"
        on = " AND ".join(
            [
                f"axis.{name} = grouped.{name}",
                *(f"keys.{other} IS NOT DISTINCT FROM grouped.{other}" for other in others),
            ]
        )
        shown = [
            f"axis.{name} AS {name}" if quoted(one.name) == name else f"keys.{quoted(one.name)}"
            for one in asked.dimensions
        ]
        numbers = [
            f"coalesce(grouped.{quoted(one.name)}, 0)" if asked.fill == "zero" else f"grouped.{quoted(one.name)}"
            for one in asked.measures
        ]
        chosen = ", ".join(
            [*shown, *(f"{text} AS {quoted(one.name)}" for text, one in zip(numbers, asked.measures, strict=True))]
        )
        parts = f"WITH grouped AS ({inner}), axis AS ({spread})"
        return f"{parts} SELECT {chosen} FROM axis CROSS JOIN {keys} keys LEFT JOIN grouped ON {on}"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
