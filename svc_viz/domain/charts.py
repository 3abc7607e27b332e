"""Bars, histograms and lines: an answer into edges, heights, ticks, tooltips and the table twin. All places are numbers: time is UTC ms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from svc_viz.domain.drawings import Drawing, Series, series_of
from svc_viz.domain.numbers import MINUS, cell_text, nice_ceiling, number_text
from svc_viz.domain.results import label_of, number, values
from svc_viz.domain.zones import bucket_text, from_ms, ticks, to_ms

Array = npt.NDArray[np.float64]
MAX_BARS = 5000


@dataclass(frozen=True, slots=True)
class Plot:
    """What a chart draws: bars from `left` to `right`; `tops[i]`, `bottoms[i]` of series i; NaN draws nothing.

    `base`: what it would be without selections, empty when the same. `texts`: per bar the tooltip's title, then a text per series.
    """

    left: Array
    right: Array
    series: tuple[Series, ...]
    bottoms: tuple[Array, ...]
    tops: tuple[Array, ...]
    base: Array
    x_range: tuple[float, float]
    y_top: float
    y_low: float
    ticks: tuple[tuple[float, str], ...]
    titles: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    head: tuple[str, ...]
    summary: str
    band: Band | None = None
    notes: tuple[Note, ...] = ()
    is_time: bool = False
    snap: float = 0.0
    open_ends: tuple[float | None, float | None] = (None, None)

    @property
    def empty(self) -> bool:
        return not len(self.left)


@dataclass(frozen=True, slots=True)
class Note:
    """An event on the time axis, UTC ms; a moment ends where it starts."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Band:
    """A forecast: `mean` between `low` and `high` per bucket."""

    left: Array
    right: Array
    mean: Array
    low: Array
    high: Array
    texts: tuple[str, ...]
    titles: tuple[str, ...]


def plot(
    drawing: Drawing,
    rows: pa.Table,
    base: pa.Table | None = None,
    band: pa.Table | None = None,
    notes: tuple[Note, ...] = (),
) -> Plot:
    """Everything that is drawn of `rows`. Rows without a place on the axis (NULL) are left out here and kept in table and CSV."""
    cells = _cells(drawing, rows)
    places = sorted(cells)[-MAX_BARS:]
    lines = drawing.spec.kind == "line"
    base = None if lines else base
    base_heights = _totals(_cells(drawing, base)) if base is not None else {}
    places = sorted({*places, *base_heights})[-MAX_BARS:]
    labels = _labels(drawing, rows, places)
    series = series_of(drawing, [key for at in cells.values() for key in at])
    heights = _heights(drawing, series, cells, places)
    left, right = _edges(drawing, places)
    bottoms, tops = _beside(heights) if lines else _stacked(heights)
    forecast = _band(drawing, band)
    base_array = np.array([base_heights.get(at, math.nan) for at in places], dtype=float)
    high = _highest([*tops, base_array, *([forecast.high] if forecast else [])])
    low = min(0.0, _lowest([*tops, *([forecast.low] if forecast else [])]))
    x_range = _x_range(drawing, left, right, forecast)
    return Plot(
        left=left,
        right=right,
        series=series,
        bottoms=bottoms,
        tops=tops,
        base=base_array if base is not None else np.array([], dtype=float),
        x_range=x_range,
        y_top=nice_ceiling(high * 1.02) if high > 0 else (1.0 if low == 0 else 0.0),
        y_low=-nice_ceiling(-low * 1.02) if low < 0 else 0.0,
        ticks=_ticks(drawing, x_range, places, labels),
        titles=tuple(labels),
        texts=_texts(drawing, series, heights),
        head=tuple(one.label for one in series),
        summary=_summary(drawing, series, heights, labels),
        band=forecast,
        notes=tuple(note for note in notes if note.end >= x_range[0] and note.start <= x_range[1]),
        is_time=drawing.spec.x == "time",
        snap=drawing.width if drawing.spec.x in drawing.query.bins else 1.0,
        open_ends=(drawing.query.clamp[0], drawing.query.clamp[1]) if len(drawing.query.clamp) == 2 else (None, None),
    )


