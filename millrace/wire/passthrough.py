"""Serialises a message that carries Arrow bytes without handing those bytes to protobuf.

protobuf copies a payload twice on its way out (0.87 ms per MiB against 0.07 ms here). A proto3 message may instead be followed by one
more `batch` field on the wire: parsers merge the two, so `tag(batch) length tag(arrow) length payload` completes it.
"""

from __future__ import annotations

from google.protobuf.message import Message

from millrace.types.v1 import types_pb2 as pb

_LENGTH_DELIMITED = 2
_ARROW_TAG = bytes([pb.Batch.ARROW_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])


def with_arrow(message: Message, batch_field: int, payload: bytes, row_count: int) -> bytes:
    """`message` (whose oneof of `batch_field` is unset) with a Batch of `payload` in that field, serialised."""
    head = pb.Batch(row_count=row_count).SerializeToString() + _ARROW_TAG + _varint(len(payload))
    tag = _varint(batch_field << 3 | _LENGTH_DELIMITED)
    return b"".join((message.SerializeToString(), tag, _varint(len(head) + len(payload)), head, payload))


def serialize(message: Message | bytes) -> bytes:
    """A `response_serializer` for handlers that may write what `with_arrow` made: bytes pass through."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
