"""Runs planned from positions: nothing is left out, nothing is read twice, whatever died in between."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millrace.errors import Unexpected
from svc_transform.domain.plan import plan
from svc_transform.ports import Incrementality, InputRange, InputTable, Recipe

RECIPE = Recipe(
    name="namespaces/default/transforms/d", uid="u", generation=1, sql="SELECT 1", output="o", driving_table="f"
)
SAFE, AGGREGATE = Incrementality(True), Incrementality(False, "AGGREGATE", "count")
F5, A2 = InputTable("f", "1", 5), InputTable("a", "2", 2)
DONE = {"f@1": "5", "a@2": "2", "spec": RECIPE.fingerprint}


def test_the_first_run_reads_everything() -> None:
    first = plan(RECIPE, SAFE, [F5, A2], {}, 0)
    assert first.inputs == (InputRange("f", "1", 5), InputRange("a", "2", 2))
    assert (first.full_refresh, first.replaces_output, first.reason, first.position) == (True, False, "FIRST_RUN", DONE)


def test_new_rows_of_the_driving_table_alone_are_read() -> None:
    step = plan(RECIPE, SAFE, [replace(F5, version=9), replace(A2, version=3)], DONE, 40)
    assert step.inputs == (InputRange("f", "1", 9, after_version=5), InputRange("a", "2", 3))
    assert not step.full_refresh
    assert step.position == {"f@1": "9", "a@2": "3", "spec": RECIPE.fingerprint}


def test_nothing_new_is_an_empty_plan() -> None:
    assert plan(RECIPE, SAFE, [F5, replace(A2, version=8)], DONE, 40).empty
    assert plan(RECIPE, AGGREGATE, [F5, A2], DONE, 40).empty


@pytest.mark.parametrize(
    ("inputs", "judged", "recipe", "refresh", "reason"),
    [
        ([replace(F5, uid="9"), A2], SAFE, RECIPE, False, "TABLE_RECREATED"),
        ([F5, A2], SAFE, replace(RECIPE, sql="SELECT 2"), False, "SPEC_CHANGED"),
        ([F5, A2], SAFE, RECIPE, True, "REQUESTED"),
        ([F5, replace(A2, version=3)], AGGREGATE, RECIPE, False, "NOT_INCREMENTAL"),
    ],
)
def test_what_replaces_the_output(
    inputs: list[InputTable], judged: Incrementality, recipe: Recipe, refresh: bool, reason: str
) -> None:
    step = plan(recipe, judged, inputs, DONE, 40, refresh=refresh)
    assert (step.full_refresh, step.replaces_output, step.reason) == (True, True, reason)
    assert all(part.after_version is None for part in step.inputs)


def test_an_interrupted_run_goes_on_with_its_own_versions() -> None:
    step = plan(RECIPE, SAFE, [replace(F5, version=9), A2], DONE, 40)
    under_way = step.started(40, DONE)
    again = plan(RECIPE, SAFE, [replace(F5, version=12), replace(A2, version=4)], under_way, 47)
    assert again.inputs == (InputRange("f", "1", 9, after_version=5), InputRange("a", "2", 2))
    assert (again.skip, again.reason, again.position) == (7, "INTERRUPTED", step.position)


def test_an_interrupted_first_run_goes_on() -> None:
    under_way = plan(RECIPE, SAFE, [F5, A2], {}, 0).started(0, {})
    again = plan(RECIPE, SAFE, [replace(F5, version=6), A2], under_way, 3)
    assert (again.skip, again.replaces_output, again.inputs[0]) == (3, False, InputRange("f", "1", 5))


def test_an_interrupted_run_of_an_aggregate_goes_on() -> None:
    under_way = plan(RECIPE, AGGREGATE, [F5, A2], {}, 0).started(0, {})
    assert plan(RECIPE, AGGREGATE, [replace(F5, version=6), A2], under_way, 3).skip == 3


def test_an_offset_before_the_start_is_a_bug() -> None:
    under_way = plan(RECIPE, SAFE, [F5, A2], {}, 0).started(5, {})
    with pytest.raises(Unexpected):
        plan(RECIPE, SAFE, [F5, A2], under_way, 3)


def test_the_position_after_a_run_forgets_the_run() -> None:
    step = plan(RECIPE, SAFE, [replace(F5, version=9), A2], DONE, 40)
    assert not any(key.startswith("next:") or key == "offset" for key in step.position)
