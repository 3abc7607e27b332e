"""The short forms of dashboard queries: parsed or refused, never pasted."""

from __future__ import annotations

import pytest

from svc_viz.domain import measures
from svc_viz.domain.measures import ShortForm
from svc_viz.ports import AllOf, Compare, Dimension, IsNull, Measure, OneOf


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("count", Measure("m", "count")),
        ("count(dep_delay)", Measure("m", "count", "dep_delay")),
        ("sum(distance)", Measure("m", "sum", "distance")),
        ("p90(dep_delay)", Measure("m", "quantile", "dep_delay", quantile=0.9)),
        ("p99.9( x )", Measure("m", "quantile", "x", quantile=0.9990000000000001)),
        ("share(status = 'late')", Measure("m", "share", where=Compare("status", "=", "late"))),
    ],
)
def test_measures(text: str, parsed: Measure) -> None:
    found = measures.measure("m", text)
    assert (found.aggregate, found.column, found.where) == (parsed.aggregate, parsed.column, parsed.where)
    assert found.quantile == pytest.approx(parsed.quantile)


@pytest.mark.parametrize(
    "text", ["", "cnt", "avg()", "sum(a + b)", "avg(x); drop table t", "share()", "p101(x)", "median(x)"]
)
def test_what_is_no_measure_is_refused(text: str) -> None:
    with pytest.raises(ShortForm):
        measures.measure("m", text)


def test_conditions() -> None:
    assert measures.condition("status = 'late' and dep_delay > 15") == AllOf(
        (Compare("status", "=", "late"), Compare("dep_delay", ">", 15))
    )
    assert measures.condition("carrier in ('UA', 'DL')") == OneOf("carrier", ("UA", "DL"))
    assert measures.condition("note = 'it''s'") == Compare("note", "=", "it's")
    assert measures.condition("a is not null AND b is null") == AllOf((IsNull("a", True), IsNull("b")))
    assert measures.condition("x != -1.5e3") == Compare("x", "<>", -1500.0)
    assert measures.condition("flag = true") == Compare("flag", "=", True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "status",
        "status = late",
        "status = 'late' or x = 1",
        "a = 1 and",
        "a in ()",
        "a ~ 1",
        "1 = 1; drop table t",
        "a = 'x",
        "a is 1",
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(ShortForm):
        measures.condition(text)


def test_groupings_buckets_ranges_orders() -> None:
    assert measures.grouping("hour(sched_dep)", "UTC") == Dimension(
        "hour", "part", "sched_dep", part="hour", zone="UTC"
    )
    assert measures.bucket("15m", "t", "UTC") == Dimension("time", "bucket", "t", unit="m", count=15, zone="UTC")
    assert (measures.range_s("last 72h"), measures.range_s("7d"), measures.range_s("all")) == (259_200, 604_800, 0)
    assert measures.order("n desc, carrier") == (("n", True), ("carrier", False))
    for wrong in ("last year", "0h", "72"):
        with pytest.raises(ShortForm):
            measures.range_s(wrong)
    with pytest.raises(ShortForm):
        measures.order("n downwards")


def test_numbers_take_the_kind_of_their_column() -> None:
    kinds = {"i": "int", "f": "float"}
    assert measures.coerced(Compare("f", ">", 15), kinds) == Compare("f", ">", 15.0)
    assert isinstance(measures.coerced(Compare("f", ">", 15), kinds).value, float)  # type: ignore[union-attr]
    assert measures.coerced(Compare("i", ">=", 39.5), kinds) == Compare("i", ">=", 40)
    assert measures.coerced(Compare("i", "<", 44.5), kinds) == Compare("i", "<", 45)
    assert measures.coerced(OneOf("i", (5.0, 6.0)), kinds) == OneOf("i", (5, 6))
