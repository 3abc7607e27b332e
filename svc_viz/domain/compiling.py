"""Dashboard queries and a reader's choices into questions for analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from svc_viz.domain import measures
from svc_viz.domain.state import Interval, PageState, Pick
from svc_viz.ports import (
    AllOf,
    Compare,
    Condition,
    Dashboard,
    Dimension,
    ElementSpec,
    Literal,
    Measure,
    OneOf,
    QuerySpec,
    Question,
    TableFacts,
)

SPARK_PERIODS = 3
"""A sparkline shows this many times the KPI's own range."""
FORECAST_SEASONS = 14
MOST_BUCKETS = 400
"""More bars than that are neither seen nor sent twice a second: a long range gets longer buckets, and says so."""
LONGER = ("1m", "5m", "15m", "1h", "3h", "6h", "12h", "1d", "7d")
MOST_NOTES = 200
MOST_OPTIONS = 30
ALL_S = 366 * 86_400
"""What `all` is taken for: nobody has told how long the table's time is."""


class Compiler:
    """One dashboard in one state. `tables`: what is known of them, by full name; types of columns come from there."""

    def __init__(self, dashboard: Dashboard, state: PageState, tables: Mapping[str, TableFacts]) -> None:
        self._dashboard, self._spec, self._state, self._tables = dashboard, dashboard.spec, state, tables

    @property
    def zone(self) -> str:
        return self._state.zone or self._spec.time.zone or "UTC"

    @property
    def range(self) -> str:
        return self._state.range or self._spec.time.range or "all"

    def full_name(self, table: str) -> str:
        """A bare table name within the dashboard's namespace."""
        return table if "/" in table else f"namespaces/{self._dashboard.namespace}/tables/{table}"

    def question(self, element: str, *, base: bool = False) -> Question:
        """What an element shows; with `base` as if nothing were selected."""
        query = self._query(element)
        where = None if base else self._filters(query, element)
        return self._ask(query, where, self._range_s(query))

    def bucket(self, element: str) -> str:
        """The time bucket of an element's query in the present range; empty without one."""
        query = self._query(element)
        return longer(query.bucket, self._range_s(query)) if query.bucket else ""

    def before(self, element: str) -> Question:
        """The period before an element's own."""
        return replace(self.question(element), previous=True)

    def spark(self, element: str) -> Question:
        """An element's measures over time, three times its range, in its sparkline's buckets."""
        query = self._query(element)
        asked = self._ask(query, self._filters(query, element), self._range_s(query) * SPARK_PERIODS)
        return replace(
            asked, dimensions=(self._bucket(self._spec.elements[element].sparkline),), fill="gap", order=(), limit=0
        )

    def history(self, element: str, end: datetime) -> Question | None:
        """A bucketed element's value without its stack, complete buckets before `end` only; what a forecast is made from."""
        spec, query = self._spec.elements[element], self._query(element)
        if spec.forecast is None or not query.bucket or self.bucket(element) != query.bucket:
            return None
        season = season_of(query.bucket, spec.forecast.season_length)
        asked = self._ask(query, self._filters(query, element), 0)
        span_s = max(season * FORECAST_SEASONS, 4 * spec.forecast.horizon) * measures.duration_s(query.bucket)
        measure = tuple(one for one in asked.measures if one.name == spec.y)
        return replace(
            asked,
            dimensions=(self._bucket(query.bucket),),
            measures=measure,
            start=datetime.fromtimestamp(end.timestamp() - span_s, end.tzinfo),
            end=end,
            fill="zero" if query.fill == "zero" else "gap",
        )

    def options(self, param: str) -> Question:
        """What a param can be: the most frequent values of its column, whatever is selected."""
        column = self._spec.params[param].column
        return Question(
            self.full_name(self._spec.time.table),
            dimensions=(Dimension(column, "column", column),),
            measures=(Measure("n", "count"),),
            order=(("n", True), (column, False)),
            limit=MOST_OPTIONS,
        )

    def note(self, index: int) -> Question:
        """The events of an annotation: columns time, end and label, the newest 200."""
        note = self._spec.annotations[index]
        named = [("time", note.time), ("end", note.end), ("label", note.label)]
        columns = tuple(Dimension(name, "column", column) for name, column in named if column)
        return Question(self.full_name(note.table), dimensions=columns, order=(("time", True),), limit=MOST_NOTES)

    def _query(self, element: str) -> QuerySpec:
        return self._spec.queries[self._spec.elements[element].query]

    def _ask(self, query: QuerySpec, where: Condition | None, last_s: int) -> Question:
        own = measures.condition(query.where) if query.where else None
        table = self.full_name(query.table)
        kinds = self._kinds(table)
        bucket = longer(query.bucket, last_s) if query.bucket else ""
        if bucket and last_s:
            # The range's start cuts the first bucket: it is asked for, then left out (`results.trimmed`).
            last_s += measures.duration_s(bucket)
        return Question(
            table=table,
            dimensions=self._dimensions(query, bucket),
            measures=tuple(
                _coerced(measures.measure(name, text), kinds) for name, text in sorted(query.measures.items())
            ),
            where=joined(*(measures.coerced(one, kinds) for one in (own, where) if one is not None)),
            time_column=self._spec.time.column if self._is_time_table(table) else "",
            last_s=float(last_s),
            fill=query.fill,
            order=measures.order(query.order),
            limit=query.limit,
        )

    def _dimensions(self, query: QuerySpec, bucket: str) -> tuple[Dimension, ...]:
        found = [self._bucket(bucket)] if bucket else []
        low, high = query.clamp if len(query.clamp) == 2 else (None, None)
        found += [
            Dimension(name, "bin", name, width=width, low=low, high=high) for name, width in sorted(query.bins.items())
        ]
        return (*found, *(measures.grouping(text, self.zone) for text in query.by))

    def _bucket(self, text: str) -> Dimension:
        return measures.bucket(text, self._spec.time.column, self.zone)

    def _range_s(self, query: QuerySpec) -> int:
        if query.range:
            return measures.range_s(query.range)
        return measures.range_s(self.range) if self._is_time_table(self.full_name(query.table)) else 0

    def _is_time_table(self, table: str) -> bool:
        return bool(self._spec.time.table) and table == self.full_name(self._spec.time.table)

    def _kinds(self, table: str) -> Mapping[str, str]:
        facts = self._tables.get(table)
        return facts.columns if facts else {}

    def _filters(self, query: QuerySpec, element: str) -> Condition | None:
        """Params and selections that touch this query's table; a chart's own selection is left out under crossfilter."""
        if query.unfiltered:
            return None
        table = self.full_name(query.table)
        kinds = self._kinds(table)
        found: list[Condition] = []
        for name, values in sorted(self._state.params.items()):
            found += _values_in(self._spec.params[name].column, values, kinds)
        for name, pick in sorted(self._state.picks.items()):
            if name != element or self._mode(name) == "intersect":
                found += self._picked(name, pick, kinds)
        touching = [one for one in found if not kinds or measures.columns_of(one) <= kinds.keys()]
        return joined(*touching) if self._is_time_table(table) or kinds else None

    def _mode(self, element: str) -> str:
        select = self._spec.elements[element].select
        return self._spec.selections.get(select.selection, "crossfilter") if select else "crossfilter"

    def _picked(self, element: str, pick: Pick, kinds: Mapping[str, str]) -> list[Condition]:
        spec = self._spec.elements[element]
        column = selected_column(spec)
        if not isinstance(pick, Interval):
            return _values_in(column, pick.values, kinds)
        query = self._spec.queries[spec.query]
        low_end, high_end = query.clamp if len(query.clamp) == 2 else (None, None)
        found: list[Condition] = []
        if low_end is None or pick.low > low_end:
            found.append(Compare(column, ">=", pick.low))
        if high_end is None or pick.high <= high_end:
            found.append(Compare(column, "<", pick.high))
        return found or [measures.condition(f"{column} is not null")]


