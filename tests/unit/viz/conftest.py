"""A small dashboard and what answers it."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from svc_viz.adapters.memory.answers import MemoryAnswers
from svc_viz.ports import (
    Dashboard,
    DashboardSpec,
    ElementSpec,
    FieldSpec,
    ParamSpec,
    QuerySpec,
    RowSpec,
    SelectSpec,
    TableFacts,
    Threshold,
    TimeSpec,
)

TABLE = "namespaces/default/tables/flights"
SELECT = SelectSpec(interval="delay", selection="brush")
SPEC = DashboardSpec(
    title="Flights",
    time=TimeSpec("flights", "at", "America/New_York", "last 24h"),
    params={"origin": ParamSpec("select", "origin", multiple=True)},
    selections={"brush": "crossfilter"},
    queries={
        "hourly": QuerySpec("flights", bucket="1h", by=("status",), measures={"n": "count"}, fill="zero"),
        "delay": QuerySpec("flights", bins={"delay": 5.0}, clamp=(-20.0, 60.0), measures={"n": "count"}, fill="gap"),
        "hours": QuerySpec("flights", by=("hour",), measures={"n": "count"}),
        "total": QuerySpec("flights", measures={"n": "count", "late": "share(status = 'late')"}),
        "all": QuerySpec("flights", measures={"n": "count"}, range="all", unfiltered=True),
    },
    fields={
        "delay": FieldSpec("Delay", "min", "0", thresholds=(Threshold(15, "warn"),)),
        "hour": FieldSpec("Hour", "h"),
        "late": FieldSpec("Late", "", "0.0%", "down"),
        "status": FieldSpec(colors={"on_time": "ok", "late": "warn"}, labels={"on_time": "On time"}),
    },
    elements={
        "ts": ElementSpec("bar", "Per hour", query="hourly", x="time", y="n", stack="status"),
        "hist": ElementSpec("histogram", "Delay", query="delay", x="delay", y="n", select=SELECT),
        "hour": ElementSpec(
            "bar", "Hour", query="hours", x="hour", y="n", select=SelectSpec(interval="hour", selection="brush")
        ),
        "kpi": ElementSpec("kpi", "Flights", query="total", value="n", compare=("previous_period",), sparkline="2h"),
        "every": ElementSpec("kpi", "All", query="all", value="n"),
    },
    rows=(RowSpec(92, ("kpi", "every")), RowSpec(200, ("ts:8", "hist:2", "hour:2"))),
)
DASHBOARD = Dashboard("namespaces/default/dashboards/flights", SPEC)
KINDS = {"at": "timestamp", "origin": "string", "status": "string", "delay": "float", "hour": "int"}
FACTS = {TABLE: TableFacts(columns=KINDS)}


def flights(rows: list[tuple[datetime, str, str, float | None, int]]) -> pa.Table:
    schema = pa.schema(
        [
            ("at", pa.timestamp("us", "UTC")),
            ("origin", pa.string()),
            ("status", pa.string()),
            ("delay", pa.float64()),
            ("hour", pa.int32()),
        ]
    )
    return pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema)


ROWS = flights(
    [
        (datetime(2013, 7, 1, 12, minute, tzinfo=UTC), origin, "late" if delay > 15 else "on_time", float(delay), 8)
        for minute, origin, delay in [(0, "EWR", -3), (10, "JFK", 4), (20, "EWR", 40), (30, "LGA", 75), (40, "EWR", 12)]
    ]
    + [(datetime(2013, 7, 1, 14, 0, tzinfo=UTC), "JFK", "cancelled", None, 10)]
)


@pytest.fixture
def answers() -> MemoryAnswers:
    return MemoryAnswers({TABLE: ROWS}, {TABLE: "at"})
