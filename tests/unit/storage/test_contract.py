"""Definitions, the contract's check, dead letters and statistics."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import json
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import errors
from svc_storage.adapters.parquet import write_parquet
from svc_storage.domain.definition import ColumnRule, TableDefinition, define, namespace, table_name
from svc_storage.domain.reading.statistics import parse
from svc_storage.domain.writing import dead_letters
from svc_storage.domain.writing.contract import RAW_LIMIT, check, cut
from svc_storage.domain.writing.dead_letters import ClientDeadLetter
from tests.unit.storage.strategies import SCHEMA, batches


def one(
    kind: pa.DataType, values: list[Any], *, nullable: bool = True, rule: ColumnRule | None = None
) -> list[tuple[int, str]]:
    """(index, reason) of the bad rows of a column `v`."""
    definition = define(pa.schema([pa.field("v", kind, nullable)]), rules={"v": rule} if rule else None)
    checked = check(pa.RecordBatch.from_arrays([pa.array(values, kind)], names=["v"]), definition)
    assert checked.rows.num_rows + len(checked.bad) == len(values)
    assert checked.rows.schema.equals(definition.schema)
    return [(row.index, row.reason) for row in checked.bad]


def test_null_in_a_not_null_column() -> None:
    assert one(pa.int64(), [1, None, 3, None], nullable=False) == [(1, "NOT_NULL"), (3, "NOT_NULL")]


def test_bounds_are_inclusive_and_null_passes() -> None:
    assert one(pa.int64(), [0, 1, 5, 6, None], rule=ColumnRule(minimum=1, maximum=5)) == [(0, "RANGE"), (3, "RANGE")]


def test_nan_breaks_a_bound_and_is_a_value_without_one() -> None:
    values = [1.0, math.nan, math.inf]
    assert one(pa.float64(), values, rule=ColumnRule(minimum=0.0)) == [(1, "RANGE")]
    assert one(pa.float64(), values) == []


def test_allowed_values() -> None:
    assert one(pa.string(), ["a", "b", "", None], rule=ColumnRule(allowed=("a",))) == [(1, "ENUM"), (2, "ENUM")]


def test_rules_on_other_types() -> None:
    day = ColumnRule(minimum=dt.date(2024, 1, 1))
    assert one(pa.date32(), [dt.date(2023, 12, 31), dt.date(2024, 1, 1)], rule=day) == [(0, "RANGE")]
    money = ColumnRule(maximum=decimal.Decimal("9.99"))
    assert one(pa.decimal128(6, 2), [decimal.Decimal("10.00"), decimal.Decimal("9.99")], rule=money) == [(0, "RANGE")]
    instant = ColumnRule(minimum=dt.datetime(2024, 1, 1, tzinfo=dt.UTC))
    assert one(pa.timestamp("us", "UTC"), [dt.datetime(2023, 1, 1, tzinfo=dt.UTC)], rule=instant) == [(0, "RANGE")]


def test_years_beyond_the_calendar() -> None:
    assert one(pa.timestamp("us", "UTC"), [2**62, 0]) == [(0, "RANGE")]
    assert one(pa.date32(), [2**31 - 1, 0]) == [(0, "RANGE")]


def test_a_row_is_bad_once() -> None:
    definition = define(
        pa.schema([pa.field("a", pa.int64(), False), pa.field("b", pa.int64())]), rules={"b": ColumnRule(minimum=0)}
    )
    bad = check(pa.RecordBatch.from_pydict({"b": [-1], "a": pa.array([None], pa.int64())}), definition).bad
    assert [(row.field, row.reason, json.loads(row.raw)) for row in bad] == [("a", "NOT_NULL", {"b": -1, "a": None})]


@pytest.mark.parametrize(
    ("have", "want"),
    [
        (pa.array([1], pa.int8()), pa.int64()),
        (pa.array([1], pa.uint32()), pa.int64()),
        (pa.array([1.5], pa.float32()), pa.float64()),
        (pa.array([1], pa.int32()), pa.decimal128(12, 2)),
        (pa.array([1], pa.timestamp("s", "Europe/Berlin")), pa.timestamp("us", "UTC")),
        (pa.array(["a"]).dictionary_encode(), pa.string()),
        (pa.nulls(1), pa.string()),
        (pa.array([[1]], pa.large_list(pa.int16())), pa.list_(pa.int64())),
    ],
)
def test_what_fits_exactly_is_taken(have: pa.Array, want: pa.DataType) -> None:
    checked = check(pa.RecordBatch.from_arrays([have], names=["v"]), define(pa.schema([pa.field("v", want)])))
    assert checked.rows.num_rows == 1


@pytest.mark.parametrize(
    ("have", "want"),
    [
        (pa.array([1], pa.int64()), pa.int32()),
        (pa.array([1e300], pa.float64()), pa.float32()),
        (pa.array(["7"]), pa.int64()),
        (pa.array([7]), pa.string()),
        (pa.array([1], pa.int64()), pa.float64()),
        (pa.array([1], pa.timestamp("us")), pa.timestamp("us", "UTC")),
        (pa.array([True]), pa.int64()),
    ],
)
def test_what_delta_would_cast_silently_is_refused(have: pa.Array, want: pa.DataType) -> None:
    with pytest.raises(errors.SchemaMismatch):
        check(pa.RecordBatch.from_arrays([have], names=["v"]), define(pa.schema([pa.field("v", want)])))


def test_nanoseconds_are_not_rounded() -> None:
    batch = pa.RecordBatch.from_arrays([pa.array([1], pa.timestamp("ns", "UTC"))], names=["v"])
    with pytest.raises(errors.ValueNotRepresentable):
        check(batch, define(pa.schema([pa.field("v", pa.timestamp("us", "UTC"))])))


# -- definitions
def test_a_definition_survives_json() -> None:
    rules = {
        "whole": ColumnRule(minimum=-5, maximum=7),
        "number": ColumnRule(minimum=0.5),
        "money": ColumnRule(allowed=(decimal.Decimal("1.20"), decimal.Decimal("2.00"))),
        "day": ColumnRule(minimum=dt.date(2024, 2, 29)),
        "at": ColumnRule(minimum=dt.datetime(2024, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC)),
        "wall": ColumnRule(maximum=dt.datetime(2024, 1, 1, 2, 30)),
        "raw": ColumnRule(allowed=(b"\x00\xff",)),
        "text": ColumnRule(allowed=("", "ä")),
    }
    made = define(SCHEMA, event_time_column="at", primary_key=("whole",), rules=rules, description="d")
    again = TableDefinition.from_json(made.to_json())
    assert again == made
    assert again.schema.equals(made.schema, check_metadata=True)


@pytest.mark.parametrize(
    ("fields", "more", "raised"),
    [
        ([], {}, errors.FieldRequired),
        ([pa.field("_a", pa.int64())], {}, errors.FieldInvalid),
        ([pa.field("A", pa.int64())], {}, errors.FieldInvalid),
        ([pa.field("a", pa.time64("us"))], {}, errors.UnsupportedType),
        ([pa.field("a", pa.list_(pa.duration("us")))], {}, errors.UnsupportedType),
        ([pa.field("a", pa.null())], {}, errors.UnsupportedType),
        ([pa.field("a", pa.int64())], {"event_time_column": "a"}, errors.FieldInvalid),
        ([pa.field("a", pa.timestamp("us"))], {"event_time_column": "a"}, errors.FieldInvalid),
        ([pa.field("a", pa.int64())], {"primary_key": ("b",)}, errors.FieldInvalid),
        ([pa.field("a", pa.int64())], {"rules": {"b": ColumnRule()}}, errors.FieldInvalid),
        ([pa.field("a", pa.int64())], {"rules": {"a": ColumnRule(minimum="x")}}, errors.FieldInvalid),
        ([pa.field("a", pa.int64())], {"rules": {"a": ColumnRule(minimum=2, maximum=1)}}, errors.FieldInvalid),
    ],
)
def test_definitions_that_cannot_be_stored(fields: list[pa.Field], more: Any, raised: type[Exception]) -> None:
    with pytest.raises(raised):
        define(pa.schema(fields), **more)


def test_names() -> None:
    assert table_name("namespaces/default/tables/orders")
    assert (namespace(""), namespace("namespaces/a")) == ("default", "a")
    for bad in ("orders", "namespaces/A/tables/b", "namespaces/a/tables/b$dead_letters", "namespaces/a/tables/../b"):
        with pytest.raises(errors.FieldInvalid):
            table_name(bad)


# -- dead letters
@given(st.integers(0, 6), st.sets(st.integers(0, 9), max_size=5))
def test_every_row_of_a_batch_has_one_offset(rows: int, places: set[int]) -> None:
    letters = [ClientDeadLetter(place, "X", "", b"") for place in sorted(places)]
    total = rows + len(letters)
    if any(place >= total for place in places):
        with pytest.raises(errors.FieldInvalid):
            dead_letters.merge(100, rows, letters, ())
        return
    definition = define(pa.schema([pa.field("v", pa.int64(), False)]))
    bad = check(pa.RecordBatch.from_arrays([pa.nulls(rows, pa.int64())], names=["v"]), definition).bad
    dead = dead_letters.merge(100, rows, letters, bad)
    assert [row.offset for row in dead] == list(range(100, 100 + total)), "all are bad here, so all places are named"
    assert {row.offset - 100 for row in dead if row.reason == "X"} == places


def test_raw_is_cut_and_marked() -> None:
    assert cut(b"x" * RAW_LIMIT) == b"x" * RAW_LIMIT
    assert len(cut(b"x" * (RAW_LIMIT + 1))) == RAW_LIMIT
    assert cut(b"x" * (RAW_LIMIT + 1)).endswith(b"...cut")


# -- statistics
@given(st.lists(batches(), max_size=3))
def test_statistics_hold_and_are_json(parts: list[pa.RecordBatch]) -> None:
    table = pa.Table.from_batches(parts, SCHEMA)
    rows, text = write_parquet(io.BytesIO(), parts, SCHEMA, level=0)
    assert rows == table.num_rows
    raw = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} poisons a table"))
    assert text == "{}" or raw["numRecords"] == table.num_rows
    found = parse(text)
    for name in ("whole", "small", "number", "single", "text"):
        values = [value for value in table.column(name).to_pylist() if value is not None]
        bounds = found.get(name)
        if bounds is None:
            continue
        assert bounds.null_count == table.num_rows - len(values)
        if bounds.minimum is not None:
            assert all(bounds.minimum <= value <= bounds.maximum for value in values)
            assert not any(isinstance(value, float) and not math.isfinite(value) for value in values)


@pytest.mark.parametrize("foreign", ["", "nonsense", "[]", "null", '{"minValues":3}', '{"nullCount":{"a":"x"}}'])
def test_foreign_statistics_never_raise(foreign: str) -> None:
    parse(foreign)
