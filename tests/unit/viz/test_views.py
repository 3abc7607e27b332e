"""Answers as charts, cards, tables and CSV: nulls are gaps, cut buckets go, texts agree."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from svc_viz.adapters.memory.answers import MemoryAnswers
from svc_viz.domain import cards, charts
from svc_viz.domain.compiling import Compiler
from svc_viz.domain.drawings import Drawing
from svc_viz.domain.numbers import nice_ceiling, number_text, signed_text, state_of
from svc_viz.domain.results import csv_bytes, trimmed
from svc_viz.domain.state import PageState
from svc_viz.ports import Answer, FieldSpec, Threshold
from tests.unit.viz.conftest import DASHBOARD, FACTS, SPEC


async def answered(answers: MemoryAnswers, element: str) -> Answer:
    question = Compiler(DASHBOARD, PageState(), FACTS).question(element)
    return trimmed(await answers.query(question), question)


async def test_a_stacked_chart(answers: MemoryAnswers) -> None:
    drawn = charts.plot(Drawing.of(SPEC, "ts", "America/New_York"), (await answered(answers, "ts")).rows)
    assert [one.label for one in drawn.series] == ["On time", "late", "cancelled"]
    at = drawn.titles.index("Mon 01 Jul 08:00")
    assert [float(one[at]) for one in drawn.tops] == [3, 5, 5]
    assert drawn.right[0] - drawn.left[0] == 3_600_000
    assert drawn.texts[at + 1] == ("0", "0", "0"), "an hour without flights is 0 by fill: zero"
    assert len(drawn.left) == 25, "the whole range, also where its ends have no rows"
    assert "highest 5 at Mon 01 Jul 08:00" in drawn.summary
    table = charts.twin(Drawing.of(SPEC, "ts", "America/New_York"), drawn)
    assert len(table["rows"]) == len(drawn.left)


async def test_lines_are_not_stacked(answers: MemoryAnswers) -> None:
    drawing = Drawing.of(SPEC, "ts", "America/New_York")
    drawing = replace(drawing, spec=replace(drawing.spec, kind="line"))
    rows = (await answered(answers, "ts")).rows
    drawn = charts.plot(drawing, rows, base=rows)
    at = drawn.titles.index("Mon 01 Jul 08:00")
    assert [float(one[at]) for one in drawn.tops] == [3, 2, 0], "each is read off the axis: office 22 °C is not 57 °C"
    assert not len(drawn.base), "no silhouette of sums behind lines"
    assert drawn.summary.endswith("highest 3 at Mon 01 Jul 08:00."), drawn.summary


async def test_a_histogram_is_coloured_by_threshold_and_leaves_gaps(answers: MemoryAnswers) -> None:
    rows = (await answered(answers, "hist")).rows
    drawing = Drawing.of(SPEC, "hist", "UTC")
    drawn = charts.plot(drawing, rows)
    assert [one.label for one in drawn.series] == ["< 15 min", "≥ 15 min"]
    assert drawn.titles[-1] == "60 and more min"
    assert math.isnan(drawn.tops[0][-1])
    assert float(drawn.tops[1][-1]) == 1, "75 minutes are in the open bin"
    assert any(
        math.isnan(float(drawn.tops[1][i])) and math.isnan(float(drawn.tops[0][i])) for i in range(len(drawn.left))
    ), "gap, not 0"
    assert None not in rows["delay"].to_pylist(), "a cancelled flight has no delay, so it lies in no bin"
    assert csv_bytes(rows, "UTC").decode().count("\r\n") == rows.num_rows + 1


def test_the_cut_first_bucket_is_left_out() -> None:
    question = Compiler(DASHBOARD, PageState(range="last 3h"), FACTS).question("ts")
    times = [datetime(2013, 7, 1, hour, tzinfo=UTC) for hour in range(8, 13)]
    answer = Answer(
        pa.table({"time": pa.array(times, pa.timestamp("us", "UTC"))}),
        event_time_high=datetime(2013, 7, 1, 12, 30, tzinfo=UTC),
    )
    assert [one.hour for one in trimmed(answer, question).rows["time"].to_pylist()] == [10, 11, 12]


async def test_a_kpi_compares_by_the_declared_direction(answers: MemoryAnswers) -> None:
    element = SPEC.elements["kpi"]
    drawn = cards.kpi(SPEC, element, await answered(answers, "kpi"), None, None, "UTC")
    assert (drawn["value"], drawn["unit"]) == ("6", "")
    falls = cards.delta_view(0.2, 0.3, SPEC.fields["late"])
    assert falls == {"text": "−10.0 pt", "way": "down", "tone": "good"}
    assert cards.delta_view(1, math.nan, FieldSpec()) is None


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (1234567, "0,0", "1,234,567"),
        (0.4742, "0.0%", "47.4"),
        (-2.6, "0", "−3"),
        (-0.2, "0", "0"),
        (None, "0", "–"),
        (math.nan, "", "–"),
        (12.25, "", "12.2"),
    ],
)
def test_numbers(value: float | None, form: str, text: str) -> None:
    assert number_text(value, form) == text


def test_signs_states_and_ceilings() -> None:
    assert signed_text(93, FieldSpec(format="0")) == "+93"
    assert signed_text(0.0001, FieldSpec(format="0.0%")) == "±0.0 pt"
    spec = FieldSpec(thresholds=(Threshold(0, "bad"), Threshold(0.5, "warn"), Threshold(0.7, "ok")))
    assert [state_of(value, spec) for value in (-1, 0.1, 0.6, 0.9, None)] == ["", "bad", "warn", "ok", ""]
    assert [nice_ceiling(value) for value in (0, 0.9, 83, 1040, 67000)] == [1, 1, 100, 1500, 80000]


def test_csv_is_rfc_4180_exact_and_harmless_in_a_spreadsheet() -> None:
    rows = pa.table(
        {
            "time": pa.array(
                [datetime(2013, 11, 3, 5, tzinfo=UTC), datetime(2013, 11, 3, 6, tzinfo=UTC)], pa.timestamp("us", "UTC")
            ),
            "text": ['a,"b"\nc', "=1+1"],
            "n": [0.1, None],
        }
    )
    data = csv_bytes(rows, "America/New_York").decode()
    assert data.endswith("\r\n")
    assert list(csv.reader(io.StringIO(data))) == [
        ["time", "text", "n"],
        ["2013-11-03T01:00:00-04:00", 'a,"b"\nc', "0.1"],
        ["2013-11-03T01:00:00-05:00", "'=1+1", ""],
    ]


def test_events_stand_on_the_time_axis() -> None:
    at = pa.array(
        [datetime(2013, 7, 1, 12, 5, tzinfo=UTC), datetime(2012, 1, 1, tzinfo=UTC), None], pa.timestamp("us", "UTC")
    )
    notes = charts.notes_of([pa.table({"time": at, "label": ["storm", "long ago", "never"]})], "America/New_York")
    hours = pa.table({"time": at.slice(0, 1), "status": ["late"], "n": [3]})
    drawn = charts.plot(Drawing.of(SPEC, "ts", "America/New_York"), hours, notes=notes)
    assert [note.text for note in drawn.notes] == ["Mon 01 Jul 08:05 storm"]


def test_long_ranges_get_longer_buckets() -> None:
    assert Compiler(DASHBOARD, PageState(range="last 30d"), FACTS).bucket("ts") == "3h"
    asked = Compiler(DASHBOARD, PageState(range="all"), FACTS)
    assert asked.bucket("ts") == "1d"
    assert asked.question("ts").dimensions[0].unit == "d"
    assert Drawing.of(SPEC, "ts", "UTC", "6h").per == "per 6 hours"
