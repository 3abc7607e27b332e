"""Is a dashboard's spec one that can be drawn? Every mistake is named with its path and the nearest right word."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

from millrace.errors import FieldInvalid
from svc_viz.domain import measures
from svc_viz.domain.state import RESERVED
from svc_viz.domain.zones import zone_of
from svc_viz.ports import Dashboard, DashboardSpec, ElementSpec, QuerySpec, TableFacts

KINDS = ("kpi", "bar", "line", "histogram", "table", "multiples", "pipeline", "dead_letters", "summary", "freshness")
ASKING = frozenset(KINDS) - {"pipeline", "freshness"}
STATES = ("ok", "warn", "bad", "alt", "muted")
FILLS = ("zero", "gap", "last")
MODES = ("crossfilter", "intersect", "single")
MAX_PARTS = 200

Note = Callable[[str, str], None]


def validate(dashboard: Dashboard, tables: Mapping[str, TableFacts] | None = None) -> None:
    """Raises FieldInvalid with every mistake. Columns are checked against the tables that are known; a table may come later."""
    found: list[tuple[str, str]] = []
    _check(dashboard, tables or {}, lambda path, text: found.append((f"dashboard.spec.{path}", text)))
    if found:
        path, text = found[0]
        raise FieldInvalid(
            f"{path}: {text}" + (f" (and {len(found) - 1} more)" if len(found) > 1 else ""),
            field=path,
            hint="mend the dashboard and put it again; nothing was stored",
            violations=tuple(found),
        )


def nearest(word: str, known: Iterable[str]) -> str:
    """ "`x` is not known; did you mean `y`?"."""
    names = sorted(known)
    if close := difflib.get_close_matches(word, names, n=1, cutoff=0.6):
        return f"`{word}` is not known; did you mean `{close[0]}`?"
    return f"`{word}` is not known; known here: {', '.join(names[:20]) or 'none'}"


def _check(dashboard: Dashboard, tables: Mapping[str, TableFacts], note: Note) -> None:
    spec = dashboard.spec
    for name, part in (
        ("queries", spec.queries),
        ("elements", spec.elements),
        ("params", spec.params),
        ("fields", spec.fields),
    ):
        if len(part) > MAX_PARTS:
            note(name, f"{len(part)} is more than {MAX_PARTS}")
    _try(note, "time.zone", lambda: zone_of(spec.time.zone))
    _try(note, "time.range", lambda: measures.range_s(spec.time.range))
    if spec.time.as_of not in {"", "live"}:
        note("time.as_of", f"`{spec.time.as_of}` is not supported; write live")
    if not 0.1 <= spec.live.max_rate_hz <= 10:
        note("live.max_rate_hz", "is not between 0.1 and 10")
    for name, query in spec.queries.items():
        _check_query(dashboard, name, query, tables, note)
    for name, element in spec.elements.items():
        _check_element(spec, name, element, note)
    _check_choices(spec, note)
    _check_fields(spec, note)
    _check_layout(spec, note)


def _try(note: Note, path: str, check: Callable[[], object]) -> None:
    try:
        check()
    except ValueError as error:
        note(path, str(error))


def _check_query(
    dashboard: Dashboard, name: str, query: QuerySpec, tables: Mapping[str, TableFacts], note: Note
) -> None:
    path, time = f"queries.{name}", dashboard.spec.time
    full = query.table if "/" in query.table else f"namespaces/{dashboard.namespace}/tables/{query.table}"
    kinds = facts.columns if (facts := tables.get(full)) else {}
    named: list[tuple[str, str]] = []
    for measure, text in query.measures.items():
        try:
            parsed = measures.measure(measure, text)
        except ValueError as error:
            note(f"{path}.measures.{measure}", str(error))
            continue
        named += [
            (f"{path}.measures.{measure}", column)
            for column in {parsed.column, *measures.columns_of(parsed.where)} - {""}
        ]
    for index, text in enumerate(query.by):
        try:
            named.append((f"{path}.by[{index}]", measures.grouping(text, "UTC").column))
        except ValueError as error:
            note(f"{path}.by[{index}]", str(error))
    named += [(f"{path}.bin.{column}", column) for column in query.bins]
    if query.where:
        _try(
            note,
            f"{path}.where",
            lambda: named.extend((f"{path}.where", c) for c in measures.columns_of(measures.condition(query.where))),
        )
    for where, column in named:
        if kinds and column not in kinds:
            note(where, nearest(column, kinds))
    _check_shape(path, query, bool(time.table or time.column), note)


def _check_shape(path: str, query: QuerySpec, has_time: bool, note: Note) -> None:
    if query.bucket:
        _try(note, f"{path}.bucket", lambda: measures.duration_s(query.bucket))
        if not has_time:
            note(f"{path}.bucket", "needs the dashboard's `time`")
    if (query.bucket or query.bins) and query.fill not in FILLS:
        note(f"{path}.fill", f"is required with bucket and bin: {', '.join(FILLS)}")
    elif query.fill and query.fill not in FILLS:
        note(f"{path}.fill", nearest(query.fill, FILLS))
    for column, width in query.bins.items():
        if not width > 0:
            note(f"{path}.bin.{column}", "a bin's width is above 0")
    if query.clamp and not (len(query.clamp) == 2 and query.clamp[0] < query.clamp[1]):
        note(f"{path}.clamp", "two numbers are expected, the lower first")
    if query.limit < 0:
        note(f"{path}.limit", "is below 0")
    _try(note, f"{path}.range", lambda: measures.range_s(query.range))
    results = result_columns(query)
    try:
        for column, _ in measures.order(query.order):
            if column not in results:
                note(f"{path}.order", nearest(column, results))
    except ValueError as error:
        note(f"{path}.order", str(error))


def result_columns(query: QuerySpec) -> tuple[str, ...]:
    """Columns of a query's result, in order; groupings that are wrong are left out."""
    groups = []
    for text in query.by:
        try:
            groups.append(measures.grouping(text, "UTC").name)
        except ValueError:
            continue
    return (*(["time"] if query.bucket else []), *sorted(query.bins), *groups, *sorted(query.measures))


