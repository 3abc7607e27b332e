"""How an element is drawn, before there are rows: its columns, colours by meaning, the width of a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from svc_viz.domain.measures import duration_s
from svc_viz.domain.numbers import number_text
from svc_viz.domain.results import NO_FIELD, label_of
from svc_viz.ports import DashboardSpec, ElementSpec, FieldSpec, QuerySpec

DRAWN = frozenset({"bar", "line", "histogram"})
"""Kinds that Bokeh draws."""
STATE_RANK = ("ok", "warn", "bad", "alt", "muted")
MAX_SERIES = 6


@dataclass(frozen=True, slots=True)
class Series:
    """One colour of a chart. `key` is the stacked value."""

    key: str
    label: str
    state: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """An element with what its columns mean, ready to draw answers."""

    spec: ElementSpec
    query: QuerySpec
    fields: Mapping[str, FieldSpec]
    zone: str
    slots: int = field(default=1)

    @classmethod
    def of(cls, dashboard: DashboardSpec, element: str, zone: str, bucket: str = "") -> Drawing:
        """`bucket`: instead of the query's own, where a long range has longer ones."""
        spec = dashboard.elements[element]
        query = dashboard.queries[spec.query]
        query = replace(query, bucket=bucket) if bucket else query
        return cls(spec, query, dashboard.fields, zone, slots_of(dashboard, spec))

    def field(self, name: str) -> FieldSpec:
        return self.fields.get(name, NO_FIELD)

    @property
    def width(self) -> float:
        """Of one bar, in axis units."""
        if self.spec.x == "time" and self.query.bucket:
            return duration_s(self.query.bucket) * 1000.0
        return self.query.bins.get(self.spec.x, 1.0)

    @property
    def unit(self) -> str:
        """Of the buckets: s, m, h or d."""
        return self.query.bucket[-1:] or "h"

    @property
    def per(self) -> str:
        """ "per day", "per 6 hours"; empty without buckets."""
        if not self.query.bucket:
            return ""
        count, name = int(self.query.bucket[:-1]), {"s": "second", "m": "minute", "h": "hour", "d": "day"}[self.unit]
        return f"per {name}" if count == 1 else f"per {count} {name}s"


def slots_of(dashboard: DashboardSpec, spec: ElementSpec) -> int:
    """How many series a chart can have; glyphs are made once."""
    if spec.stack:
        return MAX_SERIES
    thresholds = dashboard.fields.get(spec.x, NO_FIELD).thresholds
    return 1 + len(thresholds)


def series_of(drawing: Drawing, keys: Sequence[str]) -> tuple[Series, ...]:
    """Declared values by rank of their state, then the others; what does not fit is one series `other`."""
    spec = drawing.spec
    if not spec.stack:
        thresholds = sorted(drawing.field(spec.x).thresholds, key=lambda one: one.at)
        label = label_of(spec.y, drawing.fields)
        unit = f" {drawing.field(spec.x).unit}".rstrip()
        first = Series("", label if not thresholds else f"< {number_text(thresholds[0].at)}{unit}", "ok")
        return (first, *(Series("", f"≥ {number_text(one.at)}{unit}", one.state) for one in thresholds))
    declared = drawing.field(spec.stack)
    known = sorted(declared.colors, key=lambda key: (STATE_RANK.index(declared.colors[key]), key))
    others = sorted(set(keys) - set(known))
    room = MAX_SERIES - len(known)
    if len(others) > room:
        others = [*others[: room - 1], ""]
    palette = [state for state in STATE_RANK if state not in declared.colors.values()] or ["muted"]
    states = [*(declared.colors[key] for key in known), *(palette[i % len(palette)] for i in range(len(others)))]
    return tuple(
        Series(key, declared.labels.get(key, key) or "other", state)
        for key, state in zip([*known, *others], states, strict=True)
    )
