"""Cuts batches to the size of a message, at row boundaries."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from millrace.errors import RowTooLarge

TARGET_BYTES = 1024 * 1024
LIMIT_BYTES = 3_670_016
"""3.5 MiB: what a message may carry; gRPC's receive limit of 4 MiB leaves room for the rest."""
ROWS_TARGET_BYTES = 256 * 1024
ROWS_TARGET_COUNT = 1_000
_MAX_FIXED_BYTES = 512 * 1024


def size_of(batch: pa.RecordBatch) -> int:
    """About how many bytes `batch` takes as an uncompressed IPC stream: its slices of the buffers, their padding, the metadata."""
    return int(batch.nbytes) + overhead(batch.schema)


def overhead(schema: pa.Schema) -> int:
    """Bytes of an IPC stream that do not depend on the rows: metadata and padding."""
    metadata = sum(len(key) + len(value) for field in schema for key, value in (field.metadata or {}).items())
    return 512 + metadata + sum(map(len, schema.names)) + 360 * sum(map(_arrays, schema.types))


def _arrays(kind: pa.DataType) -> int:
    return 1 + sum(_arrays(kind.field(index).type) for index in range(kind.num_fields))


def cut(
    batch: pa.RecordBatch,
    *,
    target_bytes: int = TARGET_BYTES,
    limit_bytes: int = LIMIT_BYTES,
    max_rows: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """Slices of `batch` in order, without copying, each of about `target_bytes`; an empty batch gives itself.

    Raises RowTooLarge (metadata `row_index`) when a single row is larger than `limit_bytes`; the rows before it have been given by then."""
    fixed = min(overhead(batch.schema), _MAX_FIXED_BYTES, target_bytes // 2)
    if batch.num_rows == 0:
        yield batch
        return
    room = target_bytes - fixed
    at = 0
    # Rows of even size are cut in one step; the stack then halves only what is still too large.
    step = max(1, int(batch.num_rows * room / max(1, batch.nbytes)))
    step = min(step, max_rows or step)
    while at < batch.num_rows:
        yield from _halved(batch.slice(at, step), at, room + room // 4, limit_bytes - fixed)
        at += step


def _halved(piece: pa.RecordBatch, at: int, room: int, limit: int) -> Iterator[pa.RecordBatch]:
    stack = [(at, piece)]
    while stack:
        start, part = stack.pop()
        size = part.nbytes
        if size <= room or (part.num_rows == 1 and size <= limit):
            yield part
        elif part.num_rows == 1:
            raise RowTooLarge(
                f"row {start} is {size} bytes, a message carries at most {limit}",
                metadata={"row_index": str(start)},
                hint="split its values",
            )
        else:
            half = part.num_rows // 2
            stack.append((start + half, part.slice(half)))
            stack.append((start, part.slice(0, half)))
