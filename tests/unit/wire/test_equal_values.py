"""ARROW and ROWS carry equal values, for every type of the table of types, nested too."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millrace.arrow.names import name_of, parse_type
from millrace.arrow.types import MAX_DURATION_MICROS, MAX_MICROS, MICROS_PER_DAY, MIN_MICROS, normalise
from millrace.types.v1 import types_pb2 as pb
from millrace.wire.batch import batch_from_proto, batch_to_proto, batches_to_proto, read_batch
from millrace.wire.schema import schema_from_proto, schema_to_proto

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "+02:00")
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def integers(bits: int, *, signed: bool = True) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


def scaled(number: int, scale: int) -> Decimal:
    digits = tuple(map(int, str(abs(number))))
    return Decimal((int(number < 0), digits, -scale))


PLAIN: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.bool_(), st.booleans()),
    *((getattr(pa, f"int{bits}")(), integers(bits)) for bits in (8, 16, 32, 64)),
    *((getattr(pa, f"uint{bits}")(), integers(bits, signed=False)) for bits in (8, 16, 32, 64)),
    (pa.float16(), st.floats(width=16)),
    (pa.float32(), st.floats(width=32)),
    (pa.float64(), st.floats()),
    (pa.decimal32(7, 2), st.integers(-(10**7) + 1, 10**7 - 1).map(lambda n: scaled(n, 2))),
    (pa.decimal64(18, 0), st.integers(-(10**18) + 1, 10**18 - 1).map(Decimal)),
    (pa.decimal128(38, 38), st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: scaled(n, 38))),
    (pa.decimal128(38, 0), st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: scaled(n, 0))),
    (pa.decimal256(38, 10), st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: scaled(n, 10))),
    *((kind, ANY_TEXT) for kind in (pa.string(), pa.large_string(), pa.string_view())),
    (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["", "a", "b"])),
    *((kind, st.binary(max_size=8)) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.date32(), st.integers(MIN_MICROS // MICROS_PER_DAY, MAX_MICROS // MICROS_PER_DAY)),
    (pa.date64(), st.dates()),
    (pa.time32("s"), st.integers(0, 86_399)),
    (pa.time32("ms"), st.integers(0, 86_399_999)),
    (pa.time64("us"), st.integers(0, MICROS_PER_DAY - 1)),
    (pa.time64("ns"), st.integers(0, MICROS_PER_DAY - 1).map(lambda n: n * 1000)),
    *((pa.timestamp("us", zone), st.integers(MIN_MICROS, MAX_MICROS)) for zone in (None, *ZONES)),
    (pa.timestamp("s", "UTC"), st.integers(MIN_MICROS // 10**6, MAX_MICROS // 10**6)),
    (pa.timestamp("ms"), st.integers(MIN_MICROS // 10**3, MAX_MICROS // 10**3)),
    (pa.timestamp("ns", "UTC"), st.integers(-(2**63) // 1000 + 1, 2**63 // 1000 - 1).map(lambda n: n * 1000)),
    (pa.duration("us"), st.integers(-MAX_DURATION_MICROS, MAX_DURATION_MICROS)),
    (pa.duration("s"), st.integers(-MAX_DURATION_MICROS // 10**6, MAX_DURATION_MICROS // 10**6)),
    (pa.duration("ns"), st.integers(-(2**63) // 1000 + 1, 2**63 // 1000 - 1).map(lambda n: n * 1000)),
]


def nested(inner: tuple[pa.DataType, st.SearchStrategy[Any]]) -> st.SearchStrategy[tuple[pa.DataType, Any]]:
    """Lists, structs and maps of `inner`, with NULLs and empties, as (type, strategy of values)."""
    kind, values = inner
    maybe = st.none() | values
    items = st.lists(maybe, max_size=3)
    pairs = st.lists(st.tuples(ANY_TEXT, maybe), max_size=3)
    structs = st.fixed_dictionaries({"a": maybe, "b": st.none() | st.booleans()})
    return st.sampled_from(
        [
            (pa.list_(kind), items),
            (pa.large_list(kind), items),
            (pa.struct([("a", kind), ("b", pa.bool_())]), structs),
            (pa.map_(pa.string(), kind), pairs),
        ]
    )


def arrays(kind: pa.DataType, values: st.SearchStrategy[Any]) -> st.SearchStrategy[pa.Array]:
    return st.lists(st.none() | values, max_size=6).map(lambda rows: pa.array(rows, kind))


def anything() -> st.SearchStrategy[pa.Array]:
    plain = st.sampled_from(PLAIN)
    # Arrow's Python conversion builds no dictionaries inside maps.
    bare = plain.filter(lambda one: not pa.types.is_dictionary(one[0]))
    once = bare.flatmap(nested)
    return st.one_of(plain, once, once.flatmap(nested)).flatmap(lambda one: arrays(*one))


def check(batch: pa.RecordBatch) -> None:
    plain = normalise(batch)
    schema = schema_from_proto(schema_to_proto(batch.schema))
    assert schema.equals(plain.schema)
    for compression in (pb.COMPRESSION_NONE, pb.COMPRESSION_LZ4, pb.COMPRESSION_ZSTD):
        sent = pb.Batch.FromString(batch_to_proto(plain, pb.ENCODING_ARROW, compression).SerializeToString())
        same(batch_from_proto(sent, schema), plain)
        same(read_batch(sent, schema), plain)
    rows = pb.Batch.FromString(batch_to_proto(plain, pb.ENCODING_ROWS).SerializeToString())
    same(batch_from_proto(rows, schema), plain)
    again = [batch_from_proto(part, schema) for part in batches_to_proto(batch, pb.ENCODING_ROWS)]
    same(pa.Table.from_batches(again, schema).combine_chunks().to_batches(), plain)


def same(got: Any, want: pa.RecordBatch) -> None:
    got = got[0] if isinstance(got, list) and got else want.slice(0, 0) if isinstance(got, list) else got
    got.validate(full=True)
    assert got.schema.equals(want.schema)
    # NaN equals nothing, itself included, so values are compared by how they print.
    assert repr(raw(got)) == repr(raw(want))


def raw(batch: pa.RecordBatch) -> list[Any]:
    return [column.cast(without_zone(column.type)).to_pylist() for column in batch]


def without_zone(kind: pa.DataType) -> pa.DataType:
    """Instants near the years 1 and 9999 have no local time, so Python cannot show them; as UTC's wall clock it can."""
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us")
    if pa.types.is_list(kind):
        return pa.list_(without_zone(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(without_zone(field.type)) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, without_zone(kind.item_type))
    return kind


@pytest.mark.parametrize(("kind", "values"), PLAIN, ids=lambda one: str(one) if isinstance(one, pa.DataType) else "")
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_each_type_is_equal_in_both_encodings(
    kind: pa.DataType, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    check(pa.record_batch({"c": data.draw(arrays(kind, values))}))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(columns=st.lists(anything(), min_size=1, max_size=3), start=st.integers(0, 3))
def test_any_mix_of_types_is_equal_in_both_encodings_also_when_sliced(columns: list[pa.Array], start: int) -> None:
    shortest = min(map(len, columns))
    batch = pa.record_batch({f"c{at}": column.slice(0, shortest) for at, column in enumerate(columns)})
    check(batch.slice(min(start, shortest)))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(array=anything())
def test_every_type_has_a_name_that_reads_back(array: pa.Array) -> None:
    kind = normalise(pa.record_batch({"c": array})).schema.field("c").type
    for nullable in (True, False):
        assert parse_type(name_of(kind, nullable=nullable)) == (kind, nullable)


def test_values_print_as_the_contract_says() -> None:
    instant = dt.datetime(2024, 3, 31, 2, 30, tzinfo=dt.UTC)
    batch = pa.record_batch(
        {
            "d": pa.array([Decimal("1.20")], pa.decimal128(10, 2)),
            "z": pa.array([Decimal("0E-10")], pa.decimal128(20, 10)),
            "day": pa.array([dt.date(2024, 2, 29)]),
            "t": pa.array([dt.time(23, 59, 59, 1)]),
            "wall": pa.array([instant.replace(tzinfo=None)]),
            "at": pa.array([instant], pa.timestamp("us", "Europe/Berlin")),
            "span": pa.array([dt.timedelta(seconds=-1, microseconds=-500_000)]),
            "none": pa.array([None], pa.string()),
        }
    )
    (row,) = batch_to_proto(batch, pb.ENCODING_ROWS).rows.rows
    d, z, day, t, wall, at, span, none = row.values
    assert (d.decimal, z.decimal, day.date) == ("1.20", "0.0000000000", "2024-02-29")
    assert (t.time, wall.datetime) == ("23:59:59.000001", "2024-03-31T02:30:00")
    assert at.timestamp.ToJsonString() == "2024-03-31T02:30:00Z"
    assert span.duration.ToJsonString() == "-1.500s"
    assert none.WhichOneof("kind") == "null"
