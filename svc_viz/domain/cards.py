"""KPIs, tables, small multiples, dead letters and the summary line: answers into what the page writes as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from svc_viz.domain.measures import range_s
from svc_viz.domain.numbers import NOTHING, cell_text, nice_ceiling, number_text, signed_text, state_of, unit_of
from svc_viz.domain.results import NO_FIELD, columns_of, floats, label_of, number, text_rows, values
from svc_viz.domain.zones import bucket_text
from svc_viz.ports import Answer, DashboardSpec, ElementSpec, FieldSpec, QuerySpec, TableFacts

MAX_PANELS = 12
MAX_TABLE_ROWS = 500
REASONS = {
    "RANGE": "outside the range that the table allows",
    "NOT_NULL": "a value that the table requires is missing",
    "TYPE": "not of the column's type",
    "ENUM": "not one of the allowed values",
    "UNPARSEABLE": "could not be read as a row",
    "FIELD_COUNT": "too few or too many fields",
    "ENCODING": "not valid text",
    "ROW_TOO_LARGE": "the row is too large",
}
"""What storage's and extract's reasons mean, for people; a dashboard's `fields.reason.labels` come first."""


def kpi(
    spec: DashboardSpec, element: ElementSpec, now: Answer, before: Answer | None, spark: Answer | None, zone: str
) -> dict[str, Any]:
    """Value, unit, comparison with the period before, sparkline, state by threshold."""
    query, field = spec.queries[element.query], spec.fields.get(element.value, NO_FIELD)
    value = next(iter(values(now.rows, element.value)), None)
    text, unit = number_text(value, field.format), unit_of(field)
    drawn: dict[str, Any] = {"value": text, "unit": unit if text != NOTHING else "", "state": state_of(value, field)}
    drawn["against"] = against_text(range_s(query.range or spec.time.range)) if before is not None else element.subtitle
    if before is not None:
        drawn["delta"] = delta_view(number(value), number(next(iter(values(before.rows, element.value)), None)), field)
    if spark is not None:
        drawn["spark"] = spark_view(spark.rows, element, query, field, zone)
    change = f", {drawn['delta']['text']} {drawn['against']}" if drawn.get("delta") else ""
    drawn["summary"] = f"{element.title}: {text}{' ' + unit if drawn['unit'] else ''}{change}"
    return drawn


def delta_view(now: float, before: float, field: FieldSpec) -> dict[str, Any] | None:
    """The difference, its direction, and whether that is good by the field's declared direction; None where one side is missing."""
    if math.isnan(now) or math.isnan(before):
        return None
    text = signed_text(now - before, field)
    flat = text.startswith("±")
    rises = now > before
    tone = "" if flat or not field.good else "good" if rises == (field.good == "up") else "bad"
    return {"text": text, "way": "flat" if flat else "up" if rises else "down", "tone": tone}


def against_text(seconds: int) -> str:
    """ "vs day before", "vs 72 h before"."""
    names = {3600: "hour", 86_400: "day", 604_800: "week"}
    if seconds in names:
        return f"vs {names[seconds]} before"
    return f"vs {seconds // 86_400} days before" if seconds % 86_400 == 0 else f"vs {max(1, seconds // 3600)} h before"


