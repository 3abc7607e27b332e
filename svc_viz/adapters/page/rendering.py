"""One element as a file: Bokeh's page with everything inlined, or its JSON; texts and tables as plain HTML."""

from __future__ import annotations

import json
from html import escape

import pyarrow as pa
from bokeh.embed import file_html, json_item
from bokeh.resources import INLINE
from bokeh.themes import Theme

from millrace.errors import FieldInvalid
from svc_viz.adapters.page.figures import Chart, build
from svc_viz.domain.charts import plot
from svc_viz.domain.drawings import DRAWN, Drawing
from svc_viz.domain.results import columns_of, text_rows
from svc_viz.ports import Dashboard

PALETTES = {
    "light": {
        "page": "#ffffff", "text": "#10161e", "muted": "#566170", "grid": "#e7ebf0", "ok": "#3479d6", "warn": "#d66a22", "bad": "#c93c34",
        "alt": "#8a63c4", "base": "#a3acb8", "forecast": "#6b7684", "note": "#8a6a00",
    },
    "dark": {
        "page": "#131920", "text": "#e8ebf0", "muted": "#97a2b0", "grid": "#212a34", "ok": "#3f84dc", "warn": "#e0762f", "bad": "#e5534b",
        "alt": "#8f6bc7", "base": "#66717f", "forecast": "#aab4c0", "note": "#c9a43b",
    },
}  # fmt: skip
"""The page's own colours (static/page.css), for files that have no stylesheet."""
HEIGHT = 360


class BokehRenderer:
    """Implements `Renderer`."""

    def html(
        self, dashboard: Dashboard, element: str, rows: pa.Table, base: pa.Table | None, zone: str, theme: str
    ) -> bytes:
        spec = dashboard.spec.elements[element]
        title = spec.title or element
        if spec.kind not in DRAWN:
            return _table_page(dashboard, element, rows, zone, theme).encode()
        chart = _chart(dashboard, element, rows, base, zone, theme)
        page: str = file_html(chart.figure, resources=INLINE, title=title, theme=Theme(json={}))
        return page.encode()

    def json(
        self, dashboard: Dashboard, element: str, rows: pa.Table, base: pa.Table | None, zone: str, theme: str
    ) -> bytes:
        spec = dashboard.spec.elements[element]
        if spec.kind not in DRAWN:
            raise FieldInvalid(
                f"`{element}` is a {spec.kind}: Bokeh does not draw it", field="format", hint="ask for HTML or CSV"
            )
        chart = _chart(dashboard, element, rows, base, zone, theme)
        return json.dumps(json_item(chart.figure)).encode()


def _chart(dashboard: Dashboard, element: str, rows: pa.Table, base: pa.Table | None, zone: str, theme: str) -> Chart:
    drawing = Drawing.of(dashboard.spec, element, zone)
    chart = build(drawing, HEIGHT)
    chart.apply(plot(drawing, rows, base))
    _paint(chart, PALETTES[theme], drawing.spec.title)
    return chart


def _paint(chart: Chart, palette: dict[str, str], title: str) -> None:
    fig = chart.figure
    fig.background_fill_color = fig.border_fill_color = palette["page"]
    fig.title.text, fig.title.text_color, fig.title.text_font_size = title, palette["text"], "14px"
    for axis in (fig.xaxis[0], fig.yaxis[0]):
        axis.major_label_text_color = axis.axis_label_text_color = palette["muted"]
    fig.ygrid.grid_line_color = palette["grid"]
    for renderer in fig.renderers:
        color = palette.get((renderer.glyph.tags or ["ok"])[0], palette["muted"])
        wanted = "fill_color" if "fill_color" in renderer.glyph.properties() else "line_color"
        setattr(renderer.glyph, wanted, color)


def _table_page(dashboard: Dashboard, element: str, rows: pa.Table, zone: str, theme: str) -> str:
    spec, palette = dashboard.spec.elements[element], PALETTES[theme]
    columns = columns_of(rows, spec.columns, dashboard.spec.fields)
    head = "".join(f"<th{' class=n' if column.numeric else ''}>{escape(column.label)}</th>" for column in columns)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=n' if column.numeric else ''}>{escape(cell)}</td>"
            for cell, column in zip(row, columns, strict=True)
        )
        + "</tr>"
        for row in text_rows(rows, columns, dashboard.spec.fields, zone)
    )
    style = (
        f"body{{font:14px system-ui,sans-serif;background:{palette['page']};color:{palette['text']}}}"
        f"table{{border-collapse:collapse}}th,td{{padding:4px 12px;border-bottom:1px solid {palette['grid']};text-align:left}}"
        f"th{{color:{palette['muted']}}}.n{{text-align:right}}"
    )
    title = escape(spec.title or element)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{style}</style></head>'
        f"<body><h1>{title}</h1><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></body></html>"
    )