def _check_element(spec: DashboardSpec, name: str, element: ElementSpec, note: Note) -> None:
    path = f"elements.{name}"
    if element.kind not in KINDS:
        note(f"{path}.kind", nearest(element.kind, KINDS))
        return
    if name in RESERVED or name in spec.params:
        note(path, f"`{name}` is taken by the page's address; call the element otherwise")
    if element.kind not in ASKING:
        return
    if element.query not in spec.queries:
        note(f"{path}.query", nearest(element.query, spec.queries))
        return
    query = spec.queries[element.query]
    results = result_columns(query)
    needed = {
        "kpi": ("value",),
        "bar": ("x", "y"),
        "line": ("x", "y"),
        "histogram": ("x", "y"),
        "multiples": ("x", "y", "facet"),
    }
    for part in ("x", "y", "stack", "value", "facet"):
        column = getattr(element, part)
        if column and column not in results:
            note(f"{path}.{part}", nearest(column, results))
        elif not column and part in needed.get(element.kind, ()):
            note(f"{path}.{part}", f"is required for a {element.kind}; one of {', '.join(results)}")
    for index, column in enumerate(element.columns):
        if column not in results:
            note(f"{path}.columns[{index}]", nearest(column, results))
    _check_extras(spec, path, element, query, results, note)


def _check_extras(
    spec: DashboardSpec, path: str, element: ElementSpec, query: QuerySpec, results: tuple[str, ...], note: Note
) -> None:
    for index, compare in enumerate(element.compare):
        if compare != "previous_period":
            note(f"{path}.compare[{index}]", nearest(compare, ("previous_period",)))
    if element.sparkline:
        _try(note, f"{path}.sparkline", lambda: measures.duration_s(element.sparkline))
    if select := element.select:
        if bool(select.interval) == bool(select.point):
            note(f"{path}.select", "exactly one of `interval` and `point` is expected")
        if (column := select.interval or select.point) not in results:
            note(f"{path}.select", nearest(column, results))
        if select.selection not in spec.selections:
            note(f"{path}.select.as", nearest(select.selection, spec.selections))
    if (forecast := element.forecast) is not None:
        if element.x != "time" or not query.bucket:
            note(f"{path}.forecast", "needs a bucketed query with `time` on the x axis")
        if not 1 <= forecast.horizon <= 1000:
            note(f"{path}.forecast.horizon", "is not between 1 and 1,000")
        if not 0 < forecast.level < 1:
            note(f"{path}.forecast.level", "is not between 0 and 1")


def _check_choices(spec: DashboardSpec, note: Note) -> None:
    for name, param in spec.params.items():
        if param.type != "select":
            note(f"params.{name}.type", nearest(param.type, ("select",)))
        if name in RESERVED:
            note(f"params.{name}", f"`{name}` is taken by the page's address")
    for name, mode in spec.selections.items():
        if mode not in MODES:
            note(f"selections.{name}.mode", nearest(mode, MODES))


def _check_fields(spec: DashboardSpec, note: Note) -> None:
    for name, field in spec.fields.items():
        if field.good not in {"", "up", "down"}:
            note(f"fields.{name}.good", nearest(field.good, ("up", "down")))
        for value, state in field.colors.items():
            if state not in STATES:
                note(f"fields.{name}.colors.{value}", nearest(state, STATES))
        for index, threshold in enumerate(field.thresholds):
            if threshold.state not in STATES:
                note(f"fields.{name}.thresholds[{index}].state", nearest(threshold.state, STATES))


def cells_of(cells: tuple[str, ...], columns: int) -> list[tuple[str, int]]:
    """(element, width in columns): cells without a width share what is left, the first ones get the rest. Raises ValueError."""
    given: list[tuple[str, int | None]] = []
    for cell in cells:
        name, _, width = cell.partition(":")
        if width and not (width.isdigit() and 1 <= int(width) <= columns):
            raise ValueError(f"`{cell}`: a width is a whole number from 1 to {columns}")
        given.append((name, int(width) if width else None))
    left = columns - sum(width or 0 for _, width in given)
    open_cells = sum(width is None for _, width in given)
    if left < open_cells or left < 0:
        raise ValueError(f"the cells are wider than {columns} columns")
    share, rest = divmod(left, open_cells) if open_cells else (0, 0)
    sized: list[tuple[str, int]] = []
    for name, given_width in given:
        if given_width is None:
            sized.append((name, share + (1 if rest > 0 else 0)))
            rest -= 1
        else:
            sized.append((name, given_width))
    return sized


def _check_layout(spec: DashboardSpec, note: Note) -> None:
    if not 1 <= spec.columns <= 24:
        note("layout.columns", "is not between 1 and 24")
        return
    seen: set[str] = set()
    for index, row in enumerate(spec.rows):
        path = f"layout.rows[{index}]"
        if not 40 <= row.h <= 2000:
            note(f"{path}.h", "is not between 40 and 2,000")
        try:
            cells = cells_of(row.cells, spec.columns)
        except ValueError as error:
            note(f"{path}.cells", str(error))
            continue
        for name, _ in cells:
            if name not in spec.elements:
                note(f"{path}.cells", nearest(name, spec.elements))
            elif name in seen:
                note(f"{path}.cells", f"`{name}` stands twice")
            seen.add(name)
