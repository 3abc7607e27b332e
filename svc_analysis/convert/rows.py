"""Rows on their way out: cut to messages of a size, in the encoding that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from millrace.arrow.slices import LIMIT_BYTES
from millrace.errors import FieldInvalid
from millrace.types.v1 import types_pb2
from millrace.wire.batch import batches_to_proto


@dataclass(frozen=True, slots=True)
class Travel:
    """How rows travel. `max_message_bytes` 0: about 1 MiB."""

    encoding: int
    compression: int = types_pb2.COMPRESSION_UNSPECIFIED
    max_message_bytes: int = 0

    def messages(self, batch: pa.RecordBatch) -> Iterator[types_pb2.Batch]:
        """Blocking, CPU. Raises UnsupportedType, ValueNotRepresentable, RowTooLarge."""
        return batches_to_proto(batch, self.encoding, self.compression, max_message_bytes=self.max_message_bytes)


def travel_from(encoding: int, compression: int = 0, max_message_bytes: int = 0) -> Travel:
    """Raises FieldInvalid."""
    if encoding not in types_pb2.Encoding.values():
        raise FieldInvalid("ROWS or ARROW is expected", field="encoding")
    if compression not in types_pb2.Compression.values():
        raise FieldInvalid("NONE, LZ4 or ZSTD is expected", field="compression")
    if not 0 <= max_message_bytes <= LIMIT_BYTES:
        raise FieldInvalid(f"0 to {LIMIT_BYTES} bytes are expected", field="max_message_bytes")
    return Travel(encoding or types_pb2.ENCODING_ROWS, compression, max_message_bytes)
