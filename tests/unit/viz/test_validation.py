"""A dashboard that cannot be drawn is refused, with the path and the nearest right word for each mistake."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millrace.errors import FieldInvalid
from svc_viz.domain.validation import cells_of, validate
from svc_viz.ports import (
    Dashboard,
    DashboardSpec,
    ElementSpec,
    FieldSpec,
    ForecastSpec,
    QuerySpec,
    RowSpec,
    SelectSpec,
    TimeSpec,
)
from tests.browser.stage import demo_dashboard
from tests.unit.viz.conftest import DASHBOARD, FACTS, SPEC


def broken(**changes: object) -> Dashboard:
    return replace(DASHBOARD, spec=replace(SPEC, **changes))  # type: ignore[arg-type]


def query(**changes: object) -> DashboardSpec:
    return replace(SPEC, queries={**SPEC.queries, "total": replace(SPEC.queries["total"], **changes)})  # type: ignore[arg-type]


def element(**changes: object) -> DashboardSpec:
    return replace(SPEC, elements={**SPEC.elements, "hist": replace(SPEC.elements["hist"], **changes)})  # type: ignore[arg-type]


def test_what_can_be_drawn_passes() -> None:
    validate(DASHBOARD, FACTS)
    validate(demo_dashboard())


@pytest.mark.parametrize(
    ("spec", "path", "said"),
    [
        (query(measures={"n": "cnt"}), "queries.total.measures.n", "not a measure"),
        (query(measures={"n": "sum(dealy)"}), "queries.total.measures.n", "`delay`"),
        (query(by=("statsu",)), "queries.total.by[0]", "`status`"),
        (query(where="status = late"), "queries.total.where", "single quotes"),
        (query(order="m desc"), "queries.total.order", "not known"),
        (query(bucket="1h"), "queries.total.fill", "required"),
        (query(clamp=(5.0, 1.0)), "queries.total.clamp", "lower first"),
        (element(kind="histgram"), "elements.hist.kind", "`histogram`"),
        (element(query="dely"), "elements.hist.query", "`delay`"),
        (element(x="dely"), "elements.hist.x", "`delay`"),
        (element(y=""), "elements.hist.y", "required"),
        (element(select=SelectSpec(interval="delay", selection="brsh")), "elements.hist.select.as", "`brush`"),
        (element(select=SelectSpec(selection="brush")), "elements.hist.select", "exactly one"),
        (element(forecast=ForecastSpec(3)), "elements.hist.forecast", "time"),
        (replace(SPEC, time=TimeSpec("flights", "at", "Mars/Olympus")), "time.zone", "IANA"),
        (replace(SPEC, rows=(RowSpec(90, ("kpy",)),)), "layout.rows[0].cells", "`kpi`"),
        (replace(SPEC, rows=(RowSpec(9, ("kpi",)),)), "layout.rows[0].h", "2,000"),
        (replace(SPEC, fields={"n": FieldSpec(good="sideways")}), "fields.n.good", "known here"),
        (replace(SPEC, elements={**SPEC.elements, "range": ElementSpec("freshness")}), "elements.range", "taken"),
    ],
)  # fmt: skip
def test_each_mistake_is_named(spec: DashboardSpec, path: str, said: str) -> None:
    with pytest.raises(FieldInvalid) as caught:
        validate(replace(DASHBOARD, spec=spec), FACTS)
    assert caught.value.field == f"dashboard.spec.{path}"
    assert said in caught.value.message


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(FieldInvalid) as caught:
        validate(broken(queries={"a": QuerySpec("t", measures={"n": "x"})}, rows=()), FACTS)
    assert len(caught.value.violations) > 3


def test_cells_share_what_is_left() -> None:
    assert cells_of(("a:8", "b"), 12) == [("a", 8), ("b", 4)]
    assert cells_of(("a", "b", "c", "d", "e"), 12) == [("a", 3), ("b", 3), ("c", 2), ("d", 2), ("e", 2)]
    for wrong in (("a:13",), ("a:8", "b:8"), ("a:x",)):
        with pytest.raises(ValueError, match=r"\w"):
            cells_of(wrong, 12)
