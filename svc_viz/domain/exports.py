"""An element's rows for who wants the numbers: the same question, the same trimming as on the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from millrace.errors import FieldInvalid
from svc_viz.domain.compiling import Compiler
from svc_viz.domain.drawings import DRAWN
from svc_viz.domain.results import csv_bytes, trimmed
from svc_viz.domain.state import PageState
from svc_viz.domain.validation import ASKING, nearest
from svc_viz.ports import Answer, Dashboard, Question, TableFacts

Ask = Callable[[Question], Awaitable[Answer]]


async def rows_of(
    dashboard: Dashboard, element: str, state: PageState, tables: Mapping[str, TableFacts], ask: Ask
) -> tuple[Answer, str]:
    """The answer and the zone its times are shown in. Raises FieldInvalid for an element that has no rows."""
    spec = dashboard.spec.elements.get(element)
    if spec is None:
        raise FieldInvalid(nearest(element, dashboard.spec.elements), field="element")
    if spec.kind not in ASKING:
        raise FieldInvalid(f"`{element}` is a {spec.kind}: it has no rows of its own", field="element")
    compiler = Compiler(dashboard, state, tables)
    return await _asked(compiler.question(element), tables, ask), compiler.zone


async def base_of(
    dashboard: Dashboard, element: str, state: PageState, tables: Mapping[str, TableFacts], ask: Ask
) -> Answer | None:
    """What an element would show without selections; None where that is the same, or is not drawn."""
    spec = dashboard.spec.elements[element]
    compiler = Compiler(dashboard, state, tables)
    if spec.kind not in DRAWN or spec.select is None or spec.stack:
        return None
    base = compiler.question(element, base=True)
    return None if base == compiler.question(element) else await _asked(base, tables, ask)


async def _asked(question: Question, tables: Mapping[str, TableFacts], ask: Ask) -> Answer:
    """Without the bucket that the range's start cuts, also where the answer does not tell the table's event time."""
    answer = await ask(question)
    facts = tables.get(question.table)
    if answer.event_time_high is None and facts is not None:
        answer = replace(answer, event_time_high=facts.event_time_high)
    return trimmed(answer, question)


async def export(
    dashboard: Dashboard, element: str, state: PageState, tables: Mapping[str, TableFacts], ask: Ask
) -> bytes:
    """As CSV."""
    answer, zone = await rows_of(dashboard, element, state, tables, ask)
    return csv_bytes(answer.rows, zone)
