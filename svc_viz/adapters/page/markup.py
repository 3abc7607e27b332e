"""The page's HTML. Every text that comes from data or specs goes through `esc`; styles and scripts carry the nonce."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from svc_viz.domain.drawings import DRAWN
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
    "link": '<path d="M6.8 9.2a2.6 2.6 0 0 0 3.7 0l2-2a2.6 2.6 0 0 0-3.7-3.7l-.8.8"/>'
    '<path d="M9.2 6.8a2.6 2.6 0 0 0-3.7 0l-2 2a2.6 2.6 0 0 0 3.7 3.7l.8-.8"/>',
    "theme": '<circle cx="8" cy="8" r="5.5"/><path d="M8 2.5a5.5 5.5 0 0 1 0 11z" fill="currentColor"/>',
    "reset": '<path d="M3 8a5 5 0 1 0 1.6-3.7M3 2.8V5.5h2.7"/>',
}


def esc(text: object) -> str:
    return escape(str(text), quote=True)


def icon(name: str) -> str:
    return f'<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">{ICONS[name]}</svg>'


def button(act: str, picture: str, title: str, label: str = "", more: str = "") -> str:
    """A small button with a picture; `label` is what a screen reader says, the title where it is empty."""
    named = f'title="{esc(title)}" aria-label="{esc(label or title)}"'
    return f'<button class="iconic" data-act="{act}"{more} {named}>{icon(picture)}</button>'


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
    shell: Shell,
    title: str,
    body: str,
    *,
    style: str = "",
    config: Mapping[str, Any] | None = None,
    live: bool = True,
) -> str:
    """A whole page. `config` is what the scripts start from, as data, never as code."""
    theme = f' data-theme="{esc(shell.theme)}"' if shell.theme else ""
    nonce = f'nonce="{shell.nonce}"'
    names = SCRIPTS if live else ("draw.js",)
    scripts = "".join(f'<script {nonce} src="{esc(shell.assets[name])}" defer></script>' for name in names)
    data = esc(json.dumps(dict(config or {}), separators=(",", ":")))
    return (
        f'<!doctype html><html lang="en"{theme}><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="dark light">'
        f'<title>{esc(title)} · Millrace</title><link rel="icon" href="data:,">'
        f'<link {nonce} rel="stylesheet" href="{esc(shell.assets["page.css"])}"><style {nonce}>{style}</style>'
        f'<script {nonce} src="{esc(shell.assets["theme.js"])}"></script>{scripts}</head>'
        f'<body data-config="{data}" data-instance="{esc(shell.instance)}">{body}</body></html>'
    )


def header(shell: Shell, controls: str = "") -> str:
    links = "".join(
        f'<a href="{esc(path)}"{" aria-current=page" if path == shell.here else ""}>{esc(label)}</a>'
        for path, label in shell.nav
    )
    share = button("share", "link", "Copy a link to exactly this view")
    return (
        '<a class="skip" href="#main">Skip to the charts</a>'
        f'<header class="top"><a class="brand" href="/">{LOGO}<span>Millrace</span></a>'
        f'<nav aria-label="Pages">{links}</nav>'
        f'<div class="controls">{controls}{share}{button("theme", "theme", "Dark or light")}</div></header>'
        '<div class="banner" id="banner" role="alert" hidden></div>'
    )


def select(name: str, label: str, options: Sequence[tuple[str, str]], chosen: str) -> str:
    items = "".join(
        f'<option value="{esc(value)}"{" selected" if value == chosen else ""}>{esc(text)}</option>'
        for value, text in options
    )
    shown = f"<span>{esc(label)}</span>" if label else ""
    return (
        f'<label class="pick">{shown}<select data-choice="{esc(name)}" aria-label="{esc(label or name)}">'
        f"{items}</select></label>"
    )


LIVE = '<span class="live" id="live" data-state="loading"><i></i><b>Loading</b><span></span></span>'
ENDS = (
    '<div id="anchor" hidden></div><div class="tip" id="tip" role="tooltip" hidden></div>'
    '<div class="sr" id="say" role="status" aria-live="polite"></div>'
)


def dashboard_page(
    shell: Shell,
    dashboard: Dashboard,
    config: Mapping[str, Any],
    choices: Mapping[str, Sequence[tuple[str, str]]],
    chosen: Mapping[str, str],
    notes: Sequence[str],
) -> str:
    """`notes`: what a link asked for and does not exist here."""
    spec = dashboard.spec
    controls = (
        LIVE
        + select("range", "Last", choices["range"], chosen["range"])
        + select("zone", "", choices["zone"], chosen["zone"])
    )
    has_strip = any(one.kind == "pipeline" for one in spec.elements.values())
    strip = '<ol class="strip" id="strip" aria-label="Pipeline"></ol>' if has_strip else ""
    told = "".join(f'<p class="told" role="status">{esc(note)}; the rest of the link is shown.</p>' for note in notes)
    body = (
        header(shell, controls)
        + f'<main id="main"><div class="title"><div><h1>{esc(spec.title)}</h1><p>{esc(spec.description)}</p></div>'
        + f"{strip}</div>{told}{_rows(dashboard)}</main>{ENDS}"
    )
    return document(shell, spec.title, body, style=_layout(spec), config=config)


def _rows(dashboard: Dashboard) -> str:
    """KPI rows first, then the bar of filters, then the charts."""
    spec = dashboard.spec
    found, barred = [], False
    small = {"kpi", "freshness"}
    for index, row in enumerate(spec.rows):
        cells = [(name, spec.elements[name]) for name, _ in cells_of(row.cells, spec.columns)]
        if not barred and any(one.kind not in small for _, one in cells):
            found.append(_filters(spec))
            barred = True
        inner = "".join(_card(dashboard.path, name, one) for name, one in cells)
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


def _card(path: str, name: str, element: ElementSpec) -> str:
    small = element.kind in {"kpi", "freshness"}
    subtitle = f"<p>{esc(element.subtitle)}</p>" if element.subtitle and not small else ""
    plotted = element.kind in DRAWN or element.kind == "multiples"
    inside = '<div class="plot" role="img" aria-label="loading"></div>' if plotted else '<div class="text"></div>'
    twin = '<div class="twin" tabindex="0" role="region" hidden></div>' if plotted else ""
    named = f'id="card-{esc(name)}" data-element="{esc(name)}" data-kind="{esc(element.kind)}" aria-label="{esc(element.title)}"'
    return (
        f'<section class="card {esc(element.kind)}" data-status="loading" {named}>'
        f'<header><div><h2>{esc(element.title)}</h2>{subtitle}</div><div class="legend"></div>'
        f'<div class="acts">{_acts(path, name, element, plotted)}</div></header>'
        f'<div class="body">{inside}{twin}<p class="note" hidden></p></div></section>'
    )


def _acts(path: str, name: str, element: ElementSpec, plotted: bool) -> str:
    """Whole range again, table, CSV: what the kind has."""
    if element.kind not in EXPORTED:
        return ""
    title = element.title
    reset = button("reset", "reset", "Back to the whole range", f"{title}: whole range", " hidden")
    twin = button("twin", "table", "Show as a table", f"{title} as a table", ' aria-pressed="false"')
    save = (
        f'<a class="iconic" data-act="csv" href="/csv/{esc(path)}/{esc(name)}" download title="Save as CSV" '
        f'aria-label="{esc(title)} as CSV">{icon("save")}</a>'
    )
    return (reset if element.x == "time" and plotted else "") + (twin if plotted else "") + save


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
    lead = "Every pipeline, how fresh its tables are, and what was refused on the way."
    body = (
        header(shell, LIVE)
        + f'<main id="main"><div class="title"><div><h1>Overview</h1><p>{lead}</p></div></div>'
        + f'<div id="overview" class="overview"></div></main>{ENDS}'
    )
    return document(shell, "Overview", body, config=config)


def error_page(shell: Shell, title: str, text: str, back: tuple[str, str]) -> str:
    away = f'<p><a class="button" href="{esc(back[0])}">{esc(back[1])}</a></p>'
    body = header(shell) + f'<main id="main" class="lost"><h1>{esc(title)}</h1><p>{esc(text)}</p>{away}</main>'
    return document(shell, title, body, live=False)


_BARE = (
    "body{font:15px/1.5 Inter,system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;max-width:34rem;margin:18vh auto;"
    "padding:0 1.5rem;color:#1a212b;background:#f4f6f9}code{background:#e6eaf0;padding:.15em .4em;border-radius:4px}"
    "@media(prefers-color-scheme:dark){body{color:#e6e9ee;background:#0b0e13}code{background:#1d242d}}"
)


def _bare(nonce: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Millrace</title>'
        f'<style nonce="{nonce}">{_BARE}</style><body>{body}</body></html>'
    )


def sign_in_page(nonce: str, *, wrong_key: bool, why_not: str = "") -> str:
    """`why_not`: what is wrong with the ingress' token, where an ingress signs people in."""
    if why_not:
        how = "Sign in again where this page is opened from; if that does not help, show this to whoever runs it."
        return _bare(nonce, f"<h1>Millrace</h1><p>You are not signed in: {esc(why_not)}.</p><p>{how}</p>")
    why = "That key is not this page's key. " if wrong_key else ""
    how = "On the machine that runs it: <code>millrace open</code>"
    return _bare(
        nonce, f"<h1>Millrace</h1><p>{esc(why)}This page opens with a link that carries its key.</p><p>{how}</p>"
    )


def key_page(nonce: str) -> str:
    """Goes on to the same view without the key. A redirect would lose the cookie on a click from another site."""
    rest = 'location.search.slice(1).split("&").filter((one) => one && !one.startsWith("key=")).join("&")'
    go = f'const rest = {rest}; location.replace(location.origin + location.pathname + (rest && "?" + rest))'
    return _bare(nonce, f'<p>Opening…</p><script nonce="{nonce}">{go}</script>')