def spark_view(rows: pa.Table, element: ElementSpec, query: QuerySpec, field: FieldSpec, zone: str) -> dict[str, Any]:
    """Heights from 0 to 1, None where there is nothing (counts of nothing are 0)."""
    raw = floats(rows, element.value)
    if query.measures.get(element.value, "") == "count":
        raw = [0.0 if math.isnan(one) else one for one in raw]
    finite = [one for one in raw if math.isfinite(one)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    span = (high - low) or 1.0
    times = [bucket_text(at, zone, unit="h") for at in values(rows, "time")]  # type: ignore[arg-type]
    texts = [f"{cell_text(one, field, zone)}" for one in raw]
    return {
        "points": [None if not math.isfinite(one) else round((one - low) / span, 4) for one in raw],
        "times": times,
        "texts": texts,
    }


def table(
    spec: DashboardSpec, element: ElementSpec, rows: pa.Table, zone: str, picked: tuple[str, ...]
) -> dict[str, Any]:
    """Rows as text. With `select.point` each row carries the value that a click picks."""
    shown = rows.slice(0, MAX_TABLE_ROWS)
    columns = columns_of(shown, element.columns, spec.fields)
    keys = (
        [key_of(cell) for cell in values(shown, element.select.point)]
        if element.select and element.select.point
        else []
    )
    return {
        "columns": [{"label": column.label, "num": column.numeric} for column in columns],
        "rows": text_rows(shown, columns, spec.fields, zone),
        "keys": keys,
        "picked": list(picked),
        "more": rows.num_rows - shown.num_rows,
        "summary": f"{element.title}: table of {rows.num_rows} rows",
    }


def key_of(cell: object) -> str | None:
    """A value as an address writes it."""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return None if cell is None else str(cell)


def multiples(spec: DashboardSpec, element: ElementSpec, rows: pa.Table, zone: str) -> dict[str, Any]:
    """One small chart per value of the facet, the most frequent first, all with the same scales."""
    facet, x, y = element.facet, element.x, element.y
    cells: dict[str, list[tuple[float, float]]] = {}
    weights: dict[str, float] = {}
    sizes = floats(rows, "n") or [1.0] * rows.num_rows
    for name, at, height, size in zip(values(rows, facet), floats(rows, x), floats(rows, y), sizes, strict=True):
        if name is None or math.isnan(at):
            continue
        cells.setdefault(str(name), []).append((at, height))
        weights[str(name)] = weights.get(str(name), 0.0) + (0.0 if math.isnan(size) else size)
    chosen = sorted(cells, key=lambda name: (-weights[name], name))[:MAX_PANELS]
    everything = [point for name in chosen for point in cells[name]]
    heights = [height for _, height in everything if math.isfinite(height)]
    labels, field = spec.fields.get(facet, NO_FIELD).labels, spec.fields.get(y, NO_FIELD)
    x_field = spec.fields.get(x, NO_FIELD)
    return {
        "panels": [_panel(labels.get(name, name), cells[name], field, x_field, zone) for name in chosen],
        "x": [
            min((at for at, _ in everything), default=0.0) - 0.5,
            max((at for at, _ in everything), default=1.0) + 0.5,
        ],
        "y": [
            -nice_ceiling(-min(heights)) if heights and min(heights) < 0 else 0.0,
            nice_ceiling(max([*heights, 0.0])),
        ],
        "table": {
            "columns": [{"label": label_of(name, spec.fields), "num": i > 0} for i, name in enumerate((facet, x, y))],
            "rows": [
                [labels.get(name, name), cell_text(at, x_field, zone), cell_text(height, field, zone)]
                for name in chosen
                for at, height in sorted(cells[name])
            ],
        },
        "summary": f"{element.title}: {len(chosen)} small charts of {label_of(y, spec.fields)} by {label_of(x, spec.fields)}",
    }


def _panel(
    title: str, points: list[tuple[float, float]], field: FieldSpec, x_field: FieldSpec, zone: str
) -> dict[str, Any]:
    shown = sorted(points)
    return {
        "title": title,
        "x": [at for at, _ in shown],
        "y": [None if not math.isfinite(height) else height for _, height in shown],
        "texts": [
            f"{x_field.label or ''} {cell_text(at, x_field, zone)}: {cell_text(height, field, zone)} {field.unit}".strip()
            for at, height in shown
        ],
    }


def dead_letters(spec: DashboardSpec, element: ElementSpec, rows: pa.Table, facts: TableFacts | None) -> dict[str, Any]:
    """Reasons by count, each as a bar against the most frequent. `facts`: of the table that refused them, None while
    unknown; its count is the whole, also where the query shows the most frequent reasons only."""
    query = spec.queries[element.query]
    reasons = [name for name in rows.column_names if name not in query.measures]
    measure = next(iter(sorted(query.measures)), "n")
    labels = spec.fields.get("reason", NO_FIELD).labels
    counts = floats(rows, measure)
    top = max([one for one in counts if math.isfinite(one)], default=1.0) or 1.0
    found = []
    for *parts, count in zip(*(values(rows, name) for name in reasons), counts, strict=True):
        if math.isfinite(count):
            reason, *where = [str(part) for part in parts if part]
            text = labels.get(reason) or REASONS.get(reason, "")
            found.append(
                {"reason": " ".join([*where, reason]), "text": text, "count": number_text(count), "share": count / top}
            )
    shown = sum(one for one in counts if math.isfinite(one))
    total = max(shown, float(facts.dead_letters)) if facts else shown
    rest = f", {number_text(total - shown)} of them for other reasons" if total > shown else ""
    whole = total + facts.row_count if facts else 0
    share = f" of {number_text(whole)} rows ({number_text(total / whole, '0.00%')} %)" if whole else ""
    text = f"{number_text(total)}{share}{rest}"
    return {"rows": found, "total": text, "summary": f"{element.title}: {text}"}


def summary(spec: DashboardSpec, element: ElementSpec, answer: Answer) -> dict[str, Any]:
    """`11,664 flights selected · 23.1 % late · median delay 76 min`: counts and shares before their label, measures behind it."""
    query = spec.queries[element.query]
    parts = []
    for name in element.columns or tuple(sorted(query.measures)):
        field = spec.fields.get(name, NO_FIELD)
        text, label = (
            number_text(next(iter(values(answer.rows, name)), None), field.format),
            in_sentence(field.label or name),
        )
        if field.unit:
            parts.append(
                {"before": f"{label} ", "value": f"{text} {field.unit}" if text != NOTHING else text, "after": ""}
            )
        else:
            unit = " %" if unit_of(field) == "%" and text != NOTHING else ""
            chosen = " selected" if query.measures.get(name) == "count" else ""
            parts.append({"before": "", "value": f"{text}{unit}", "after": f" {label}{chosen}"})
    return {"parts": parts, "elapsed": f"answered in {number_text(round(answer.elapsed_ms))} ms"}


def in_sentence(label: str) -> str:
    """Lower-case first letter, unless the word is all capitals."""
    return label if label[:2].isupper() else label[:1].lower() + label[1:]


def chips(
    spec: DashboardSpec, params: Mapping[str, tuple[str, ...]], options: Mapping[str, tuple[str, ...]]
) -> list[dict[str, Any]]:
    """A param's choices as buttons that stay pressed."""
    found = []
    for name in sorted(spec.params):
        param = spec.params[name]
        labels = spec.fields.get(param.column, NO_FIELD)
        chosen = params.get(name, ())
        values_ = param.options or options.get(name, ()) or chosen
        found.append(
            {
                "id": name,
                "label": labels.label or param.column.replace("_", " ").capitalize(),
                "multiple": param.multiple,
                "options": [
                    {"value": one, "label": labels.labels.get(one, one), "on": one in chosen} for one in values_
                ],
            }
        )
    return found
