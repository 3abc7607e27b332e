"""The page's HTML. Every text that comes from data or specs goes through `esc`; styles and scripts carry the nonce."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from svc_viz.domain.charts import DRAWN
from svc_viz.domain.validation import cells_of
from svc_viz.ports import Dashboard, DashboardSpec, ElementSpec

SCRIPTS = ("csp.js", "bokeh.min.js", "draw.js", "cards.js", "hover.js", "page.js")
EXPORTED = frozenset({"bar", "line", "histogram", "table", "multiples", "dead_letters"})

LOGO = (
    '<svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true"><g fill="none" stroke="currentColor" stroke-width="2">'
    '<circle cx="12" cy="12" r="9"/><circle cx="12" cy="12" r="2.5"/>'
    '<path d="M12 3v6.5M12 14.5V21M3 12h6.5M14.5 12H21M5.6 5.6l4.6 4.6M13.8 13.8l4.6 4.6M5.6 18.4l4.6-4.6M13.8 10.2l4.6-4.6"/></g></svg>'
)
ICONS = {
    "table": '<path d="M2.5 3.5h11v9h-11zM2.5 6.5h11M2.5 9.5h11M6.5 6.5v6"/>',
    "save": '<path d="M8 2.5v7.5M5 7.5l3 3 3-3M3 13.5h10"/>',
    "link": '<path d="M6.8 9.2a2.6 2.6 0 0 0 3.7 0l2-2a2.6 2.6 0 0 0-3.7-3.7l-.8.8M9.2 6.8a2.6 2.6 0 0 0-3.7 0l-2 2a2.6 2.6 0 0 0 3.7 3.7l.8-.8"/>',
    "theme": '<circle cx="8" cy="8" r="5.5"/><path d="M8 2.5a5.5 5.5 0 0 1 0 11z" fill="currentColor"/>',
    "reset": '<path d="M3 8a5 5 0 1 0 1.6-3.7M3 2.8V5.5h2.7"/>',
}


def esc(text: object) -> str:
    return escape(str(text), quote=True)


def icon(name: str) -> str:
    return f'<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">{ICONS[name]}</svg>'


@dataclass(frozen=True, slots=True)
class Shell:
    """What every page has: where its files are, who is in the navigation."""

    nonce: str
    assets: Mapping[str, str]
    nav: Sequence[tuple[str, str]]
    here: str
    instance: str
    theme: str = ""


def document(
    shell: Shell, title: str, body: str, *, style: str = "", config: Mapping[str, Any] | None = None, live: bool = True
) -> str:
    """A whole page. `config` is what the scripts start from, as data, never as code."""
    theme = f' data-theme="{esc(shell.theme)}"' if shell.theme else ""
    nonce = f'nonce="{shell.nonce}"'
    names = SCRIPTS if live else ("draw.js",)
    scripts = "".join(f'<script {nonce} src="{esc(shell.assets[name])}" defer></script>' for name in names)
    data = esc(json.dumps(dict(config or {}), separators=(",", ":")))
    return (
        f'<!doctype html><html lang="en"{theme}><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="dark light"><title>{esc(title)} · Millrace</title><link rel="icon" href="data:,">'
        f'<link {nonce} rel="stylesheet" href="{esc(shell.assets["page.css"])}"><style {nonce}>{style}</style>'
        f'<script {nonce} src="{esc(shell.assets["theme.js"])}"></script>{scripts}</head>'
        f'<body data-config="{data}" data-nonce="{shell.nonce}" data-instance="{esc(shell.instance)}">{body}</body></html>'
    )


def header(shell: Shell, controls: str = "") -> str:
    links = "".join(
        f'<a href="{esc(path)}"{" aria-current=page" if path == shell.here else ""}>{esc(label)}</a>'
        for path, label in shell.nav
    )
    return (
        '<a class="skip" href="#main">Skip to the charts</a>'
        f'<header class="top"><a class="brand" href="/">{LOGO}<span>Millrace</span></a><nav aria-label="Pages">{links}</nav>'
        f'<div class="controls">{controls}<button class="iconic" data-act="share" title="Copy a link to exactly this view" aria-label="Copy a link to exactly this view">{icon("link")}</button>'
        f'<button class="iconic" data-act="theme" title="Dark or light" aria-label="Dark or light">{icon("theme")}</button></div></header>'
        '<div class="banner" id="banner" role="alert" hidden></div>'
    )


def select(name: str, label: str, options: Sequence[tuple[str, str]], chosen: str) -> str:
    items = "".join(
        f'<option value="{esc(value)}"{" selected" if value == chosen else ""}>{esc(text)}</option>'
        for value, text in options
    )
    return f'<label class="pick"><span>{esc(label)}</span><select data-choice="{esc(name)}" aria-label="{esc(label or name)}">{items}</select></label>'


def dashboard_page(
    shell: Shell,
    dashboard: Dashboard,
    config: Mapping[str, Any],
    choices: Mapping[str, Sequence[tuple[str, str]]],
    chosen: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    spec = dashboard.spec
    controls = (
        '<span class="live" id="live" data-state="loading"><i></i><b>Loading</b><span></span></span>'
        + select("range", "Last", choices["range"], chosen["range"])
        + select("zone", "", choices["zone"], chosen["zone"])
    )
    strip = (
        '<ol class="strip" id="strip" aria-label="Pipeline"></ol>'
        if any(one.kind == "pipeline" for one in spec.elements.values())
        else ""
    )
    told = "".join(f'<p class="told" role="status">{esc(note)}; the rest of the link is shown.</p>' for note in notes)
    body = (
        header(shell, controls)
        + f'<main id="main"><div class="title"><div><h1>{esc(spec.title)}</h1><p>{esc(spec.description)}</p></div>{strip}</div>{told}'
        + _rows(dashboard, config)
        + '<p class="foot" id="foot"></p></main><div id="anchor" hidden></div><div class="tip" id="tip" role="tooltip" hidden></div>'
        '<div class="sr" id="say" role="status" aria-live="polite"></div>'
    )
    return document(shell, spec.title, body, style=_layout(spec), config=config)


def _rows(dashboard: Dashboard, config: Mapping[str, Any]) -> str:
    """KPI rows first, then the bar of filters, then the charts."""
    spec = dashboard.spec
    found, barred = [], False
    small = {"kpi", "freshness"}
    for index, row in enumerate(spec.rows):
        cells = [(name, spec.elements[name]) for name, _ in cells_of(row.cells, spec.columns)]
        if not barred and any(one.kind not in small for _, one in cells):
            found.append(_filters(spec))
            barred = True
        inner = "".join(_card(dashboard.slug, name, one) for name, one in cells)
        found.append(f'<div class="row r{index}">{inner}</div>')
    if not barred:
        found.append(_filters(spec))
    return "".join(found)


def _filters(spec: DashboardSpec) -> str:
    summary = "".join(
        f'<p class="summary" data-element="{esc(name)}" data-kind="summary"></p>'
        for name, one in spec.elements.items()
        if one.kind == "summary"
    )
    return f'<div class="filters" role="group" aria-label="Filters"><div class="chips" id="chips"></div>{summary}</div>'


def _card(slug: str, name: str, element: ElementSpec) -> str:
    small = element.kind in {"kpi", "freshness"}
    acts = ""
    if element.kind in EXPORTED:
        twin = (
            ""
            if element.kind in {"table", "dead_letters"}
            else (
                f'<button class="iconic" data-act="twin" aria-pressed="false" title="Show as a table" aria-label="{esc(element.title)} as a table">{icon("table")}</button>'
            )
        )
        reset = (
            f'<button class="iconic" data-act="reset" hidden title="Back to the whole range" aria-label="{esc(element.title)}: whole range">{icon("reset")}</button>'
            if element.x == "time"
            else ""
        )
        acts = f'{reset}{twin}<a class="iconic" data-act="csv" href="/csv/{esc(slug)}/{esc(name)}" download title="Save as CSV" aria-label="{esc(element.title)} as CSV">{icon("save")}</a>'
    subtitle = f"<p>{esc(element.subtitle)}</p>" if element.subtitle and not small else ""
    inside = (
        '<div class="plot" role="img" aria-label="loading"></div>'
        if element.kind in DRAWN or element.kind == "multiples"
        else '<div class="text"></div>'
    )
    twin_box = (
        ""
        if small or element.kind in {"table", "dead_letters"}
        else '<div class="twin" tabindex="0" role="region" hidden></div>'
    )
    return (
        f'<section class="card {esc(element.kind)}" id="card-{esc(name)}" data-element="{esc(name)}" data-kind="{esc(element.kind)}" data-status="loading" aria-label="{esc(element.title)}">'
        f'<header><div><h2>{esc(element.title)}</h2>{subtitle}</div><div class="legend"></div><div class="acts">{acts}</div></header>'
        f'<div class="body">{inside}{twin_box}<p class="note" hidden></p></div></section>'
    )


def _layout(spec: DashboardSpec) -> str:
    """Column spans and heights; ids and numbers only, so nothing here comes from a text."""
    rules = []
    for index, row in enumerate(spec.rows):
        rules.append(f".r{index}{{--cols:{int(spec.columns)};--h:{int(row.h)}px}}")
        for name, width in cells_of(row.cells, spec.columns):
            if name.replace("_", "").isalnum() and name.isascii():
                rules.append(f"#card-{name}{{--span:{int(width)}}}")
    return "".join(rules)


def overview_page(shell: Shell, config: Mapping[str, Any]) -> str:
    body = (
        header(shell, '<span class="live" id="live" data-state="loading"><i></i><b>Loading</b><span></span></span>')
        + '<main id="main"><div class="title"><div><h1>Overview</h1><p>Every pipeline, how fresh its tables are, and what was refused on the way.</p></div></div>'
        '<div id="overview" class="overview"></div></main><div id="anchor" hidden></div><div class="tip" id="tip" role="tooltip" hidden></div>'
        '<div class="sr" id="say" role="status" aria-live="polite"></div>'
    )
    return document(shell, "Overview", body, config=config)


def error_page(shell: Shell, title: str, text: str, back: tuple[str, str]) -> str:
    body = (
        header(shell)
        + f'<main id="main" class="lost"><h1>{esc(title)}</h1><p>{esc(text)}</p><p><a class="button" href="{esc(back[0])}">{esc(back[1])}</a></p></main>'
    )
    return document(shell, title, body, live=False)


_BARE = (
    "body{{font:15px/1.5 Inter,system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;max-width:34rem;margin:18vh auto;padding:0 1.5rem;color:#1a212b;background:#f4f6f9}}"
    "code{{background:#e6eaf0;padding:.15em .4em;border-radius:4px}}@media(prefers-color-scheme:dark){{body{{color:#e6e9ee;background:#0b0e13}}code{{background:#1d242d}}}}"
)


def sign_in_page(nonce: str, *, wrong_key: bool) -> str:
    why = "That key is not this page's key. " if wrong_key else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Millrace</title><style nonce="{nonce}">{_BARE.format()}</style>'
        f"<body><h1>Millrace</h1><p>{esc(why)}This page opens with a link that carries its key.</p><p>On the machine that runs it: <code>millrace open</code></p></body></html>"
    )


def key_page(nonce: str) -> str:
    """Goes on to the page without the key. A redirect would lose the cookie on a click from another site."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Millrace</title><style nonce="{nonce}">{_BARE.format()}</style>'
        f'<body><p>Opening…</p><script nonce="{nonce}">location.replace(location.pathname)</script></body></html>'
    )