def notes_of(tables: Sequence[pa.Table], zone: str) -> tuple[Note, ...]:
    """Events of annotation tables, by time; rows without a time are left out."""
    found = []
    for rows in tables:
        starts = values(rows, "time")
        ends, labels = values(rows, "end") or starts, values(rows, "label") or [""] * len(starts)
        for start, end, label in zip(starts, ends, labels, strict=True):
            if isinstance(start, datetime):
                at = bucket_text(start, zone, unit="m")
                text = f"{at} {label}" if label is not None else at
                found.append(
                    Note(to_ms(start), to_ms(end) if isinstance(end, datetime) else to_ms(start), text.strip())
                )
    return tuple(sorted(found, key=lambda note: (note.start, note.text)))


def _cells(drawing: Drawing, rows: pa.Table) -> dict[float, dict[str, float]]:
    """Place -> stacked value -> height. Places of texts are their order."""
    spec = drawing.spec
    places = _places(drawing, values(rows, spec.x))
    keys = (
        [str(key) if key is not None else "" for key in values(rows, spec.stack)] if spec.stack else [""] * len(places)
    )
    found: dict[float, dict[str, float]] = {}
    for place, key, height in zip(places, keys, values(rows, spec.y), strict=True):
        if not math.isnan(place):
            found.setdefault(place, {})[key] = number(height)
    return found


def _places(drawing: Drawing, cells: Sequence[object]) -> list[float]:
    if any(isinstance(cell, str) for cell in cells):
        order: dict[object, float] = {}
        return [order.setdefault(cell, float(len(order))) if cell is not None else math.nan for cell in cells]
    return [to_ms(cell) if isinstance(cell, datetime) else number(cell) for cell in cells]


def _labels(drawing: Drawing, rows: pa.Table, places: Sequence[float]) -> list[str]:
    """Tooltip titles."""
    x, spec = drawing.spec.x, drawing.field(drawing.spec.x)
    if x == "time":
        return [bucket_text(from_ms(at), drawing.zone, unit=drawing.unit) for at in places]
    texts = values(rows, x)
    if any(isinstance(cell, str) for cell in texts):
        named = list(dict.fromkeys(str(cell) for cell in texts if cell is not None))
        return [spec.labels.get(named[int(at)], named[int(at)]) for at in places]
    unit = f" {spec.unit}" if spec.unit else ""
    if x in drawing.query.bins:
        return [_bin_text(drawing, at) + unit for at in places]
    return [f"{spec.label or x} {cell_text(at, spec, drawing.zone)}{unit}" for at in places]


def _bin_text(drawing: Drawing, at: float) -> str:
    clamp, width = drawing.query.clamp, drawing.width
    if len(clamp) == 2 and at >= clamp[1]:
        return f"{number_text(at)} and more"
    if len(clamp) == 2 and at <= clamp[0]:
        return f"below {number_text(at + width)}"
    return f"{number_text(at)} to {number_text(at + width)}"


def _totals(cells: Mapping[float, Mapping[str, float]]) -> dict[float, float]:
    return {at: float(np.nansum(list(by.values()))) for at, by in cells.items()}


def _heights(
    drawing: Drawing, series: Sequence[Series], cells: Mapping[float, Mapping[str, float]], places: Sequence[float]
) -> list[Array]:
    found = [np.full(len(places), math.nan) for _ in series]
    index = {one.key: i for i, one in enumerate(series)}
    for row, at in enumerate(places):
        for key, height in cells.get(at, {}).items():
            i = index.get(key, index.get("", 0)) if drawing.spec.stack else _threshold_slot(drawing, at)
            found[i][row] = height if math.isnan(found[i][row]) else found[i][row] + height
    return found


