"""Every type of the table of types, on every backend: what goes in comes out digit for digit, or is refused by its column's name.

Rows go the way of a client's: a message, decoded, judged, committed; then a read with a projection that is cut and resumed.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from millrace import errors
from millrace.arrow.types import normalise
from millrace.storage.v1 import frames_pb2
from millrace.types.v1 import types_pb2
from millrace.wire.batch import batch_to_proto
from svc_storage.convert.appending import incoming_from
from svc_storage.domain.definition import define
from svc_storage.domain.reading.reads import ReadWish
from svc_storage.domain.reading.scans import Scan
from tests.contract.storage.backends import Rig
from tests.contract.storage.test_reads import _cut_read, collect, reads_of

numbers = itertools.count(1)
EPOCH = dt.datetime(1970, 1, 1)
FIRST, LAST = dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)
UTC = dt.UTC
AT = pa.timestamp("us", "UTC")

Values = st.SearchStrategy[Any]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["", "\x00", "ä\u0308", "𝔘" * 70]
)
blobs = st.binary(max_size=6) | st.sampled_from([b"", b"\x00\xff"])
floats64 = st.floats() | st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308])
floats32 = st.floats(width=32) | st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf])
walls = st.datetimes() | st.sampled_from([FIRST, LAST, EPOCH, dt.datetime(2024, 3, 31, 2, 30)])
days = st.dates() | st.sampled_from([FIRST.date(), LAST.date()])


def ints(bits: int, *, signed: bool = True) -> Values:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.integers(low, high) | st.sampled_from([low, high, 0])


def decimals(precision: int, scale: int) -> Values:
    high = 10**precision - 1
    return (st.integers(-high, high) | st.sampled_from([high, -high, 0])).map(
        lambda n: Decimal((int(n < 0), tuple(map(int, str(abs(n)))), -scale))
    )


def whole(of: Values, unit: str) -> Values:
    """Times that are whole in a coarser unit."""
    return of.map(lambda at: at.replace(microsecond=0 if unit == "s" else at.microsecond // 1000 * 1000))


def zoned(of: Values) -> Values:
    return of.map(lambda at: at.replace(tzinfo=UTC))


def maybe(of: Values) -> Values:
    return st.none() | of


def pairs(keys: Values, values: Values) -> Values:
    return st.dictionaries(keys, values, max_size=3).map(lambda found: list(found.items()))


BY_TEXT = st.fixed_dictionaries({"m": maybe(pairs(texts, maybe(decimals(10, 2))))})
INNER = pa.struct([pa.field("n", pa.int32()), pa.field("t", pa.list_(pa.string()))])
inner = st.fixed_dictionaries({"n": maybe(ints(32)), "t": maybe(st.lists(maybe(texts), max_size=2))})
KINDS: dict[str, tuple[pa.DataType, Values]] = {
    "flag": (pa.bool_(), st.booleans()),
    "int8": (pa.int8(), ints(8)),
    "int16": (pa.int16(), ints(16)),
    "int32": (pa.int32(), ints(32)),
    "int64": (pa.int64(), ints(64)),
    "uint8": (pa.uint8(), ints(8, signed=False)),
    "uint16": (pa.uint16(), ints(16, signed=False)),
    "uint32": (pa.uint32(), ints(32, signed=False)),
    "uint64": (pa.uint64(), ints(64, signed=False)),
    "float32": (pa.float32(), floats32),
    "float64": (pa.float64(), floats64),
    "decimal_small": (pa.decimal128(5, 2), decimals(5, 2)),
    "decimal_whole": (pa.decimal128(38, 0), decimals(38, 0)),
    "decimal_fine": (pa.decimal128(38, 38), decimals(38, 38)),
    "decimal256": (pa.decimal256(30, 10), decimals(30, 10)),
    "text": (pa.string(), texts),
    "large_text": (pa.large_string(), texts),
    "text_view": (pa.string_view(), texts),
    "words": (pa.dictionary(pa.int8(), pa.string()), texts),
    "raw": (pa.binary(), blobs),
    "large_raw": (pa.large_binary(), blobs),
    "raw_view": (pa.binary_view(), blobs),
    "fixed": (pa.binary(3), st.binary(min_size=3, max_size=3)),
    "day": (pa.date32(), days),
    "day64": (pa.date64(), days),
    "at": (pa.timestamp("us", "UTC"), zoned(walls)),
    "at_seconds": (pa.timestamp("s", "UTC"), zoned(whole(walls, "s"))),
    "at_millis": (pa.timestamp("ms", "Europe/Berlin"), zoned(whole(walls, "ms"))),
    "wall": (pa.timestamp("us"), walls),
    "numbers": (pa.list_(pa.int64()), st.lists(maybe(ints(64)), max_size=3)),
    "large_list": (pa.large_list(pa.float64()), st.lists(maybe(floats64), max_size=3)),
    "things": (INNER, inner),
    "list_of_things": (pa.list_(INNER), st.lists(maybe(inner), max_size=2)),
    "by_name": (pa.map_(pa.string(), pa.int64()), pairs(texts, maybe(ints(64)))),
    "map_of_lists": (
        pa.map_(pa.int32(), pa.list_(pa.timestamp("us", "UTC"))),
        pairs(ints(32), maybe(st.lists(maybe(zoned(walls)), max_size=2))),
    ),
    "deep": (pa.list_(pa.list_(pa.struct([pa.field("m", pa.map_(pa.string(), pa.decimal128(10, 2)))]))),
             st.lists(maybe(st.lists(maybe(BY_TEXT), max_size=2)), max_size=2)),
}  # fmt: skip

SENT_AS = {"words": pa.string(), "text_view": pa.string(), "raw_view": pa.binary()}


@st.composite
def tables(draw: st.DrawFn) -> pa.RecordBatch:
    """All types side by side, a column of them all NULL."""
    count = draw(st.integers(1, 5))
    empty = draw(st.sampled_from([*KINDS, ""]))
    columns = [
        pa.nulls(count, kind) if name == empty else pa.array([draw(maybe(values)) for _ in range(count)], kind)
        for name, (kind, values) in KINDS.items()
    ]
    return pa.RecordBatch.from_arrays(columns, names=list(KINDS))


def spelled(value: Any) -> Any:
    """Equal exactly where the values are: the sign of zero and NaN included; instants are in UTC on both sides."""
    if isinstance(value, float):
        return ("float", "nan" if math.isnan(value) else value.hex())
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None).isoformat()
    if isinstance(value, dict):
        return {name: spelled(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [spelled(part) for part in value]
    return value


def values_of(batch: pa.RecordBatch | pa.Table, name: str) -> list[Any]:
    """As Python sees them; times as whole microseconds, which Python's zones cannot reach at both ends of the calendar."""
    column = batch.column(name)
    if pa.types.is_timestamp(column.type):
        scale = {"s": 1_000_000, "ms": 1_000, "us": 1}[column.type.unit]
        return [None if value is None else value * scale for value in column.cast(pa.int64()).to_pylist()]
    return [spelled(value) for value in column.to_pylist()]


