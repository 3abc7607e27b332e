"""Bokeh figures of the main charts. Colours are named by state in `tags`; the page's theme paints them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import (
    BasicTicker,
    BoxSelectTool,
    BoxZoomTool,
    ColumnDataSource,
    FixedTicker,
    Line,
    NumeralTickFormatter,
    Quad,
    Range1d,
    Segment,
    VStrip,
    WheelZoomTool,
)
from bokeh.models.annotations import BoxAnnotation
from bokeh.plotting import figure

from svc_viz.domain.charts import Plot
from svc_viz.domain.drawings import Drawing

INITIAL = {
    "ok": "#3f84dc",
    "warn": "#e0762f",
    "bad": "#e5534b",
    "alt": "#8f6bc7",
    "muted": "#7d8794",
    "base": "#7d8794",
}
"""Before the theme paints; near enough to both."""


@dataclass(slots=True)
class Chart:
    """One figure with its sources. `zoomed`: the reader's own range stands until it is reset."""

    figure: Any
    bars: ColumnDataSource
    base: ColumnDataSource
    band: ColumnDataSource
    notes: ColumnDataSource
    mark: BoxAnnotation
    glyphs: list[Any]
    drawing: Drawing
    zoomed: bool = False
    drawn: Plot | None = None

    def apply(self, plot: Plot) -> None:
        """Draws `plot`; what is equal to what is there is not sent."""
        self.drawn = plot
        _replace(self.bars, _bars(plot, self.drawing.slots))
        has_base = len(plot.base) > 0
        _replace(
            self.base,
            {"left": plot.left, "right": plot.right, "top": plot.base}
            if has_base
            else _nothing("left", "right", "top"),
        )
        band = plot.band
        _replace(
            self.band,
            {
                "left": band.left,
                "right": band.right,
                "mid": (band.left + band.right) / 2,
                "mean": band.mean,
                "low": band.low,
                "high": band.high,
            }
            if band is not None
            else _nothing("left", "right", "mid", "mean", "low", "high"),
        )
        _replace(
            self.notes,
            {"from": np.array([one.start for one in plot.notes]), "to": np.array([one.end for one in plot.notes])},
        )
        for glyph, state in zip(self.glyphs, _states(plot, len(self.glyphs)), strict=True):
            if glyph.tags != [state]:
                glyph.tags = [state]
        self._move_axes(plot)

    def _move_axes(self, plot: Plot) -> None:
        fig = self.figure
        if not self.zoomed:
            pad = 0.012 * (plot.x_range[1] - plot.x_range[0])
            _set(fig.x_range, start=plot.x_range[0] - pad, end=plot.x_range[1] + pad)
            self.label(plot.ticks)
        _set(fig.y_range, start=plot.y_low, end=plot.y_top)

    def label(self, ticks: tuple[tuple[float, str], ...]) -> None:
        """Ticks are computed where the zone is known: here."""
        axis = self.figure.xaxis[0]
        places = [at for at, _ in ticks]
        if list(axis.ticker.ticks) != places or list(axis.major_label_overrides.values()) != [
            text for _, text in ticks
        ]:
            axis.major_label_overrides = dict(ticks)
            axis.ticker.ticks = places

    def select(self, low: float | None, high: float | None) -> None:
        """Where the brush stands."""
        if low is None or high is None:
            _set(self.mark, visible=False)
        else:
            shift = 0.0 if self.drawing.spec.x in self.drawing.query.bins else 0.5
            _set(self.mark, left=low - shift, right=high - shift, visible=True)


def build(drawing: Drawing, height: int) -> Chart:
    """An empty chart of the right kind."""
    time = drawing.spec.x == "time"
    fig = figure(
        x_range=Range1d(start=0, end=1),
        y_range=Range1d(start=0, end=1),
        height=height,
        sizing_mode="stretch_both",
        toolbar_location=None,
        tools=[],
        output_backend="canvas",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        min_border=2,
        min_border_right=10,
        lod_threshold=None,
    )
    fig.toolbar.logo = None
    _style(fig, drawing.field(drawing.spec.y).unit)
    base = ColumnDataSource(_nothing("left", "right", "top"))
    bars = ColumnDataSource(_bars(None, drawing.slots))
    band = ColumnDataSource(_nothing("left", "right", "mid", "mean", "low", "high"))
    quad = Quad(left="left", right="right", top="top", bottom=0, fill_color=INITIAL["base"], line_color=None)
    quad.fill_alpha = 0.32
    _add(fig, base, quad, "base")
    if drawing.spec.forecast is not None:
        _draw_band(fig, band)
    glyphs = [_add(fig, bars, _series_glyph(drawing, i), "ok") for i in range(drawing.slots)]
    notes = ColumnDataSource(_nothing("from", "to"))
    if time:
        color = INITIAL["alt"]
        _add(fig, notes, VStrip(x0="from", x1="to", fill_color=color, fill_alpha=0.14, line_color=color), "note")
    mark = BoxAnnotation(visible=False, level="overlay", editable=False, propagate_hover=True)
    fig.add_layout(mark)
    _add_tools(fig, drawing, time)
    return Chart(fig, bars, base, band, notes, mark, glyphs, drawing)


