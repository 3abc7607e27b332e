"""What a file is made of: row groups, in them a chunk per column (Arrow, zstd), and an index that says where they lie.

A chunk is cut into pieces of at most 1 MiB; chunks fill one partition after another. A file of few rows is one blob whole: the index, then
all its columns. This module only turns rows into bytes and back.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from millrace.errors import ChecksumMismatch
from svc_storage.adapters.cassandra.codec import schema_bytes, schema_from
from svc_storage.domain.reading.statistics import StatisticsBuilder

GROUP_ROWS = 65_536
GROUP_BYTES = 16 << 20
"""In memory; a row group is closed at either."""
WHOLE_BYTES = 256 << 10
"""Files of one group below this are kept whole."""
_LENGTH = struct.Struct(">II")
_CODEC = "zstd"


@dataclass(frozen=True, slots=True)
class Chunk:
    """One column of one group. `part`: its partition; `raw`: its size unpacked; `checks`: a CRC-32 per piece."""

    part: int
    raw: int
    size: int
    checks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    rows: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """A file's plan. `whole`: the packed rows of a file without chunks; `whole_raw`: their size unpacked."""

    schema: pa.Schema
    groups: tuple[Group, ...] = ()
    rows: int = 0
    whole_raw: int = 0
    whole: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        said = {
            "schema": base64.b64encode(schema_bytes(self.schema)).decode(),
            "rows": self.rows,
            "whole": self.whole_raw,
            "groups": [
                [group.rows, [[chunk.part, chunk.raw, chunk.size, *chunk.checks] for chunk in group.chunks]]
                for group in self.groups
            ],
        }
        text = json.dumps(said, separators=(",", ":")).encode()
        packed = zlib.compress(text, 1)
        return _LENGTH.pack(len(packed), len(text)) + packed + self.whole

    @classmethod
    def decode(cls, content: bytes) -> Index:
        """Raises ValueError."""
        try:
            size, _ = _LENGTH.unpack_from(content)
            said = json.loads(zlib.decompress(content[_LENGTH.size : _LENGTH.size + size]))
            groups = tuple(
                Group(rows, tuple(Chunk(part, raw, stored, tuple(checks)) for part, raw, stored, *checks in chunks))
                for rows, chunks in said["groups"]
            )
            whole = content[_LENGTH.size + size :]
            return cls(schema_from(base64.b64decode(said["schema"])), groups, said["rows"], said["whole"], whole)
        except (struct.error, zlib.error, KeyError, TypeError, pa.ArrowException) as broken:
            raise ValueError("not a file's index") from broken


def row_groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows in tables of at most 65,536 rows and about 16 MiB; none of no rows."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        start = 0
        while start < batch.num_rows:
            per_row = max(1.0, batch.nbytes / batch.num_rows)
            room = max(1, min(GROUP_ROWS - rows, int((GROUP_BYTES - size) / per_row)))
            part = batch.slice(start, room)
            held.append(part)
            start, rows, size = start + part.num_rows, rows + part.num_rows, size + int(part.num_rows * per_row)
            if rows >= GROUP_ROWS or size >= GROUP_BYTES - per_row:
                yield pa.Table.from_batches(held, schema)
                held, rows, size = [], 0, 0
    if held:
        yield pa.Table.from_batches(held, schema)


def note(statistics: StatisticsBuilder, rows: pa.Table) -> None:
    """Takes a group into the statistics; texts are compared here, as Parquet does it: by their bytes."""
    statistics.add(rows)
    for name in statistics.texts:
        column = rows.column(name)
        if column.null_count < len(column):
            bounds = pc.min_max(column).as_py()
            statistics.add_text(name, (bounds["min"], bounds["max"]))


def pack(rows: pa.RecordBatch) -> tuple[bytes, int]:
    """(bytes, their size unpacked)."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_batch(rows)
    raw = sink.getvalue()
    return pa.compress(raw, codec=_CODEC, asbytes=True), raw.size


def unpack(content: bytes, raw: int) -> pa.RecordBatch:
    """The inverse. Raises ValueError, ArrowException for other bytes."""
    buffer = pa.decompress(content, decompressed_size=raw, codec=_CODEC)
    with pa.ipc.open_stream(buffer) as reader:
        return reader.read_next_batch()


def column_of(rows: pa.Table, number: int) -> pa.RecordBatch:
    """One column of a group, in one piece."""
    column = rows.column(number)
    whole = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    return pa.RecordBatch.from_arrays([whole], schema=pa.schema([rows.schema.field(number)]))


def checked(file: str, group: int, column: int, chunk: Chunk, pieces: Sequence[bytes | None]) -> pa.Array:
    """The column that these pieces are. Raises ChecksumMismatch naming the piece."""
    for number, (piece, check) in enumerate(zip(pieces, chunk.checks, strict=True)):
        if piece is None or zlib.crc32(piece) != check:
            what = "is missing" if piece is None else "is damaged"
            raise ChecksumMismatch(
                f"piece {number} of chunk {group}/{column} of the table's file {file} {what}",
                metadata={"chunk": f"{file}#{group}/{column}/{number}"},
            )
    try:
        return unpack(b"".join(piece for piece in pieces if piece is not None), chunk.raw).column(0)
    except (ValueError, pa.ArrowException) as broken:
        raise ChecksumMismatch(f"chunk {group}/{column} of the table's file {file} cannot be read") from broken