def _threshold_slot(drawing: Drawing, at: float) -> int:
    return sum(at >= one.at for one in drawing.field(drawing.spec.x).thresholds)


def _edges(drawing: Drawing, places: Sequence[float]) -> tuple[Array, Array]:
    at = np.array(places, dtype=float)
    if drawing.spec.x == "time" or drawing.spec.x in drawing.query.bins:
        return at, at + drawing.width
    return at - 0.5, at + 0.5


def _stacked(heights: Sequence[Array]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    bottoms, tops = [], []
    below = np.zeros(len(heights[0])) if heights else np.zeros(0)
    for height in heights:
        top = below + np.nan_to_num(height)
        bottoms.append(np.where(np.isnan(height), math.nan, below))
        tops.append(np.where(np.isnan(height), math.nan, top))
        below = top
    return tuple(bottoms), tuple(tops)


def _beside(heights: Sequence[Array]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Lines share an axis and stand on nothing: each is read off it."""
    return tuple(np.where(np.isnan(height), math.nan, 0.0) for height in heights), tuple(heights)


def _highest(arrays: Sequence[Array]) -> float:
    finite = [array[np.isfinite(array)] for array in arrays]
    return max((float(array.max()) for array in finite if len(array)), default=0.0)


def _lowest(arrays: Sequence[Array]) -> float:
    return -_highest([-array for array in arrays])


def _x_range(drawing: Drawing, left: Array, right: Array, band: Band | None) -> tuple[float, float]:
    if not len(left):
        return (0.0, 1.0)
    end = float(right.max() if band is None or not len(band.right) else max(right.max(), band.right.max()))
    return float(left.min()), end


def _ticks(
    drawing: Drawing, x_range: tuple[float, float], places: Sequence[float], labels: Sequence[str]
) -> tuple[tuple[float, str], ...]:
    if not places:
        return ()
    if drawing.spec.x == "time":
        return ticks(*x_range, drawing.zone)
    if drawing.spec.x in drawing.query.bins:
        return _bin_ticks(drawing, *x_range)
    spec = drawing.field(drawing.spec.x)
    step = max(1, -(-len(places) // 9))
    if step > 1 and all(float(at).is_integer() for at in places):
        step = next((nice for nice in (2, 3, 5, 6, 10, 12, 24, 50, 100) if nice >= step), step)
        return tuple((at, cell_text(at, spec, drawing.zone)) for at in places if at % step == 0)
    named = [
        label if not label.startswith(f"{spec.label or drawing.spec.x} ") else cell_text(at, spec, drawing.zone)
        for at, label in zip(places, labels, strict=True)
    ]
    return tuple(zip(places, named, strict=True))[::step]


def _bin_ticks(drawing: Drawing, start: float, end: float) -> tuple[tuple[float, str], ...]:
    width = drawing.width
    step = next(
        (width * k for k in (1, 2, 3, 4, 5, 6, 8, 10, 20, 50, 100) if (end - start) / (width * k) <= 8),
        (end - start) / 4,
    )
    first = math.ceil(start / step) * step
    places = [first + i * step for i in range(int((end - first) / step) + 1)]
    low, high = drawing.query.clamp if len(drawing.query.clamp) == 2 else (-math.inf, math.inf)
    return tuple(
        (at, f"{number_text(at)}+" if at >= high else f"<{number_text(at)}" if at <= low else number_text(at))
        for at in places
    )


def _texts(drawing: Drawing, series: Sequence[Series], heights: Sequence[Array]) -> tuple[tuple[str, ...], ...]:
    spec = drawing.field(drawing.spec.y)
    count = len(heights[0]) if heights else 0
    return tuple(
        tuple(cell_text(float(heights[i][row]), spec, drawing.zone) for i in range(len(series))) for row in range(count)
    )


def _summary(drawing: Drawing, series: Sequence[Series], heights: Sequence[Array], labels: Sequence[str]) -> str:
    """One sentence for who cannot see the chart."""
    y = label_of(drawing.spec.y, drawing.fields)
    if not labels:
        return f"{drawing.spec.title or y}: no rows"
    lines = drawing.spec.kind == "line"
    stack = np.nan_to_num(np.vstack(heights), nan=_lowest(heights) if lines else 0.0)
    totals = stack.max(axis=0) if lines else stack.sum(axis=0)
    peak = int(np.argmax(totals))
    form = drawing.field(drawing.spec.y).format
    parts = [
        f"{one.label} {number_text(float(np.nansum(heights[i])), form)}"
        for i, one in enumerate(series)
        if drawing.spec.stack and not lines
    ]
    split = f" ({', '.join(parts)})" if parts else ""
    high = f"highest {number_text(float(totals[peak]), form)} at {labels[peak]}"
    return f"{drawing.spec.title or y}: {len(labels)} {'points' if lines else 'bars'} from {labels[0]} to {labels[-1]}{split}; {high}."


def _band(drawing: Drawing, rows: pa.Table | None) -> Band | None:
    if rows is None or not rows.num_rows:
        return None
    left = np.array([to_ms(at) if isinstance(at, datetime) else math.nan for at in values(rows, "time")], dtype=float)
    # What is counted is never less than nothing, whatever a model says; a temperature may be.
    floor = 0.0 if drawing.query.measures.get(drawing.spec.y) == "count" else -math.inf
    mean, low, high = (
        np.array([max(floor, number(one)) for one in values(rows, name)], dtype=float)
        for name in ("mean", "low", "high")
    )
    spec = drawing.field(drawing.spec.y)

    def text(value: float) -> str:
        return cell_text(round(value, 1), spec, drawing.zone)

    texts = tuple(f"{text(m)} ({text(a)} to {text(b)})" for m, a, b in zip(mean, low, high, strict=True))
    titles = tuple(bucket_text(from_ms(at), drawing.zone, unit=drawing.unit) for at in left)
    return Band(left, left + drawing.width, mean, low, high, texts, titles)


def twin(drawing: Drawing, drawn: Plot) -> dict[str, Any]:
    """The chart as a table: a row per bar, a column per series, the forecast behind."""
    stacked = bool(drawing.spec.stack)
    head = [
        label_of(drawing.spec.x, drawing.fields),
        *(drawn.head if stacked else [label_of(drawing.spec.y, drawing.fields)]),
    ]
    rows = []
    for title, texts in zip(drawn.titles, drawn.texts, strict=True):
        cells = list(texts) if stacked else [next((text for text in texts if text != "–"), "–")]
        rows.append([title, *cells])
    if drawn.band is not None:
        head.append("Forecast")
        rows = [[*row, ""] for row in rows]
        known = dict(zip(drawn.titles, rows, strict=True))
        for title, text in zip(drawn.band.titles, drawn.band.texts, strict=True):
            if (row := known.get(title)) is not None:
                row[-1] = text
            else:
                rows.append([title, *[""] * (len(head) - 2), text])
    return {"columns": [{"label": label, "num": i > 0} for i, label in enumerate(head)], "rows": rows}


def interval_text(drawing: Drawing, low: float, high: float) -> str:
    """What a chip says: `40–145 min`, `16–21 h`; open ends are said."""
    spec, clamp = drawing.field(drawing.spec.x), drawing.query.clamp
    unit = f" {spec.unit}" if spec.unit else ""
    if drawing.spec.x not in drawing.query.bins:
        high -= 1  # whole numbers: the last one that is in
        return (number_text(low) if low == high else f"{number_text(low)}–{number_text(high)}") + unit
    if len(clamp) == 2 and high > clamp[1]:
        return f"{number_text(low)} and more{unit}"
    if len(clamp) == 2 and low <= clamp[0]:
        return f"below {number_text(high)}{unit}"
    joiner = " to " if low < 0 or high < 0 else "–"
    return f"{number_text(low)}{joiner}{number_text(high)}{unit}".replace(f"{MINUS}{MINUS}", MINUS)
