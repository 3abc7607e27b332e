"""What the codecs refuse, and how exactly they say where."""

from __future__ import annotations

import pyarrow as pa
import pytest
from google.protobuf import timestamp_pb2

from millrace.arrow import slices
from millrace.errors import FieldInvalid, MillraceError, RowTooLarge, UnsupportedType, ValueNotRepresentable
from millrace.types.v1 import types_pb2 as pb
from millrace.wire.batch import batch_from_proto, batches_to_proto
from millrace.wire.passthrough import with_arrow
from millrace.wire.schema import schema_from_proto
from millrace.wire.values import python_from_proto, value_from_proto, value_to_proto

NULL = pb.Value(null=pb.Null())


@pytest.mark.parametrize(
    ("kind", "value", "error"),
    [
        (pa.int64(), pb.Value(), FieldInvalid),
        (pa.int64(), pb.Value(string="1"), FieldInvalid),
        (pa.int8(), pb.Value(int=128), ValueNotRepresentable),
        (pa.float32(), pb.Value(float=0.1), ValueNotRepresentable),
        (pa.decimal128(4, 2), pb.Value(decimal="1.234"), ValueNotRepresentable),
        (pa.decimal128(4, 2), pb.Value(decimal="123"), ValueNotRepresentable),
        (pa.decimal128(4, 2), pb.Value(decimal="1e999999999"), ValueNotRepresentable),
        (pa.decimal128(4, 2), pb.Value(decimal="one"), FieldInvalid),
        (pa.decimal128(4, 2), pb.Value(decimal="NaN"), FieldInvalid),
        (pa.decimal128(4, 2), pb.Value(decimal="9" * 10_000), ValueNotRepresentable),
        (pa.date32(), pb.Value(date="2023-02-29"), FieldInvalid),
        (pa.date32(), pb.Value(date="20230228"), FieldInvalid),
        (pa.time64("us"), pb.Value(time="24:00:00"), FieldInvalid),
        (pa.time64("us"), pb.Value(time="23:00:00.0000001"), FieldInvalid),
        (pa.timestamp("us"), pb.Value(datetime="2024-01-01T00:00:00Z"), FieldInvalid),
        (pa.timestamp("us", "UTC"), pb.Value(datetime="2024-01-01T00:00:00"), FieldInvalid),
        (pa.timestamp("us", "UTC"), pb.Value(timestamp=timestamp_pb2.Timestamp(nanos=1)), ValueNotRepresentable),
        (pa.timestamp("us", "UTC"), pb.Value(timestamp=timestamp_pb2.Timestamp(nanos=-1)), FieldInvalid),
        (pa.timestamp("us", "UTC"), pb.Value(timestamp=timestamp_pb2.Timestamp(seconds=2**62)), ValueNotRepresentable),
        (pa.list_(pa.int8()), pb.Value(list=pb.ValueList(values=[pb.Value()])), FieldInvalid),
        (pa.struct([("a", pa.int8())]), pb.Value(struct=pb.ValueList()), FieldInvalid),
        (
            pa.map_(pa.string(), pa.int8()),
            pb.Value(map=pb.ValueMap(entries=[pb.ValueMapEntry(key=NULL, value=NULL)])),
            FieldInvalid,
        ),
    ],
    ids=lambda one: str(one)[:40],
)
def test_a_value_that_is_not_of_its_type_is_refused_with_its_path(
    kind: pa.DataType, value: pb.Value, error: type[MillraceError]
) -> None:
    rows = [pb.Row(values=[pb.Value(bool=True), NULL]), pb.Row(values=[pb.Value(bool=True), value])]
    batch = pb.Batch(rows=pb.Rows(rows=rows), row_count=2)
    with pytest.raises(error) as refused:
        batch_from_proto(batch, pa.schema([("a", pa.bool_()), ("b", kind)]))
    assert refused.value.field.startswith(("batch.rows.rows[1].values[1]", "batch.rows.rows[*].values[1]"))


def test_row_counts_are_checked() -> None:
    schema = pa.schema([("a", pa.int64())])
    with pytest.raises(FieldInvalid, match="announced"):
        batch_from_proto(pb.Batch(rows=pb.Rows(rows=[pb.Row(values=[NULL])]), row_count=2), schema)
    with pytest.raises(FieldInvalid):
        batch_from_proto(pb.Batch(row_count=1), schema)
    with pytest.raises(FieldInvalid, match="values for 1 columns"):
        batch_from_proto(pb.Batch(rows=pb.Rows(rows=[pb.Row(values=[NULL, NULL])]), row_count=1), schema)
    assert batch_from_proto(pb.Batch(), schema).num_rows == 0


