"""A dashboard in a state becomes questions: own selections left out, open ends open, state in the address."""

from __future__ import annotations

import pytest

from svc_viz.domain.compiling import Compiler
from svc_viz.domain.state import Interval, PageState, Points, decode, encode
from svc_viz.ports import AllOf, Compare, OneOf
from tests.unit.viz.conftest import DASHBOARD, FACTS, SPEC


def compiler(state: PageState) -> Compiler:
    return Compiler(DASHBOARD, state, FACTS)


def test_a_charts_own_selection_is_left_out_and_every_other_applies() -> None:
    state = (
        PageState().with_pick("hist", Interval(0, 20)).with_pick("hour", Interval(8, 10)).with_param("origin", ("EWR",))
    )
    origin, hour = OneOf("origin", ("EWR",)), (Compare("hour", ">=", 8), Compare("hour", "<", 10))
    delay = (Compare("delay", ">=", 0.0), Compare("delay", "<", 20.0))
    assert compiler(state).question("hist").where == AllOf((origin, *hour))
    assert compiler(state).question("hour").where == AllOf((origin, *delay))
    assert compiler(state).question("ts").where == AllOf((origin, *delay, *hour))
    assert compiler(state).question("hist", base=True).where is None
    assert compiler(state).question("every").where is None


def test_outer_bins_are_open() -> None:
    """Values beyond the clamp are in the outer bins, so a brush over them takes all of them."""
    low = compiler(PageState().with_pick("hist", Interval(-20, 0))).question("ts").where
    high = compiler(PageState().with_pick("hist", Interval(40, 65))).question("ts").where
    assert low == Compare("delay", "<", 0.0)
    assert high == Compare("delay", ">=", 40.0)


def test_ranges_and_comparisons() -> None:
    asked = compiler(PageState())
    assert asked.question("kpi").last_s == 86_400
    assert asked.before("kpi").previous
    assert asked.spark("kpi").last_s == 3 * 86_400 + 0
    assert asked.question("ts").last_s == 86_400 + 3600, "one bucket more: the first is cut and left out"
    assert asked.question("every").last_s == 0
    assert compiler(PageState(range="all")).question("kpi").last_s == 0


@pytest.mark.parametrize(
    "state",
    [
        PageState(),
        PageState(range="last 7d", zone="UTC", theme="dark"),
        PageState().with_param("origin", ("EWR", "J&K=ü")).with_pick("hist", Interval(-2.5, 40)),
        PageState().with_pick("hour", Points(("8", "10"))),
    ],
)
def test_the_address_carries_the_whole_state(state: PageState) -> None:
    assert decode(encode(state), SPEC) == (state, ())


@pytest.mark.parametrize(
    "text",
    [
        "nothing=1",
        "hist=a..b",
        "hist=5..5",
        "hist=inf..nan",
        "zone=Mars/Olympus",
        "range=yesterday",
        "theme=pink",
        "ts=1..2",
    ],
)
def test_what_means_nothing_in_an_address_is_told_and_harms_nothing(text: str) -> None:
    state, problems = decode(text + "&origin=EWR", SPEC)
    assert len(problems) == 1
    assert state == PageState().with_param("origin", ("EWR",))
