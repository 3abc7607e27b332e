"""Reads Arrow's IPC metadata without trusting it: every access is bounds-checked and only the few fields needed are read.

Format: flatbuffers' internals document; Message.fbs and Schema.fbs of Apache Arrow's format folder.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from millrace.errors import ArrowInvalid

SCHEMA, RECORD_BATCH = 1, 3
"""Values of the union MessageHeader."""
_VERSION_V5 = 4
_MAX_BUFFERS = 200_000


@dataclass(frozen=True, slots=True)
class Message:
    """One IPC message's header. `body_length` in bytes."""

    kind: int
    header: Table
    body_length: int


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """A record batch's layout. `nodes`: (length, null count) per array; `buffers`: (offset, length) in the body.

    `codec`: None uncompressed, 0 LZ4 frame, 1 ZSTD."""

    row_count: int
    nodes: tuple[tuple[int, int], ...]
    buffers: tuple[tuple[int, int], ...]
    codec: int | None
    variadic_counts: tuple[int, ...]


class Table:
    """One flatbuffer table. Absent fields give their default."""

    def __init__(self, data: memoryview, at: int) -> None:
        self._data = data
        self._at = at
        self._vtable = at - self._int("<i", at)
        self._vtable_size = self._int("<H", self._vtable)

    def number(self, slot: int, form: str, default: int) -> int:
        """A scalar field; `form` as in `struct`, little-endian."""
        at = self._field(slot)
        return default if at is None else self._int(form, at)

    def table(self, slot: int) -> Table | None:
        """A field that refers to a table, or to a union's value."""
        at = self._field(slot)
        return None if at is None else Table(self._data, at + self._int("<I", at))

    def pairs(self, slot: int) -> tuple[tuple[int, int], ...]:
        """A vector of structs of two int64."""
        start, count = self._vector(slot, 16)
        flat = struct.unpack_from(f"<{2 * count}q", self._data, start) if count else ()
        return tuple(zip(flat[::2], flat[1::2], strict=True))

    def longs(self, slot: int) -> tuple[int, ...]:
        """A vector of int64."""
        start, count = self._vector(slot, 8)
        return struct.unpack_from(f"<{count}q", self._data, start) if count else ()

    def _vector(self, slot: int, width: int) -> tuple[int, int]:
        at = self._field(slot)
        if at is None:
            return 0, 0
        start = at + self._int("<I", at)
        count = self._int("<I", start)
        if count > _MAX_BUFFERS or start + 4 + count * width > len(self._data):
            raise ArrowInvalid("the Arrow message's metadata is damaged: a vector leaves it")
        return start + 4, count

    def _field(self, slot: int) -> int | None:
        entry = 4 + 2 * slot
        if entry + 2 > self._vtable_size:
            return None
        offset = self._int("<H", self._vtable + entry)
        return self._at + offset if offset else None

    def _int(self, form: str, at: int) -> int:
        if at < 0 or at + struct.calcsize(form) > len(self._data):
            raise ArrowInvalid("the Arrow message's metadata is damaged: a reference leaves it")
        number: int = struct.unpack_from(form, self._data, at)[0]
        return number


def message(metadata: memoryview) -> Message:
    """The header of one message. Raises ArrowInvalid."""
    if len(metadata) < 8:
        raise ArrowInvalid("an Arrow message's metadata is too short")
    root = Table(metadata, struct.unpack_from("<I", metadata, 0)[0])
    if root.number(0, "<h", 0) != _VERSION_V5:
        raise ArrowInvalid("Arrow IPC metadata must be of version V5", hint="write it with Arrow 1.0 or newer")
    header = root.table(2)
    if header is None:
        raise ArrowInvalid("an Arrow message has no header")
    return Message(root.number(1, "<B", 0), header, root.number(3, "<q", 0))


def batch_header(header: Table) -> BatchHeader:
    """The layout of a record batch. Raises ArrowInvalid."""
    compression = header.table(3)
    codec = None if compression is None else compression.number(0, "<b", 0)
    if codec not in (None, 0, 1) or (compression is not None and compression.number(1, "<b", 0) != 0):
        raise ArrowInvalid("Arrow buffers may be plain, LZ4 frames or ZSTD")
    return BatchHeader(header.number(0, "<q", 0), header.pairs(1), header.pairs(2), codec, header.longs(4))