def test_rows_are_cut_by_count_and_by_size() -> None:
    many = list(batches_to_proto(pa.record_batch({"n": range(2_500)}), pb.ENCODING_ROWS))
    assert [part.row_count for part in many] == [1_000, 1_000, 500]
    wide = list(batches_to_proto(pa.record_batch({"s": ["x" * 100_000] * 7}), pb.ENCODING_ROWS))
    assert [part.row_count for part in wide] == [2, 2, 2, 1]
    assert all(part.ByteSize() <= slices.ROWS_TARGET_BYTES for part in wide)
    with pytest.raises(RowTooLarge):
        list(batches_to_proto(pa.record_batch({"s": ["x" * 4_000_000]}), pb.ENCODING_ROWS))


def bad(**fields: object) -> pb.Schema:
    return pb.Schema(fields=[pb.Field(name="a", type=pb.DataType(**fields))])  # type: ignore[arg-type]


def too_deep() -> pb.DataType:
    kind = pb.DataType(kind=pb.TYPE_KIND_INT)
    for _ in range(17):
        kind = pb.DataType(kind=pb.TYPE_KIND_LIST, children=[pb.Field(name="item", type=kind)])
    return kind


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        (bad(), "schema.fields[0].type.kind"),
        (bad(kind=99), "schema.fields[0].type.kind"),
        (bad(kind=pb.TYPE_KIND_INT, bits=7), "schema.fields[0].type.bits"),
        (bad(kind=pb.TYPE_KIND_DECIMAL), "schema.fields[0].type.precision"),
        (bad(kind=pb.TYPE_KIND_LIST), "schema.fields[0].type.children"),
        (bad(kind=pb.TYPE_KIND_STRUCT), "schema.fields[0].type.children"),
        (bad(kind=pb.TYPE_KIND_TIMESTAMP, zone="Foo"), "schema.fields[0].type.zone"),
        (pb.Schema(fields=[pb.Field(type=pb.DataType(kind=pb.TYPE_KIND_INT))]), "schema.fields[0].name"),
        (pb.Schema(fields=[pb.Field(name="a", type=pb.DataType(kind=pb.TYPE_KIND_INT))] * 2), "schema.fields"),
        (pb.Schema(fields=[pb.Field(name="a", type=too_deep())]), "schema.fields[0].type"),
    ],
    ids=str,
)
def test_a_schema_that_is_none_is_refused_with_its_path(schema: pb.Schema, field: str) -> None:
    with pytest.raises((FieldInvalid, UnsupportedType)) as refused:
        schema_from_proto(schema)
    assert refused.value.field.startswith(field)


def test_single_values() -> None:
    assert value_to_proto(7).int == 7
    assert value_to_proto("a").string == "a"
    assert value_to_proto(None).WhichOneof("kind") == "null"
    assert value_to_proto(pa.scalar(1.5)).float == 1.5
    assert value_to_proto(pa.scalar(None, pa.int8())).WhichOneof("kind") == "null"
    assert value_from_proto(pb.Value(int=3), pa.int16()) == pa.scalar(3, pa.int16())
    with pytest.raises(FieldInvalid):
        value_to_proto(object())
    with pytest.raises(FieldInvalid):
        value_to_proto("a", pa.int64())


@pytest.mark.parametrize("value", [None, True, 7, 1.5, "a", b"a", [1, None, 2]])
def test_python_values_come_back(value: object) -> None:
    assert python_from_proto(value_to_proto(value)) == value


def test_an_appended_payload_reads_like_a_set_one() -> None:
    from millrace.storage.v1 import storage_pb2

    payload = b"\x01" * 70_000
    made = with_arrow(
        storage_pb2.ReadRowsResponse(resume_token=b"t", fraction_done=0.5),
        storage_pb2.ReadRowsResponse.BATCH_FIELD_NUMBER,
        payload,
        9,
    )
    plain = storage_pb2.ReadRowsResponse(
        batch=pb.Batch(arrow=payload, row_count=9), resume_token=b"t", fraction_done=0.5
    )
    assert storage_pb2.ReadRowsResponse.FromString(made) == plain