def _style(fig: Any, unit: str) -> None:
    x, y = fig.xaxis[0], fig.yaxis[0]
    if unit:
        y.axis_label, y.axis_label_standoff = unit, 2
        y.axis_label_text_font_size, y.axis_label_text_font_style = "11px", "normal"
    x.ticker, x.minor_tick_line_color = FixedTicker(ticks=[], minor_ticks=[]), None
    y.ticker = BasicTicker(desired_num_ticks=4, num_minor_ticks=0)
    y.formatter = NumeralTickFormatter(format="0.[0]a")
    for axis in (x, y):
        axis.axis_line_color = None
        axis.major_tick_line_color = None
        axis.minor_tick_line_color = None
        axis.major_label_text_font_size = "11px"
        axis.major_label_standoff = 6
    fig.xgrid.visible = False


def _add(fig: Any, source: ColumnDataSource, glyph: Any, state: str) -> Any:
    """A glyph without the variants for selections that Bokeh makes: a document of half the models opens faster."""
    glyph.tags = [state]
    fig.add_glyph(source, glyph, selection_glyph=None, nonselection_glyph=None, hover_glyph=None, muted_glyph=None)
    return glyph


def _series_glyph(drawing: Drawing, i: int) -> Any:
    color = INITIAL["ok"]
    if drawing.spec.kind == "line":
        return Line(x="mid", y=f"t{i}", line_color=color, line_width=2)
    return Quad(left="left", right="right", top=f"t{i}", bottom=f"b{i}", fill_color=color, line_color=None)


def _draw_band(fig: Any, band: ColumnDataSource) -> None:
    color = INITIAL["muted"]
    spread = Quad(
        left="left", right="right", top="high", bottom="low", fill_color=color, fill_alpha=0.25, line_color=None
    )
    _add(fig, band, spread, "forecast")
    mean = Segment(x0="left", y0="mean", x1="right", y1="mean", line_color=color, line_width=2, line_dash=[4, 2])
    _add(fig, band, mean, "forecast")


def _add_tools(fig: Any, drawing: Drawing, time: bool) -> None:
    if drawing.spec.select is not None and drawing.spec.select.interval:
        overlay = BoxAnnotation(visible=False, syncable=False, level="overlay", editable=False, line_dash=[3, 3])
        brush = BoxSelectTool(dimensions="width", continuous=True, persistent=False, renderers=[], overlay=overlay)
        fig.add_tools(brush)
        fig.toolbar.active_drag = brush
    elif time:
        zoom = BoxZoomTool(
            dimensions="width", overlay=BoxAnnotation(visible=False, syncable=False, level="overlay", line_dash=[3, 3])
        )
        wheel = WheelZoomTool(dimensions="width", modifiers="ctrl")
        fig.add_tools(zoom, wheel)
        fig.toolbar.active_drag, fig.toolbar.active_scroll = zoom, wheel


def _bars(plot: Plot | None, slots: int) -> dict[str, Any]:
    names = [name for i in range(slots) for name in (f"b{i}", f"t{i}")]
    if plot is None or plot.empty:
        return _nothing("left", "right", "mid", *names)
    gap = (plot.right - plot.left) * 0.06
    columns: dict[str, Any] = {"left": plot.left + gap, "right": plot.right - gap, "mid": (plot.left + plot.right) / 2}
    for i in range(slots):
        has = i < len(plot.tops)
        columns[f"b{i}"] = plot.bottoms[i].copy() if has else np.full(len(plot.left), np.nan)
        columns[f"t{i}"] = plot.tops[i].copy() if has else np.full(len(plot.left), np.nan)
    return columns


def _states(plot: Plot, count: int) -> list[str]:
    states = [one.state for one in plot.series]
    return (states + ["muted"] * count)[:count]


def _nothing(*names: str) -> dict[str, Any]:
    return {name: np.zeros(0) for name in names}


def _replace(source: ColumnDataSource, columns: dict[str, Any]) -> None:
    """Sends a source's columns when one of them differs; where only heights moved, as patches of what moved."""
    old = source.data
    if all(name in old and np.array_equal(old[name], column, equal_nan=True) for name, column in columns.items()):
        return
    source.data = columns


def _set(model: Any, **wanted: Any) -> None:
    changed = {name: value for name, value in wanted.items() if getattr(model, name) != value}
    if changed:
        model.update(**changed)
