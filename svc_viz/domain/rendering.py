"""A chart as a file: the question asked once, drawn, and named. A failed query is an error, never a picture of one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from millrace.errors import FieldInvalid
from svc_viz.domain.exports import Ask, base_of, rows_of
from svc_viz.domain.results import csv_bytes
from svc_viz.domain.state import THEMES, decode
from svc_viz.ports import Dashboard, Rendered, Renderer, TableFacts

FORMATS = {
    "html": ("text/html; charset=utf-8", "html"),
    "json": ("application/json", "json"),
    "csv": ("text/csv; charset=utf-8; header=present", "csv"),
}
MAX_BYTES = 64 << 20


async def render(
    dashboard: Dashboard,
    element: str,
    format: str,
    *,
    theme: str,
    state: str,
    tables: Mapping[str, TableFacts],
    ask: Ask,
    renderer: Renderer,
) -> Rendered:
    """`state`: as in the page's address; what means nothing there is refused here. Drawing runs beside the event loop."""
    theme = theme or "light"
    if theme not in THEMES:
        raise FieldInvalid(f"`{theme}` is not a theme; write dark or light", field="theme")
    chosen, problems = decode(state, dashboard.spec)
    if problems:
        raise FieldInvalid("; ".join(problems), field="state")
    answer, zone = await rows_of(dashboard, element, chosen, tables, ask)
    if format == "csv":
        data = await asyncio.to_thread(csv_bytes, answer.rows, zone)
    else:
        base = await base_of(dashboard, element, chosen, tables, ask)
        draw = renderer.html if format == "html" else renderer.json
        data = await asyncio.to_thread(draw, dashboard, element, answer.rows, base.rows if base else None, zone, theme)
    if len(data) > MAX_BYTES:
        raise FieldInvalid(f"the chart has {len(data)} bytes, more than {MAX_BYTES}; narrow the state", field="state")
    content_type, suffix = FORMATS[format]
    return Rendered(content_type, f"{dashboard.slug.replace('/', '-')}-{element}.{suffix}", data, answer.versions)