def message(batch: pa.RecordBatch, offset: int = 0, encoding: int = types_pb2.ENCODING_ARROW) -> frames_pb2.AppendBatch:
    if encoding == types_pb2.ENCODING_ROWS:
        return frames_pb2.AppendBatch(offset=offset, batch=batch_to_proto(normalise(batch), encoding))
    for name, kind in SENT_AS.items():  # the storage wants values: dictionaries and views are the sender's to cast
        if (at := batch.schema.get_field_index(name)) >= 0:
            batch = batch.set_column(at, name, batch.column(at).cast(kind))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data = types_pb2.Batch(arrow=sink.getvalue().to_pybytes(), row_count=batch.num_rows)
    return frames_pb2.AppendBatch(offset=offset, batch=data)


async def table_with(rig: Rig, columns: pa.Schema) -> str:
    name = f"namespaces/default/tables/t{next(numbers)}"
    await rig.create(define(columns), name=name)
    return name


async def store(rig: Rig, name: str, *frames: frames_pb2.AppendBatch) -> None:
    stream = await rig.open(name=name)
    for frame in frames:
        await stream.append(incoming_from(frame, stream.definition.schema))
        await stream.settle()  # a file each
    await stream.finish()


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[
        Phase.explicit,
        Phase.generate,
    ],  # shrinking forty columns takes minutes, and the assertion names the column
)
@given(batch=tables(), seed=st.integers(0, 2**16))
async def test_every_value_comes_back(rig: Rig, batch: pa.RecordBatch, seed: int) -> None:
    name = await table_with(rig, batch.schema)
    await store(rig, name, message(batch), message(batch, batch.num_rows, types_pb2.ENCODING_ROWS))
    chance = random.Random(seed)
    chosen = chance.sample(list(KINDS), chance.randint(1, len(KINDS)))
    for columns in ((), tuple(chosen)):
        wish = ReadWish(scan=Scan(name, columns=columns))
        found = await collect(await reads_of(rig).open(wish))
        assert found.schema.names == list(columns or KINDS)
        for column in found.schema.names:
            assert values_of(found, column) == values_of(batch, column) * 2, column
    cut, emitted = await _cut_read(rig, ReadWish(scan=Scan(name, columns=tuple(chosen))), seed, cuts=1)
    assert emitted == 2 * batch.num_rows
    for column in chosen:
        assert values_of(cut, column) == values_of(batch, column) * 2, column


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
async def test_cells_of_megabytes(rig: Rig, kind: pa.DataType) -> None:
    """As large as a message, exactly; larger, refused by its row."""
    name = await table_with(rig, pa.schema([pa.field("v", kind), pa.field("n", pa.int8())]))
    large: Any = random.Random(5).randbytes(3 << 20)
    values = ["", "ä" * (len(large) // 2), None] if pa.types.is_string(kind) else [b"", large, None]

    def batch(of: Sequence[Any]) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.array(of, kind), pa.array([1] * len(of), pa.int8())], names=["v", "n"])

    await store(rig, name, message(batch(values)))
    with pytest.raises((errors.RowTooLarge, errors.ArrowTooLarge)):
        await store(rig, name, message(batch([large[:1] * (5 << 20) if kind == pa.binary() else "x" * (5 << 20)]), 3))
    found = await collect(await reads_of(rig).open(ReadWish(scan=Scan(name))))
    assert found.column("v").to_pylist() == values


