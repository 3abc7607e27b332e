"""Which changes of columns are exact, and what a change makes of a table: pure functions."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import errors
from millrace.arrow.widening import widens
from svc_storage.domain.definition import MAX_COLUMNS, ColumnRule, TableDefinition, define
from svc_storage.domain.writing.contract import check
from svc_storage.domain.writing.schema_change import SchemaChange, difference, evolve, reshape

D = pa.decimal128
INT8, INT16, INT32, INT64 = pa.int8(), pa.int16(), pa.int32(), pa.int64()
F32, F64 = pa.float32(), pa.float64()
DAY, AT, WALL, TEXT, RAW, FLAG = (
    pa.date32(), pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.string(), pa.binary(), pa.bool_()
)  # fmt: skip
PLAIN = (
    INT8,
    INT16,
    INT32,
    INT64,
    F32,
    F64,
    DAY,
    AT,
    WALL,
    TEXT,
    RAW,
    FLAG,
    D(3, 0),
    D(5, 2),
    D(12, 2),
    D(19, 0),
    D(38, 10),
)
EXACT = {
    INT8: {INT16, INT32, INT64, F32, F64, D(3, 0), D(5, 2), D(12, 2), D(19, 0), D(38, 10)},
    INT16: {INT32, INT64, F32, F64, D(12, 2), D(19, 0), D(38, 10)},
    INT32: {INT64, F64, D(12, 2), D(19, 0), D(38, 10)},
    INT64: {D(19, 0), D(38, 10)},
    F32: {F64},
    D(3, 0): {D(5, 2), D(12, 2), D(19, 0), D(38, 10)},
    D(5, 2): {D(12, 2), D(38, 10)},
    D(12, 2): {D(38, 10)},
    D(19, 0): {D(38, 10)},
}


@pytest.mark.parametrize(("have", "want"), list(itertools.product(PLAIN, PLAIN)), ids=str)
def test_the_lattice(have: pa.DataType, want: pa.DataType) -> None:
    assert widens(have, want) == (have == want or want in EXACT.get(have, set()))


def test_the_lattice_inside_lists_structs_and_maps() -> None:
    for wrap in (
        pa.list_,
        lambda kind: pa.struct([("a", pa.string()), ("b", kind)]),
        lambda kind: pa.map_(pa.string(), kind),
        lambda kind: pa.list_(pa.struct([("a", pa.list_(kind))])),
    ):
        assert widens(wrap(INT32), wrap(INT64))
        assert not widens(wrap(INT64), wrap(INT32))
    assert not widens(pa.struct([("a", INT32)]), pa.struct([("b", INT32)]))
    assert not widens(pa.struct([("a", INT32)]), pa.struct([("a", INT32), ("b", INT32)]))


_VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    **{
        kind: st.integers(-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1)
        for kind in (INT8, INT16, INT32, INT64)
    },
    F32: st.floats(width=32),
    **{
        kind: st.decimals(
            -(10 ** (kind.precision - kind.scale)) + 1, 10 ** (kind.precision - kind.scale) - 1, places=kind.scale
        )
        for kind in (D(3, 0), D(5, 2), D(12, 2), D(19, 0))
    },
}


@given(st.data())
def test_what_widens_comes_back_digit_for_digit(data: st.DataObject) -> None:
    have = data.draw(st.sampled_from(list(EXACT)))
    want = data.draw(st.sampled_from(sorted(EXACT[have], key=str)))
    values = pa.array(data.draw(st.lists(st.none() | _VALUES[have], max_size=8)), have)
    before, after = pa.schema([("v", have)]), pa.schema([("v", want)])
    found = reshape(pa.RecordBatch.from_arrays([values], schema=before), after).column(0)
    for old, new in zip(values.to_pylist(), found.to_pylist(), strict=True):
        assert old == new or (math.isnan(old) and math.isnan(new))
    definition = define(after)
    assert (
        check(pa.RecordBatch.from_arrays([values], schema=before), definition).rows.column(0).equals(found)
        or want == F64
    )


TABLE = define(
    pa.schema([pa.field("id", INT32, False), pa.field("n", INT16, False), pa.field("at", AT), pa.field("name", TEXT)]),
    event_time_column="at",
    primary_key=("id",),
    rules={"n": ColumnRule(minimum=-5, maximum=5, allowed=(1, 2)), "name": ColumnRule(allowed=("a",))},
)


def change(base: int = 1, **more: Any) -> SchemaChange:
    return SchemaChange(base=base, **more)


def test_all_at_once() -> None:
    new = evolve(
        TABLE, change(additions=(pa.field("x", pa.large_string()),), widenings={"n": D(7, 2)}, relaxations=("n",))
    )
    assert new.schema.names == ["id", "n", "at", "name", "x"]
    assert new.schema.field("x").type == TEXT
    assert [field.metadata[b"millrace.field_id"] for field in new.schema] == [b"1", b"2", b"3", b"4", b"5"]
    assert (new.schema_id, new.schema.metadata[b"millrace.schema_id"]) == (2, b"2")
    assert (new.schema.field("n").nullable, new.schema.field("id").nullable) == (True, False)
    rows = pa.RecordBatch.from_pydict({"id": pa.array([1, 2], INT32), "n": pa.array([1, 9], INT16)})
    assert [bad.index for bad in check(rows, new).bad] == [1]
    assert TableDefinition.from_json(new.to_json()) == new
    assert TABLE.at(new.stored_schema, 2) == new


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (change(additions=(pa.field("x", INT32, False),)), "additions[0].nullable"),
        (change(additions=(pa.field("X", INT32),)), "additions[0].name"),
        (change(additions=(pa.field("_x", INT32),)), "additions[0].name"),
        (change(additions=(pa.field("name", INT32),)), "additions[0].name"),
        (change(additions=(pa.field("x", INT32), pa.field("x", INT32))), "additions[1].name"),
        (change(additions=(pa.field("x", pa.duration("us")),)), "additions[0].type"),
        (change(additions=tuple(pa.field(f"c{n}", INT8) for n in range(MAX_COLUMNS))), "additions"),
        (change(widenings={"n": INT8}), "widenings.n"),
        (change(widenings={"at": WALL}), "widenings.at"),
        (change(widenings={"at": DAY}), "widenings.at"),
        (change(widenings={"who": INT64}), "widenings.who"),
        (change(relaxations=("id",)), "relaxations[0]"),
        (change(relaxations=("who",)), "relaxations[0]"),
        (change(), ""),
        (change(0, relaxations=("n",)), "base_schema_id"),
        (change(2, relaxations=("n",)), "base_schema_id"),
    ],
)
def test_what_can_never_be_names_its_field(wrong: SchemaChange, field: str) -> None:
    with pytest.raises((errors.FieldInvalid, errors.FieldRequired, errors.UnsupportedType)) as refused:
        evolve(TABLE, wrong)
    assert refused.value.field == ("schema_change." + field).rstrip(".")


def test_older_columns_conflict_unless_they_hold_already() -> None:
    wish = change(additions=(pa.field("x", INT16),), widenings={"n": INT32}, relaxations=("n",))
    new = evolve(TABLE, wish)
    assert evolve(new, wish) is new
    wider = evolve(new, change(2, widenings={"x": INT64}))
    assert evolve(wider, wish) is wider, "wider than wished holds what was wished"
    for missing in (
        change(additions=(pa.field("y", INT16),)),
        change(widenings={"n": INT64}),
        change(additions=(pa.field("x", TEXT),)),
    ):
        with pytest.raises(errors.SchemaConflict) as refused:
            evolve(new, missing)
        assert refused.value.metadata["schema_id"] == "2"


def test_the_difference_of_two_schemas_is_the_change_between_them() -> None:
    wish = change(additions=(pa.field("x", INT16),), widenings={"n": INT32}, relaxations=("n",))
    new = evolve(TABLE, wish)
    found = difference(TABLE, new.schema)
    assert evolve(TABLE, found).schema.equals(new.schema)
    assert difference(TABLE, TABLE.schema).empty
