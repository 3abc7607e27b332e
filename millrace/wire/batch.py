"""Batches: `millrace.types.v1.Batch` in both encodings, with equal values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

from millrace.arrow import ipc, slices
from millrace.arrow.conform import conform
from millrace.arrow.types import normalise
from millrace.errors import ArrowInvalid, FieldInvalid, RowTooLarge
from millrace.types.v1 import types_pb2 as pb
from millrace.wire.values import array_from_protos, array_to_protos

_CODECS: Mapping[int, ipc.Codec] = {pb.COMPRESSION_LZ4: ipc.Codec.LZ4, pb.COMPRESSION_ZSTD: ipc.Codec.ZSTD}


# -- to proto ----------------------------------------------------------------------------------------------------------
def batches_to_proto(
    batch: pa.RecordBatch,
    encoding: int = pb.ENCODING_ARROW,
    compression: int = pb.COMPRESSION_UNSPECIFIED,
    *,
    max_message_bytes: int = 0,
) -> Iterator[pb.Batch]:
    """`batch` in order, cut to messages: ARROW of about 1 MiB (or `max_message_bytes`), ROWS of 1,000 rows or 256 KiB.

    An empty batch gives one message. Raises UnsupportedType, ValueNotRepresentable, RowTooLarge. Blocking (CPU)."""
    plain = normalise(batch)
    limit = min(max_message_bytes or slices.LIMIT_BYTES, slices.LIMIT_BYTES)
    if encoding != pb.ENCODING_ARROW:
        yield from _rows_messages(plain, min(max_message_bytes or slices.ROWS_TARGET_BYTES, slices.ROWS_TARGET_BYTES))
        return
    target = min(limit, max_message_bytes or slices.TARGET_BYTES)
    for part in slices.cut(plain, target_bytes=max(target, 4096)):
        yield batch_to_proto(part, encoding, compression)


def batch_to_proto(
    batch: pa.RecordBatch, encoding: int = pb.ENCODING_ARROW, compression: int = pb.COMPRESSION_UNSPECIFIED
) -> pb.Batch:
    """`batch`, whose types are canonical, as one message of whatever size. Raises ValueNotRepresentable. Blocking (CPU)."""
    if encoding == pb.ENCODING_ARROW:
        return pb.Batch(arrow=ipc.encode(batch, codec_of(compression)), row_count=batch.num_rows)
    return pb.Batch(rows=pb.Rows(rows=_rows(batch)), row_count=batch.num_rows)


def codec_of(compression: int) -> ipc.Codec:
    """Arrow's codec; UNSPECIFIED and NONE, and what is not known here, mean none."""
    return _CODECS.get(compression, ipc.Codec.NONE)


def _rows(batch: pa.RecordBatch) -> list[pb.Row]:
    if not batch.num_columns:
        return [pb.Row() for _ in range(batch.num_rows)]
    columns = [array_to_protos(column) for column in batch.columns]
    return [pb.Row(values=values) for values in zip(*columns, strict=True)]


def _rows_messages(batch: pa.RecordBatch, target: int) -> Iterator[pb.Batch]:
    if batch.num_rows == 0:
        yield pb.Batch(rows=pb.Rows())
        return
    first = 0
    for part in slices.cut(batch, max_rows=slices.ROWS_TARGET_COUNT):
        rows: list[pb.Row] = []
        size = 0
        for row in _rows(part):
            # 5: the tag and the length of the row in its list.
            row_size = row.ByteSize() + 5
            if row_size > slices.LIMIT_BYTES:
                at = first + len(rows)
                raise RowTooLarge(
                    f"row {at} is {row_size} bytes, a message carries {slices.LIMIT_BYTES}",
                    metadata={"row_index": str(at)},
                )
            if rows and size + row_size > target:
                yield pb.Batch(rows=pb.Rows(rows=rows), row_count=len(rows))
                first, rows, size = first + len(rows), [], 0
            rows.append(row)
            size += row_size
        yield pb.Batch(rows=pb.Rows(rows=rows), row_count=len(rows))
        first += len(rows)


# -- from proto --------------------------------------------------------------------------------------------------------
def batch_from_proto(batch: pb.Batch, schema: pa.Schema, *, where: str = "batch") -> pa.RecordBatch:
    """A client's batch with exactly `schema`'s columns (types canonical): guarded, fully validated, `row_count` checked.

    NULL in a NOT NULL column is let through: the table's contract judges rows. Raises FieldInvalid with the path below `where`,
    SchemaMismatch, ArrowInvalid, ArrowTooLarge, UnsupportedType, ValueNotRepresentable. Blocking (CPU)."""
    match batch.WhichOneof("data"):
        case "arrow":
            found = conform(ipc.decode(batch.arrow), schema)
        case "rows":
            found = _from_rows(batch.rows, schema, f"{where}.rows")
        case _ if batch.row_count == 0:
            return _empty(schema)
        case _:
            raise FieldInvalid("a batch without data has no rows", field=f"{where}.row_count")
    if found.num_rows != batch.row_count:
        raise FieldInvalid(
            f"{batch.row_count} announced, {found.num_rows} found",
            field=f"{where}.row_count",
            hint="set it to the rows in `data`",
        )
    return found


def read_batch(batch: pb.Batch, schema: pa.Schema, *, where: str = "batch") -> pa.RecordBatch:
    """A batch from our own server, not validated and where it can be not copied. Raises ArrowInvalid when rows are missing."""
    if batch.WhichOneof("data") != "arrow":
        return batch_from_proto(batch, schema, where=where)
    found = ipc.read(batch.arrow)
    if found.num_rows != batch.row_count:
        raise ArrowInvalid(f"{batch.row_count} rows announced, {found.num_rows} found")
    return found


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], kind) for kind in schema.types], schema=schema)


def _from_rows(rows: pb.Rows, schema: pa.Schema, where: str) -> pa.RecordBatch:
    """Columns are added behind the others, so rows of a sender that does not know the last ones lack just these: NULL."""
    known = len(rows.rows[0].values) if rows.rows else len(schema)
    if 0 < known < len(schema) and all(schema.field(at).nullable for at in range(known, len(schema))):
        found = _from_rows(rows, pa.schema([schema.field(at) for at in range(known)]), where)
        missing = [pa.nulls(found.num_rows, schema.field(at).type) for at in range(known, len(schema))]
        return pa.RecordBatch.from_arrays([*found.columns, *missing], schema=schema)
    for index, row in enumerate(rows.rows):
        if len(row.values) != len(schema):
            raise FieldInvalid(
                f"{len(row.values)} values for {len(schema)} columns",
                field=f"{where}.rows[{index}].values",
                hint='by position, NULL is written {"null":{}}',
            )
    columns = [
        array_from_protos(
            [row.values[at] for row in rows.rows], field.type, where=f"{where}.rows[{{index}}].values[{at}]"
        )
        for at, field in enumerate(schema)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
