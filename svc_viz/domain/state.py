"""What a reader chose: range, zone, params, selections. The page's URL carries all of it, so a link shows the same to anyone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote

from svc_viz.domain.measures import range_s
from svc_viz.domain.zones import zone_of
from svc_viz.ports import DashboardSpec

RESERVED = frozenset({"range", "zone", "theme", "key", "table"})
THEMES = ("dark", "light")
MAX_VALUES = 100


@dataclass(frozen=True, slots=True)
class Interval:
    """A brush: [low, high)."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Points:
    """Values that were clicked."""

    values: tuple[str, ...]


Pick = Interval | Points


@dataclass(frozen=True, slots=True)
class PageState:
    """Empty texts mean the dashboard's own. `params`: param -> values; `picks`: element -> what it selects, oldest first."""

    range: str = ""
    zone: str = ""
    theme: str = ""
    params: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    picks: Mapping[str, Pick] = field(default_factory=dict)

    def with_pick(self, element: str, pick: Pick | None, *, single: bool = False) -> PageState:
        """The state after a brush or click; None clears it. `single`: it replaces every other one."""
        kept = {} if single else {name: old for name, old in self.picks.items() if name != element}
        return replace(self, picks=kept if pick is None else {**kept, element: pick})

    def with_param(self, name: str, values: tuple[str, ...]) -> PageState:
        kept = {key: old for key, old in self.params.items() if key != name}
        return replace(self, params={**kept, name: values} if values else kept)

    def cleared(self) -> PageState:
        return replace(self, params={}, picks={})

    @property
    def filters(self) -> bool:
        return bool(self.params or self.picks)


def number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def encode(state: PageState) -> str:
    """The query string, in a fixed order, without what is at its default."""
    pairs = [
        (key, value) for key, value in (("range", state.range), ("zone", state.zone), ("theme", state.theme)) if value
    ]
    pairs += [(name, value) for name in sorted(state.params) for value in state.params[name]]
    for name, pick in state.picks.items():
        if isinstance(pick, Interval):
            pairs.append((name, f"{number(pick.low)}..{number(pick.high)}"))
        else:
            pairs += [(name, value) for value in pick.values]
    return "&".join(f"{quote(key, safe='')}={quote(value, safe='/:,')}" for key, value in pairs)


def decode(text: str, spec: DashboardSpec) -> tuple[PageState, tuple[str, ...]]:
    """The state, and a sentence for each part of the text that means nothing here (a bad link opens all the same)."""
    state, problems = PageState(), []
    for key, value in parse_qsl(text.lstrip("?"), keep_blank_values=False, max_num_fields=500):
        problem, state = _take(state, key, value[:300], spec)
        if problem:
            problems.append(problem)
    return state, tuple(problems)


def _take(state: PageState, key: str, value: str, spec: DashboardSpec) -> tuple[str, PageState]:
    if key in {"range", "zone", "theme"}:
        return _reserved(state, key, value)
    if key in RESERVED:
        return "", state
    if key in spec.params:
        return "", state.with_param(key, _more(state.params.get(key, ()), value))
    element = spec.elements.get(key)
    if element is None or element.select is None:
        return f"`{key}` is not something that can be chosen here", state
    if element.select.interval and ".." in value:
        low, _, high = value.partition("..")
        try:
            pick = Interval(float(low), float(high))
        except ValueError:
            return f"`{value}` is not an interval; write {key}=40..145", state
        sound = pick.low < pick.high and math.isfinite(pick.low) and math.isfinite(pick.high)
        return ("", state.with_pick(key, pick)) if sound else (f"`{value}` is not an interval", state)
    old = state.picks.get(key)
    return "", state.with_pick(key, Points(_more(old.values if isinstance(old, Points) else (), value)))


def _reserved(state: PageState, key: str, value: str) -> tuple[str, PageState]:
    """Range, zone and theme, where the value is one."""
    try:
        if key == "range":
            range_s(value)
            return "", replace(state, range=value)
        if key == "zone":
            zone_of(value)
            return "", replace(state, zone=value)
    except ValueError as error:
        return str(error), state
    return (
        ("", replace(state, theme=value))
        if value in THEMES
        else (f"`{value}` is not a theme; write dark or light", state)
    )


def _more(values: tuple[str, ...], value: str) -> tuple[str, ...]:
    return values if value in values or len(values) >= MAX_VALUES else (*values, value)
