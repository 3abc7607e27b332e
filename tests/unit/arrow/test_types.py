"""The table of types, conforming to a table, names, slices."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from millrace.arrow import ipc, slices
from millrace.arrow.conform import conform
from millrace.arrow.names import parse_type
from millrace.arrow.types import MAX_MICROS, canonical, normalise
from millrace.errors import FieldInvalid, RowTooLarge, SchemaMismatch, UnsupportedType, ValueNotRepresentable


def nested_list(levels: int) -> pa.DataType:
    return pa.list_(nested_list(levels - 1)) if levels else pa.int64()


@pytest.mark.parametrize(
    "kind",
    [
        pa.month_day_nano_interval(),
        pa.sparse_union([pa.field("a", pa.int8())]),
        pa.run_end_encoded(pa.int32(), pa.int8()),
        pa.null(),
        pa.uuid(),
        pa.decimal256(39, 0),
        pa.decimal128(5, -2),
        pa.struct([]),
        pa.struct([("a", pa.int8()), ("a", pa.int8())]),
        pa.timestamp("us", "Mars/Olympus"),
        pa.timestamp("us", "../../etc/passwd"),
        nested_list(17),
        pa.map_(pa.string(), pa.list_(pa.month_day_nano_interval())),
    ],
    ids=str,
)
def test_refused_types(kind: pa.DataType) -> None:
    with pytest.raises(UnsupportedType, match="column `price"):
        canonical(kind, where="price")


def test_sixteen_levels_are_taken() -> None:
    assert canonical(nested_list(16)).equals(nested_list(16))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1001], pa.timestamp("ns", "UTC")),
        pa.array([1001], pa.time64("ns")),
        pa.array([1], pa.duration("ns")),
        pa.array([2**60], pa.timestamp("s")),
        pa.array([MAX_MICROS + 1], pa.timestamp("us", "UTC")),
        pa.array([86_400_001], pa.int64()).view(pa.date64()),
        pa.array([4_000_000], pa.date32()),
        pa.array([86_400], pa.int32()).view(pa.time32("s")),
        pa.array([2**62], pa.duration("us")),
        pa.array([[{"t": MAX_MICROS + 1}]], pa.list_(pa.struct([("t", pa.timestamp("us"))]))),
        pa.array([[("k", MAX_MICROS + 1)]], pa.map_(pa.string(), pa.timestamp("us"))),
    ],
    ids=lambda column: str(column.type),
)
def test_values_without_an_exact_form_are_refused_without_being_shown(column: pa.Array) -> None:
    with pytest.raises(ValueNotRepresentable) as refused:
        normalise(pa.record_batch({"c": column}))
    assert refused.value.field.startswith("c")
    assert not any(digits in str(refused.value) for digits in ("1001", "86400001", str(2**60)))


def test_what_hides_under_a_null_does_not_count() -> None:
    times = pa.array([MAX_MICROS + 1, 0], pa.timestamp("us"))
    structs = pa.StructArray.from_arrays([times], names=["t"], mask=pa.array([True, False]))
    assert normalise(pa.record_batch({"c": structs})).num_rows == 2


def test_normalised_rows_are_given_back_untouched() -> None:
    batch = pa.record_batch({"n": [1], "t": pa.array([0], pa.timestamp("us", "UTC"))})
    assert normalise(batch) is batch


def test_list_views_with_nulls_keep_their_values() -> None:
    rows = [[1], None, [2, 3], []]
    for kind in (pa.list_view(pa.int64()), pa.large_list_view(pa.int64()), pa.list_(pa.list_view(pa.int64()))):
        values = [rows] if pa.types.is_list(kind) else rows
        got = normalise(pa.record_batch({"c": pa.array(values, kind)}))
        got.validate(full=True)
        assert got.column("c").to_pylist() == values


# -- conform -----------------------------------------------------------------------------------------------------------
TABLE = pa.schema(
    [
        pa.field("id", pa.int32(), nullable=False),
        pa.field("price", pa.decimal128(10, 2)),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("note", pa.string()),
    ]
)


def test_columns_are_matched_by_name_and_missing_ones_are_null() -> None:
    rows = pa.record_batch({"price": pa.array([1, 2]), "id": pa.array([1, 2], pa.uint8())})
    got = conform(rows, TABLE)
    assert got.schema.equals(TABLE)
    assert got.to_pylist()[0] == {"id": 1, "price": Decimal("1.00"), "at": None, "note": None}


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ({"id": [1], "more": [1]}, SchemaMismatch),
        ({"note": ["a"]}, SchemaMismatch),
        ({"id": ["1"]}, SchemaMismatch),
        ({"id": [True]}, SchemaMismatch),
        ({"id": [1], "at": pa.array([0], pa.timestamp("us"))}, SchemaMismatch),
        ({"id": [1], "note": [7]}, SchemaMismatch),
        ({"id": [2**31]}, ValueNotRepresentable),
        ({"id": [1.5]}, ValueNotRepresentable),
        ({"id": [1], "price": [10**8]}, ValueNotRepresentable),
        ({"id": [1], "price": [0.001]}, ValueNotRepresentable),
    ],
)
def test_what_does_not_fit_exactly_is_refused(rows: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        conform(pa.record_batch(rows), TABLE)


def test_floats_narrow_only_where_nothing_is_lost() -> None:
    schema = pa.schema([("f", pa.float32())])
    assert conform(pa.record_batch({"f": [0.5, float("nan"), float("inf"), None]}), schema).num_rows == 4
    for lossy in (0.1, 1e300):
        with pytest.raises(ValueNotRepresentable):
            conform(pa.record_batch({"f": [lossy]}), schema)


def test_a_column_that_is_there_twice_is_refused() -> None:
    twice = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["id", "id"])
    with pytest.raises(SchemaMismatch, match="twice"):
        conform(twice, TABLE)


# -- names -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "kind", "nullable"),
    [
        ("int", pa.int64(), False),
        ("string?", pa.string(), True),
        ("timestamp", pa.timestamp("us", "UTC"), False),
        ("timestamp[Europe/Berlin]?", pa.timestamp("us", "Europe/Berlin"), True),
        ("datetime", pa.timestamp("us"), False),
        ("decimal(10, 2)", pa.decimal128(10, 2), False),
        ("list<int64?>", pa.list_(pa.int64()), False),
        (
            "struct<a: int8, b: map<string, date?>?>",
            pa.struct([pa.field("a", pa.int8(), False), ("b", pa.map_(pa.string(), pa.date32()))]),
            False,
        ),
    ],
)
def test_names(name: str, kind: pa.DataType, nullable: bool) -> None:
    assert parse_type(name) == (kind, nullable)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "int46",
        "list<",
        "list<int64>>",
        "decimal(40,2)",
        "decimal",
        "timestamp[Foo]",
        "list<" * 30,
        "?",
        "a" * 20_000,
    ],
)
def test_bad_names_say_what_was_expected(name: str) -> None:
    with pytest.raises(FieldInvalid) as refused:
        parse_type(name)
    assert refused.value.hint
    assert len(refused.value.message) < 300


# -- slices ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(6))
def test_slices_are_whole_ordered_and_small_enough(seed: int) -> None:
    dice = np.random.default_rng(seed)
    sizes = dice.choice([0, 10, 1000, 300_000], size=200, p=[0.5, 0.3, 0.15, 0.05])
    batch = pa.record_batch(
        {"n": np.arange(200), "s": ["x" * int(size) for size in sizes], "l": [list(range(size % 7)) for size in sizes]}
    )
    parts = list(slices.cut(batch))
    assert pa.Table.from_batches(parts).combine_chunks().equals(pa.Table.from_batches([batch]).combine_chunks())
    assert max(len(ipc.encode(part)) for part in parts) <= slices.LIMIT_BYTES
    assert all(len(ipc.encode(part)) <= 1.4 * slices.TARGET_BYTES for part in parts if part.num_rows > 1)


def test_even_rows_make_messages_of_about_a_mebibyte() -> None:
    parts = list(slices.cut(pa.record_batch({"n": np.arange(1_000_000)})))
    assert all(0.9 * slices.TARGET_BYTES < len(ipc.encode(part)) <= 1.1 * slices.TARGET_BYTES for part in parts[:-1])


def test_a_row_that_no_message_holds_is_named_after_those_before_it() -> None:
    batch = pa.record_batch({"s": ["a", "x" * (slices.LIMIT_BYTES + 1), "b"]})
    given: list[pa.RecordBatch] = []
    with pytest.raises(RowTooLarge) as refused:
        given.extend(slices.cut(batch))
    assert refused.value.metadata == {"row_index": "1"}
    assert [value for part in given for value in part.column("s").to_pylist()] == ["a"]


def test_an_empty_batch_is_one_slice() -> None:
    assert [part.num_rows for part in slices.cut(pa.record_batch({"n": pa.array([], pa.int64())}))] == [0]