def selected_column(spec: ElementSpec) -> str:
    """The table's column that an element's selection filters."""
    return (spec.select.column or spec.select.interval or spec.select.point) if spec.select else ""


def longer(bucket: str, range_s: int) -> str:
    """`bucket`, or the shortest longer one with at most MOST_BUCKETS in the range."""
    span = range_s or ALL_S
    if span / measures.duration_s(bucket) <= MOST_BUCKETS:
        return bucket
    fitting = (one for one in LONGER if measures.duration_s(one) > measures.duration_s(bucket))
    return next((one for one in fitting if span / measures.duration_s(one) <= MOST_BUCKETS), LONGER[-1])


def joined(*parts: Condition) -> Condition | None:
    flat = [one for part in parts for one in (part.parts if isinstance(part, AllOf) else (part,))]
    return None if not flat else flat[0] if len(flat) == 1 else AllOf(tuple(flat))


def season_of(bucket: str, given: int) -> int:
    """Buckets of one season: a day of minutes and hours, a week of days."""
    if given:
        return given
    seconds = measures.duration_s(bucket)
    return max(1, 86_400 // seconds) if seconds < 86_400 else 7


def _values_in(column: str, values: tuple[str, ...], kinds: Mapping[str, str]) -> list[Condition]:
    parsed = tuple(one for value in values if (one := _literal(value, kinds.get(column, ""))) is not None)
    return [OneOf(column, parsed)] if parsed else [OneOf(column, values)] if values else []


def _literal(text: str, kind: str) -> Literal | None:
    """A value from a URL in its column's kind; None when it cannot be one."""
    if kind in {"int", "float"}:
        try:
            value = float(text)
        except ValueError:
            return None
        return int(value) if kind == "int" else value
    if kind == "bool":
        return text.lower() == "true"
    return text


def _coerced(measure: Measure, kinds: Mapping[str, str]) -> Measure:
    return measure if measure.where is None else replace(measure, where=measures.coerced(measure.where, kinds))