def nanos(value: int) -> pa.Array:
    return pa.array([value], pa.int64()).cast(pa.timestamp("ns"))


REFUSED: dict[str, tuple[pa.Field, Callable[[], pa.Array]]] = {
    "1e300 into float32": (pa.field("v", pa.float32()), lambda: pa.array([1e300])),
    "nanoseconds": (pa.field("v", pa.timestamp("us")), lambda: nanos(1)),
    "a text into int": (pa.field("v", pa.int64()), lambda: pa.array(["7"])),
    "an int into text": (pa.field("v", pa.string()), lambda: pa.array([7])),
    "NULL in NOT NULL": (pa.field("v", pa.int64(), False), lambda: pa.array([None], pa.int64())),
    "int64 into int32": (pa.field("v", pa.int32()), lambda: pa.array([2**31])),
    "uint64 maximum into int64": (pa.field("v", pa.int64()), lambda: pa.array([2**64 - 1], pa.uint64())),
    "a decimal too wide": (pa.field("v", pa.decimal128(5, 2)), lambda: pa.array([Decimal("12345.67")])),
    "a decimal too fine": (pa.field("v", pa.decimal128(5, 2)), lambda: pa.array([Decimal("1.234")])),
    "39 digits": (pa.field("v", pa.decimal128(38, 0)), lambda: pa.array([Decimal(10**38)], pa.decimal256(39, 0))),
    "year 10000": (pa.field("v", AT), lambda: pa.array([253402300800000000], AT)),
    "year 0": (pa.field("v", pa.date32()), lambda: pa.array([-719163], pa.int32()).cast(pa.date32())),
    "year 10000 in a list": (
        pa.field("v", pa.list_(pa.date32())),
        lambda: pa.array([[2932897]], pa.list_(pa.int32())).cast(pa.list_(pa.date32())),
    ),
    "a wall clock for an instant": (pa.field("v", pa.timestamp("us", "UTC")), lambda: pa.array([0], pa.timestamp("us"))),
    "a bool into int": (pa.field("v", pa.int64()), lambda: pa.array([True])),
    "a date64 with hours": (pa.field("v", pa.date32()), lambda: pa.array([3_600_000], pa.int64()).view(pa.date64())),
    "a struct of other fields": (pa.field("v", pa.struct([("a", pa.int8())])), lambda: pa.array([{"b": 1}])),
    "a time": (pa.field("v", pa.int64()), lambda: pa.array([dt.time(1)], pa.time64("us"))),
    "an interval": (pa.field("v", pa.int64()), lambda: pa.array([(1, 2, 3)], pa.month_day_nano_interval())),
    "run-end encoded": (pa.field("v", pa.int64()), lambda: pa.RunEndEncodedArray.from_arrays([1], [7])),
}  # fmt: skip


@pytest.mark.parametrize("case", list(REFUSED))
async def test_what_would_lose_a_digit_is_refused_by_its_column(rig: Rig, case: str) -> None:
    field, make = REFUSED[case]
    name = await table_with(rig, pa.schema([pa.field("id", pa.int64()), field]))
    batch = pa.RecordBatch.from_arrays([pa.array([1]), make()], names=["id", "v"])
    with pytest.raises(errors.FixRequest) as refused:
        await store(rig, name, message(batch))
    said = refused.value
    assert "`v" in said.message or any(place.endswith(".v") for place, _ in said.violations), said
    assert (await rig.opened.table(name)).versions.head.row_count == 0


async def test_a_missing_not_null_column_is_refused_by_its_name(rig: Rig) -> None:
    name = await table_with(rig, pa.schema([pa.field("id", pa.int64()), pa.field("v", pa.int64(), False)]))
    with pytest.raises(errors.SchemaMismatch, match="`v`"):
        await store(rig, name, message(pa.RecordBatch.from_pydict({"id": [1]})))


@pytest.mark.parametrize(
    "kind",
    [
        pa.time64("us"), pa.duration("us"), pa.month_day_nano_interval(), pa.null(), pa.list_(pa.time32("s")), pa.decimal256(39, 0),
        pa.run_end_encoded(pa.int32(), pa.int64()),
    ],
    ids=str,
)  # fmt: skip
def test_types_that_no_table_stores_are_refused_by_their_column(kind: pa.DataType) -> None:
    with pytest.raises(errors.UnsupportedType, match="`v`"):
        define(pa.schema([pa.field("v", kind)]))
