"""Arrow IPC streams of exactly one record batch: encoded, and decoded from callers who are not trusted.

Unvalidated bytes crash a process (contracts.md, section 10, T10 and "Who is calling"), and 24 KB of ZSTD decode to 800 MB, so `decode`
measures first (`_measure`, pure Python, no decompression), lets Arrow build second, and has it validate all third.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import Enum

import pyarrow as pa

from millrace.arrow import flatbuffer
from millrace.arrow.types import canonical_schema, nesting, normalise
from millrace.errors import ArrowInvalid, ArrowTooLarge, UnsupportedType

MAX_DECODED_BYTES = 64 * 1024 * 1024
MAX_ARRAY_LENGTH = 32 * 1024 * 1024
"""Rows or items of any one array: more do not come from honest messages of 4 MiB, and some types store no bytes per item."""
MAX_FIELDS = 10_000

_VIEWS = (pa.types.is_string_view, pa.types.is_binary_view, pa.types.is_list_view, pa.types.is_large_list_view)
_CONTINUATION = 0xFFFFFFFF


class Codec(Enum):
    """How the buffers of an encoded batch are compressed. The value is Arrow's name."""

    NONE = None
    LZ4 = "lz4"
    ZSTD = "zstd"


def encode(batch: pa.RecordBatch, codec: Codec = Codec.NONE) -> bytes:
    """`batch` as a complete IPC stream: schema, one record batch, end. Types are written as they are: `normalise` first."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec.value, use_threads=False)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def read(data: bytes) -> pa.RecordBatch:
    """The one batch of a stream that our own server wrote: no validation, no copy where nothing is compressed.

    Raises ArrowInvalid when it is not such a stream."""
    try:
        with pa.ipc.open_stream(pa.py_buffer(data), options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
            return reader.read_next_batch()
    except (pa.ArrowException, StopIteration, OSError) as error:
        raise ArrowInvalid("not an Arrow IPC stream with one record batch") from error


def decode(data: bytes, *, max_decoded_bytes: int = MAX_DECODED_BYTES) -> pa.RecordBatch:
    """The one batch of a client's stream, fully validated, in canonical types.

    Raises ArrowInvalid, ArrowTooLarge, UnsupportedType, ValueNotRepresentable; nothing is decompressed before the sizes that the
    message declares were added up. Blocking (CPU): off the event loop for more than a few KiB."""
    _measure(data, max_decoded_bytes)
    try:
        with pa.ipc.open_stream(pa.py_buffer(data), options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
            _check_schema(reader.schema)
            batch = reader.read_next_batch()
        batch.validate()
    except (pa.ArrowException, StopIteration, OSError, ValueError, UnicodeDecodeError) as error:
        raise ArrowInvalid("the Arrow IPC stream is damaged", hint="encode the batch again") from error
    except MemoryError as error:
        raise ArrowTooLarge("the Arrow batch does not fit into memory") from error
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        _validate(column, name)
    return normalise(batch)


def _validate(column: pa.Array, name: str) -> None:
    try:
        column.validate(full=True)
    except (pa.ArrowException, ValueError) as error:  # not UTF-8, a date64 within a day, offsets that fall, …
        raise ArrowInvalid(
            f"column `{name[:80]}`: the data are damaged, or no values of its type",
            field=name,
            hint="encode the batch again",
        ) from error


# -- the schema --------------------------------------------------------------------------------------------------------
def _check_schema(schema: pa.Schema) -> None:
    """Refuses, before any array is built, what cannot be built or cast safely."""
    for field in schema:
        _check_type(field.type, field.name)
    canonical_schema(schema)


def _check_type(kind: pa.DataType, where: str) -> None:
    types = pa.types
    if types.is_dictionary(kind) or any(matches(kind) for matches in _VIEWS):
        # A few bytes of indices or views can name the same megabyte again and again; and Arrow neither validates the views of NULLs
        # nor stops its casts from following them.
        raise UnsupportedType(
            f"column `{where[:64]}`: send the values, not {kind}", field=where[:64], hint="cast it before sending"
        )
    if types.is_fixed_size_binary(kind) and kind.byte_width == 0:
        raise UnsupportedType(f"column `{where[:64]}`: values of no width", field=where[:64])
    if types.is_fixed_size_list(kind) and kind.list_size == 0:
        raise UnsupportedType(f"column `{where[:64]}`: lists of no length", field=where[:64])
    if nesting(kind) > 17:
        raise UnsupportedType(f"column `{where[:64]}`: nested deeper than 16 levels", field=where[:64])
    for index in range(kind.num_fields):
        _check_type(kind.field(index).type, where)


# -- the messages ------------------------------------------------------------------------------------------------------
def _measure(data: bytes, max_decoded_bytes: int) -> None:
    """Refuses what is not schema, one batch, end; and what would decode to more than the limit."""
    kinds: list[int] = []
    for found, body in _messages(memoryview(data)):
        kinds.append(found.kind)
        if kinds == [flatbuffer.SCHEMA]:
            if found.header.number(0, "<h", 0) != 0:
                raise ArrowInvalid("Arrow data must be little-endian")
        elif kinds == [flatbuffer.SCHEMA, flatbuffer.RECORD_BATCH]:
            _check_batch(flatbuffer.batch_header(found.header), body, max_decoded_bytes)
        else:
            raise ArrowInvalid(
                "an Arrow stream holds a schema and exactly one record batch",
                hint="send one message per batch, no dictionaries",
            )
    if len(kinds) != 2:
        raise ArrowInvalid("an Arrow stream holds a schema and exactly one record batch")


def _messages(data: memoryview) -> Iterator[tuple[flatbuffer.Message, memoryview]]:
    at = 0
    while at + 8 <= len(data):
        marker, length = struct.unpack_from("<II", data, at)
        if marker != _CONTINUATION:
            raise ArrowInvalid("not an Arrow IPC stream: a message does not begin with FF FF FF FF")
        if length == 0:
            if at + 8 != len(data):
                raise ArrowInvalid("bytes follow the end of the Arrow stream")
            return
        start, end = at + 8, at + 8 + length
        if length % 8 or end > len(data):
            raise ArrowInvalid("an Arrow message is cut short or not padded to 8 bytes")
        found = flatbuffer.message(data[start:end])
        if not 0 <= found.body_length <= len(data) - end or found.body_length % 8:
            raise ArrowInvalid("an Arrow message's body is cut short or not padded to 8 bytes")
        at = end + found.body_length
        yield found, data[end:at]
    if at != len(data):
        raise ArrowInvalid("bytes follow the last Arrow message")


def _check_batch(header: flatbuffer.BatchHeader, body: memoryview, limit: int) -> None:
    if not 0 <= header.row_count <= MAX_ARRAY_LENGTH:
        raise ArrowTooLarge(f"an Arrow batch has at most {MAX_ARRAY_LENGTH} rows")
    if len(header.nodes) > MAX_FIELDS:
        raise ArrowTooLarge(f"an Arrow batch has at most {MAX_FIELDS} arrays")
    for length, null_count in header.nodes:
        if not 0 <= null_count <= length:
            raise ArrowInvalid("an Arrow array has more NULLs than values")
        if length > MAX_ARRAY_LENGTH:
            raise ArrowTooLarge(f"an Arrow array has at most {MAX_ARRAY_LENGTH} values")
    if any(count < 0 for count in header.variadic_counts) or sum(header.variadic_counts) > len(header.buffers):
        raise ArrowInvalid("an Arrow view has more buffers than the batch")
    total = sum(_decoded_bytes(body, offset, length, header.codec) for offset, length in header.buffers)
    if total > limit:
        raise ArrowTooLarge(
            f"the Arrow batch decodes to {total} bytes, at most {limit} are taken",
            hint="send smaller batches, about 1 MiB each",
            metadata={"decoded_bytes": str(total), "limit_bytes": str(limit)},
        )


def _decoded_bytes(body: memoryview, offset: int, length: int, codec: int | None) -> int:
    if offset < 0 or length < 0 or offset + length > len(body) or offset % 8:
        raise ArrowInvalid("an Arrow buffer lies outside its message or is not aligned to 8 bytes")
    if codec is None or length == 0:
        return length
    if length < 8:
        raise ArrowInvalid("a compressed Arrow buffer is too short for its length prefix")
    declared: int = struct.unpack_from("<q", body, offset)[0]
    if declared < -1:
        raise ArrowInvalid("a compressed Arrow buffer declares a negative length")
    return length - 8 if declared == -1 else declared
