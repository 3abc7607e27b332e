"""Typed questions as SQL, run by DuckDB: zones, fills, bins and edges, compared with Python's own calendar and arithmetic."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.engine.faults import translate
from millrace.errors import FieldInvalid, FieldRequired, ResultTooLarge
from svc_analysis.adapters.compile.queries import compile_spec, edges_of
from svc_analysis.domain.resolve import resolve
from svc_analysis.ports import (
    Aggregate,
    AllOf,
    AnyOf,
    Bins,
    Column,
    Compare,
    Dimension,
    Fill,
    IsNull,
    Measure,
    Not,
    OneOf,
    Op,
    OrderKey,
    Part,
    Spec,
    TimeBucket,
    TimePart,
    TimeRange,
    Unit,
)

UTC = dt.UTC
N = Measure("n", Aggregate.COUNT)
SCHEMA = pa.schema(
    [
        pa.field("ts", pa.timestamp("us", "UTC")),
        pa.field("kind", pa.string()),
        pa.field("x", pa.float64()),
        pa.field("i", pa.int64()),
        pa.field("d", pa.decimal128(10, 2)),
        pa.field("day", pa.date32()),
        pa.field("b", pa.bool_()),
        pa.field("l", pa.list_(pa.int64())),
        pa.field("raw", pa.binary()),
    ]
)


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    yield connection
    connection.close()


def table(**columns: Any) -> pa.Table:
    count = len(next(iter(columns.values())))
    return pa.table({f.name: pa.array(columns.get(f.name, [None] * count), f.type) for f in SCHEMA}, schema=SCHEMA)


def run(
    con: duckdb.DuckDBPyConnection, rows: pa.Table, spec: Spec, *, high: int | None = None, total: bool = False
) -> list[Any]:
    resolved = resolve(spec, SCHEMA, "ts", high)
    con.register("t", rows)
    try:
        sql = compile_spec(resolved, "", "t", total_order=total)
        edges = edges_of(resolved, sql)
        found = (con.sql(sql, params=edges) if edges else con.sql(sql)).to_arrow_table()
    except Exception as error:
        raise translate(error) from error
    assert found.schema.names == list(resolved.names)
    return found.to_pylist()


def instants(*texts: str) -> list[dt.datetime]:
    return [dt.datetime.fromisoformat(text).astimezone(UTC) for text in texts]


def by_bucket(unit: Unit, zone: str = "", count: int = 1, **fields: Any) -> Spec:
    dimension = Dimension("b", TimeBucket("", unit, count, zone))
    fields.setdefault("measures", (N,))
    fields.setdefault("fill", Fill.ZERO)
    return Spec("t", (dimension, *fields.pop("also", ())), **fields)


def counts(found: list[Any]) -> dict[str, int]:
    return {row["b"].astimezone(UTC).strftime("%m-%dT%H:%M"): row["n"] for row in found}


# -- zones ---------------------------------------------------------------------------------------------------------------------
def test_days_of_new_york_have_23_and_25_hours(con: duckdb.DuckDBPyConnection) -> None:
    def hourly(day: str) -> pa.Table:
        start = dt.datetime.fromisoformat(day).replace(tzinfo=UTC)
        return table(ts=[start + dt.timedelta(hours=i) for i in range(72)])

    spring = counts(run(con, hourly("2024-03-09"), by_bucket(Unit.DAY, "America/New_York")))
    assert spring == {"03-08T05:00": 5, "03-09T05:00": 24, "03-10T05:00": 23, "03-11T04:00": 20}
    autumn = counts(run(con, hourly("2024-11-02"), by_bucket(Unit.DAY, "America/New_York")))
    assert autumn == {"11-01T04:00": 4, "11-02T04:00": 24, "11-03T04:00": 25, "11-04T05:00": 19}


def test_a_doubled_local_hour_is_two_buckets(con: duckdb.DuckDBPyConnection) -> None:
    rows = table(ts=instants("2024-11-03T05:30+00:00", "2024-11-03T06:30+00:00"))
    assert counts(run(con, rows, by_bucket(Unit.HOUR, "America/New_York"))) == {"11-03T05:00": 1, "11-03T06:00": 1}


def test_several_hours_count_from_each_local_midnight(con: duckdb.DuckDBPyConnection) -> None:
    start = dt.datetime(2024, 3, 9, 5, tzinfo=UTC)
    rows = table(ts=[start + dt.timedelta(hours=i) for i in range(71)])
    found = counts(run(con, rows, by_bucket(Unit.HOUR, "America/New_York", 6)))
    assert found == {
        "03-09T05:00": 6, "03-09T11:00": 6, "03-09T17:00": 6, "03-09T23:00": 6,
        "03-10T05:00": 6, "03-10T11:00": 6, "03-10T17:00": 6, "03-10T23:00": 5,
        "03-11T04:00": 6, "03-11T10:00": 6, "03-11T16:00": 6, "03-11T22:00": 6,
    }  # fmt: skip


def test_hours_of_a_zone_with_half_an_hour(con: duckdb.DuckDBPyConnection) -> None:
    rows = table(ts=instants("2024-01-01T10:40+05:30", "2024-01-01T12:10+05:30"))
    assert list(counts(run(con, rows, by_bucket(Unit.HOUR, "Asia/Kolkata")))) == [
        "01-01T04:30",
        "01-01T05:30",
        "01-01T06:30",
    ]


def test_a_midnight_that_occurs_twice_begins_with_the_first(con: duckdb.DuckDBPyConnection) -> None:
    rows = table(ts=instants("2023-11-05T04:30+00:00", "2023-11-05T05:30+00:00", "2023-11-06T06:00+00:00"))
    assert counts(run(con, rows, by_bucket(Unit.DAY, "America/Havana"))) == {"11-05T04:00": 2, "11-06T05:00": 1}


def test_a_midnight_that_does_not_exist(con: duckdb.DuckDBPyConnection) -> None:
    rows = table(ts=instants("2018-11-03T12:00-03:00", "2018-11-04T12:00-02:00"))
    assert counts(run(con, rows, by_bucket(Unit.DAY, "America/Sao_Paulo"))) == {"11-03T03:00": 1, "11-04T03:00": 1}


def test_weeks_begin_on_monday_and_months_are_calendars(con: duckdb.DuckDBPyConnection) -> None:
    rows = table(ts=instants("2024-03-31T12:00+00:00", "2024-04-01T12:00+00:00", "2024-05-02T00:00+00:00"))
    assert list(counts(run(con, rows, by_bucket(Unit.WEEK)))) == [
        "03-25T00:00",
        *(f"04-{d:02}T00:00" for d in (1, 8, 15, 22, 29)),
    ]
    assert counts(run(con, rows, by_bucket(Unit.MONTH, "Europe/Berlin"))) == {
        "02-29T23:00": 1,
        "03-31T22:00": 1,
        "04-30T22:00": 1,
    }
    assert list(counts(run(con, rows, by_bucket(Unit.YEAR)))) == ["01-01T00:00"]


def test_times_before_1970(con: duckdb.DuckDBPyConnection) -> None:
    rows = table(ts=instants("1969-12-31T23:59:59+00:00", "1970-01-01T00:00:00+00:00"))
    assert counts(run(con, rows, by_bucket(Unit.HOUR))) == {"12-31T23:00": 1, "01-01T00:00": 1}
    assert counts(run(con, rows, by_bucket(Unit.DAY))) == {"12-31T00:00": 1, "01-01T00:00": 1}


ZONES = [
    "UTC",
    "America/New_York",
    "Europe/London",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Pacific/Apia",
]


@settings(max_examples=40)
@given(
    st.lists(st.datetimes(dt.datetime(1975, 1, 1), dt.datetime(2035, 1, 1)), min_size=1, max_size=20),
    st.sampled_from(ZONES),
)
def test_days_are_pythons_days(moments: list[dt.datetime], zone: str) -> None:
    """Against zoneinfo: every row falls into the bucket of its local date, and no row is lost."""
    base = moments[0]
    moments = [base + (m - base) / 4000 for m in moments]  # close together, or the filled axis gets long
    rows = table(ts=[m.replace(tzinfo=UTC) for m in moments])
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = run(connection, rows, by_bucket(Unit.DAY, zone))
    local = Counter(m.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).date() for m in moments)
    assert {row["b"].astimezone(ZoneInfo(zone)).date(): row["n"] for row in found if row["n"]} == dict(local)
    assert [row["b"] for row in found] == sorted({row["b"] for row in found})


def test_parts_of_local_time(con: duckdb.DuckDBPyConnection) -> None:
    rows = table(ts=instants("2024-03-10T06:59+00:00", "2024-03-10T07:01+00:00", "2024-03-11T03:30+00:00"))

    def part(part: Part, zone: str = "") -> list[Any]:
        spec = Spec("t", (Dimension("p", TimePart("", part, zone)),), (N,))
        return [row["p"] for row in run(con, rows, spec)]

    assert part(Part.HOUR_OF_DAY) == [3, 6, 7]
    assert part(Part.HOUR_OF_DAY, "America/New_York") == [1, 3, 23]
    assert part(Part.DAY_OF_WEEK, "America/New_York") == [7]
    assert part(Part.DAY_OF_WEEK) == [1, 7]
    assert part(Part.DAY_OF_MONTH) == [10, 11]
    assert part(Part.MONTH) == [3]
    assert part(Part.MINUTE) == [1, 30, 59]


# -- fill ------------------------------------------------------------------------------------------------------------------------
HOLE = instants("2024-01-01T00:10+00:00", "2024-01-01T03:10+00:00")
MAX = Measure("m", Aggregate.MAX, "i")


@pytest.mark.parametrize(("fill", "middle"), [(Fill.ZERO, (0, 0)), (Fill.GAP, (None, None)), (Fill.LAST, (1, 5))])
def test_an_empty_bucket_is_filled_as_asked(
    con: duckdb.DuckDBPyConnection, fill: Fill, middle: tuple[Any, Any]
) -> None:
    found = run(con, table(ts=HOLE, i=[5, 7]), by_bucket(Unit.HOUR, measures=(N, MAX), fill=fill))
    assert [(row["n"], row["m"]) for row in found] == [(1, 5), middle, middle, (1, 7)]


def test_a_null_that_was_computed_is_not_filled(con: duckdb.DuckDBPyConnection) -> None:
    rows = table(ts=[HOLE[0], HOLE[0] + dt.timedelta(hours=1), HOLE[1]], i=[5, None, 7])
    zero = run(con, rows, by_bucket(Unit.HOUR, measures=(MAX,), fill=Fill.ZERO))
    assert [row["m"] for row in zero] == [5, None, 0, 7]
    last = run(con, rows, by_bucket(Unit.HOUR, measures=(MAX,), fill=Fill.LAST))
    assert [row["m"] for row in last] == [5, None, None, 7], "the predecessor's value, and that is NULL"


def test_each_group_gets_the_whole_axis(con: duckdb.DuckDBPyConnection) -> None:
    spec = by_bucket(Unit.HOUR, also=(Dimension("", Column("kind")),), fill=Fill.LAST)
    found = run(con, table(ts=HOLE, kind=["a", None]), spec)
    assert [(row["b"].hour, row["kind"], row["n"]) for row in found] == [
        (0, "a", 1), (0, None, None), (1, "a", 1), (1, None, None), (2, "a", 1), (2, None, None), (3, "a", 1), (3, None, 1),
    ]  # fmt: skip


def test_the_asked_range_decides_the_axis(con: duckdb.DuckDBPyConnection) -> None:
    us = [int(dt.datetime(2024, 1, 1, h, tzinfo=UTC).timestamp() * 1e6) for h in (0, 5)]
    spec = by_bucket(Unit.HOUR, time_range=TimeRange(*us))
    assert len(run(con, table(ts=HOLE), spec)) == 5
    assert len(run(con, table(ts=[]), spec)) == 5, "also without any row"
    assert run(con, table(ts=[]), by_bucket(Unit.HOUR)) == []


def test_two_axes_make_a_grid(con: duckdb.DuckDBPyConnection) -> None:
    spec = by_bucket(Unit.HOUR, also=(Dimension("x", Bins("x", 10.0, 0.0, 30.0)),), fill=Fill.GAP)
    found = run(con, table(ts=HOLE, x=[1.0, 99.0]), spec)
    assert len(found) == 4 * 4
    assert [(r["b"].hour, r["x"]) for r in found if r["n"]] == [(0, 0.0), (3, 30.0)]


def test_an_endless_axis_is_refused(con: duckdb.DuckDBPyConnection) -> None:
    far = table(ts=instants("1990-01-01T00:00+00:00", "2024-01-01T00:00+00:00"))
    with pytest.raises(ResultTooLarge):
        run(con, far, by_bucket(Unit.SECOND))
    with pytest.raises(ResultTooLarge):
        run(con, table(x=[0.0, 1e9]), Spec("t", (Dimension("b", Bins("x", 1e-3)),), (N,), fill=Fill.GAP))


def test_null_times_lie_in_no_bucket(con: duckdb.DuckDBPyConnection) -> None:
    assert sum(counts(run(con, table(ts=[*HOLE, None]), by_bucket(Unit.HOUR))).values()) == 2


# -- bins ------------------------------------------------------------------------------------------------------------------------
def bins(
    con: duckdb.DuckDBPyConnection,
    values: list[Any],
    width: float,
    low: float | None = None,
    high: float | None = None,
    column: str = "x",
) -> dict[float, int]:
    spec = Spec("t", (Dimension("b", Bins(column, width, low, high)),), (N,), fill=Fill.ZERO)
    return {row["b"]: row["n"] for row in run(con, table(**{column: values}), spec)}


def test_bins_are_half_open_and_named_by_their_lower_edge(con: duckdb.DuckDBPyConnection) -> None:
    assert bins(con, [-0.1, 0.0, 4.9, 5.0], 5) == {-5.0: 1, 0.0: 2, 5.0: 1}
    assert bins(con, [0, 4, 5, -1], 5, column="i") == {-5.0: 1, 0.0: 2, 5.0: 1}


def test_an_edge_belongs_to_the_bin_that_begins_there(con: duckdb.DuckDBPyConnection) -> None:
    edges = [0.1, 0.2, 0.3, 0.6, 0.7, 1.1]
    found = bins(con, edges, 0.1)
    assert {edge: n for edge, n in found.items() if n} == dict.fromkeys(edges, 1)
    assert list(found)[:4] == [0.1, 0.2, 0.3, 0.4], "labels have no rounding dust"


def test_clamps_take_what_lies_outside(con: duckdb.DuckDBPyConnection) -> None:
    found = bins(con, [-1e9, -20.0, 0.0, 180.0, 1e9, math.inf, -math.inf, math.nan, None], 5, -20, 180)
    assert (found[-20.0], found[0.0], found[180.0], len(found)) == (3, 1, 3, 41)
    assert bins(con, [1.0, 7.0], 5, low=3.0) == {3.0: 2}
    assert bins(con, [1.0, 7.9, 8.0], 5, low=-2.0, high=7.5) == {-2.0: 1, 3.0: 0, 7.5: 2}


def test_bins_of_decimals(con: duckdb.DuckDBPyConnection) -> None:
    assert bins(con, [Decimal("0.30"), Decimal("0.29")], 0.1, column="d") == {0.2: 1, 0.3: 1}


@settings(max_examples=40)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.sampled_from([0.1, 0.25, 1.0, 7.0, 1000.0]))
def test_every_number_lies_in_its_bin(values: list[float], width: float) -> None:
    values = [v / (1e6 / width) if abs(v) > 5e5 * width else v for v in values]
    with duckdb.connect() as connection:
        resolved = resolve(
            Spec("t", (Dimension("", Column("x")), Dimension("b", Bins("x", width)))), SCHEMA, "ts", None
        )
        connection.register("t", table(x=values))
        found = connection.sql(compile_spec(resolved, "", "t", total_order=False)).to_arrow_table().to_pylist()
    assert all(row["b"] <= row["x"] < row["b"] + width * (1 + 1e-9) for row in found)


# -- measures, conditions, order ----------------------------------------------------------------------------------------------------
def test_measures(con: duckdb.DuckDBPyConnection) -> None:
    measures = (
        N,
        Measure("c", Aggregate.COUNT, "i"),
        Measure("cd", Aggregate.COUNT_DISTINCT, "kind"),
        Measure("s", Aggregate.SUM, "i"),
        Measure("a", Aggregate.AVG, "i"),
        Measure("lo", Aggregate.MIN, "kind"),
        Measure("q", Aggregate.QUANTILE, "i", quantile=0.5),
        Measure("sd", Aggregate.STDDEV, "i"),
        Measure("sh", Aggregate.SHARE, where=Compare("i", Op.GT, 1)),
        Measure("w", Aggregate.SUM, "i", Compare("kind", Op.EQ, "b")),
        Measure("sx", Aggregate.SUM, "d"),
    )
    rows = table(i=[1, 2, 4, None], kind=["a", "b", "b", "c"], d=[Decimal("1.10")] * 4)
    (found,) = run(con, rows, Spec("t", (), measures))
    assert found["sd"] == pytest.approx(1.5275252316519465)
    assert {k: v for k, v in found.items() if k != "sd"} == {
        "n": 4, "c": 3, "cd": 3, "s": 7, "a": 7 / 3, "lo": "a", "q": 2.0, "sh": 0.5, "w": 6, "sx": Decimal("4.40"),
    }  # fmt: skip
    (empty,) = run(con, table(i=[]), Spec("t", (), measures))
    assert [empty[name] for name in ("n", "c", "cd")] == [0, 0, 0]
    assert {empty[name] for name in ("s", "a", "lo", "q", "sd", "sh", "w", "sx")} == {None}


def test_conditions_are_sqls(con: duckdb.DuckDBPyConnection) -> None:
    rows = table(
        i=[1, 2, None], kind=["a", "x' or '1'='1", None], d=[Decimal("1.10"), None, None],
        day=[dt.date(2024, 2, 29), None, None], b=[True, False, None], x=[math.nan, 1.5, None],
        raw=[b"\x00'", b"", None], ts=[*instants("2024-01-01T00:00:00.000001+00:00"), None, None],
    )  # fmt: skip

    def ids(condition: Any) -> list[Any]:
        return [row["i"] for row in run(con, rows, Spec("t", (Dimension("", Column("i")),), where=condition))]

    assert ids(Compare("kind", Op.EQ, "x' or '1'='1")) == [2]
    assert ids(Not(Compare("i", Op.EQ, 1))) == [2], "NULL is unknown, and so is its negation"
    assert ids(IsNull("i")) == [None]
    assert ids(OneOf("i", (1, 7))) == [1]
    assert ids(AllOf(())) == [1, 2, None]
    assert ids(AnyOf(())) == []
    assert ids(AnyOf((Compare("i", Op.LT, 2), Compare("b", Op.EQ, False)))) == [1, 2]
    assert ids(Compare("d", Op.EQ, Decimal("1.1"))) == [1]
    assert ids(Compare("day", Op.LE, dt.date(2024, 2, 29))) == [1]
    assert ids(Compare("raw", Op.EQ, b"\x00'")) == [1]
    assert ids(Compare("x", Op.EQ, 1.5)) == [2]
    assert ids(Compare("ts", Op.GT, dt.datetime(2024, 1, 1, tzinfo=UTC))) == [1]
    assert ids(Compare("i", Op.GE, 10**30)) == []


def test_order_and_limit(con: duckdb.DuckDBPyConnection) -> None:
    rows = table(kind=["a", "b", "b", "c", None], i=[1, 2, 3, 4, 5])
    spec = Spec("t", (Dimension("", Column("kind")),), (N,), order=(OrderKey("n", True),), limit=3)
    assert [row["kind"] for row in run(con, rows, spec)] == ["b", "a", "c"], "ties by the dimensions"
    by_kind = Spec("t", (Dimension("", Column("kind")),), order=(OrderKey("kind", True),))
    assert [row["kind"] for row in run(con, rows, by_kind)] == ["c", "b", "b", "a", None], "NULL last either way"
    named = Spec(
        "t", (Dimension("i", Column("kind")),), (Measure("kind", Aggregate.MAX, "i"),), order=(OrderKey("kind", True),)
    )
    assert [row["kind"] for row in run(con, rows, named)] == [5, 4, 3, 1], "names mean the result's columns"


def test_the_newest_part_and_the_one_before(con: duckdb.DuckDBPyConnection) -> None:
    start = dt.datetime(2024, 1, 1, tzinfo=UTC)
    rows = table(ts=[start + dt.timedelta(minutes=i) for i in range(120)])
    high = int((start + dt.timedelta(minutes=119)).timestamp() * 1e6)

    def n(**fields: Any) -> int:
        return int(run(con, rows, Spec("t", (), (N,), **fields), high=high)[0]["n"])

    assert n(last_seconds=600) == 10, "the newest row counts, the one exactly that far before does not"
    assert n(last_seconds=600, previous_period=True) == 10
    assert n(last_seconds=1e9) == 120
    assert run(con, table(ts=[]), Spec("t", (), (N,), last_seconds=600))[0]["n"] == 0
    hours = run(con, rows, by_bucket(Unit.HOUR, last_seconds=5400), high=high)
    assert [row["n"] for row in hours] == [30, 60]


def test_drill_leaves_out_storages_columns() -> None:
    schema = SCHEMA.append(pa.field("_ingested_at", pa.timestamp("us", "UTC")))
    assert "_ingested_at" not in resolve(Spec("t"), schema, "ts", None).names
    assert resolve(Spec("t", (Dimension("", Column("_ingested_at")),)), schema, "ts", None).names == ("_ingested_at",)


BUCKET = Dimension("b", TimeBucket("", Unit.HOUR))


@pytest.mark.parametrize(
    ("spec", "kind", "field"),
    [
        (Spec("t", (BUCKET,), (N,)), FieldRequired, "spec.fill"),
        (Spec("t", (Dimension("", TimeBucket("i", Unit.HOUR)),)), FieldInvalid, "spec.dimensions[0].bucket.column"),
        (
            Spec("t", (Dimension("", TimeBucket("", Unit.HOUR, zone="Mars/X")),)),
            FieldInvalid,
            "spec.dimensions[0].bucket.zone",
        ),
        (Spec("t", (Dimension("", TimeBucket("", Unit.HOUR, -1)),)), FieldInvalid, "spec.dimensions[0].bucket.count"),
        (Spec("t", (Dimension("", Bins("kind", 1.0)),)), FieldInvalid, "spec.dimensions[0].bin.column"),
        (Spec("t", (Dimension("", Bins("x", math.nan)),)), FieldInvalid, "spec.dimensions[0].bin.width"),
        (Spec("t", (Dimension("", Bins("x", 1.0, 5.0, 5.0)),)), FieldInvalid, "spec.dimensions[0].bin.clamp_high"),
        (Spec("t", (Dimension("Bad name", Column("x")),)), FieldInvalid, "spec.dimensions[0].name"),
        (Spec("t", (Dimension("", Column("x")), Dimension("x", Column("i")))), FieldInvalid, "spec"),
        (Spec("t", (), (Measure("m", Aggregate.SUM),)), FieldRequired, "spec.measures[0].column"),
        (Spec("t", (), (Measure("m", Aggregate.SUM, "kind"),)), FieldInvalid, "spec.measures[0].column"),
        (Spec("t", (), (Measure("m", Aggregate.MIN, "l"),)), FieldInvalid, "spec.measures[0].column"),
        (
            Spec("t", (), (Measure("m", Aggregate.QUANTILE, "x", quantile=2.0),)),
            FieldInvalid,
            "spec.measures[0].quantile",
        ),
        (Spec("t", (), (Measure("m", Aggregate.SHARE),)), FieldRequired, "spec.measures[0].where"),
        (
            Spec("t", (BUCKET,), (Measure("m", Aggregate.MIN, "kind"),), fill=Fill.ZERO),
            FieldInvalid,
            "spec.measures[0]",
        ),
        (Spec("t", where=Compare("nope", Op.EQ, 1)), FieldInvalid, "spec.where.compare.column"),
        (Spec("t", where=Compare("i", Op.EQ, "1")), FieldInvalid, "spec.where.compare.value"),
        (
            Spec("t", where=AllOf((OneOf("kind", (1,)),))),
            FieldInvalid,
            "spec.where.all_of.predicates[0].one_of.values[0]",
        ),
        (Spec("t", where=AnyOf((IsNull("i"),) * 1001)), FieldInvalid, "spec.where"),
        (Spec("t", order=(OrderKey("nope"),)), FieldInvalid, "spec.order[0].column"),
        (Spec("t", time_range=TimeRange(5, 4)), FieldInvalid, "spec.time_range"),
        (Spec("t", time_range=TimeRange(5, 6), time_column="i"), FieldInvalid, "spec.time_column"),
        (Spec("t", last_seconds=-1.0), FieldInvalid, "spec.last_seconds"),
        (Spec("t", previous_period=True), FieldRequired, "spec.last_seconds"),
    ],
)
def test_what_does_not_fit_is_named(spec: Spec, kind: type[Exception], field: str) -> None:
    with pytest.raises(kind) as refused:
        resolve(spec, SCHEMA, "ts", 0)
    assert getattr(refused.value, "field") == field  # noqa: B009


def test_a_table_without_event_time_wants_a_column() -> None:
    for spec in (Spec("t", (BUCKET,)), Spec("t", last_seconds=5.0)):
        with pytest.raises(FieldRequired):
            resolve(spec, SCHEMA, "", 0)
