"""An element's rows for who wants the numbers: the same question, the same trimming as on the page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from millrace.errors import FieldInvalid
from svc_viz.domain.compiling import Compiler
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
    question = compiler.question(element)
    return trimmed(await ask(question), question), compiler.zone


async def export(
    dashboard: Dashboard, element: str, state: PageState, tables: Mapping[str, TableFacts], ask: Ask
) -> bytes:
    """As CSV."""
    answer, zone = await rows_of(dashboard, element, state, tables, ask)
    return csv_bytes(answer.rows, zone)
