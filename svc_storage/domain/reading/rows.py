"""The rows of a range, file by file in the list's order, a bounded piece at a time, with the place after every row.

Blocking: belongs on a worker thread, one call at a time. What is held is one Parquet reader and one chunk.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from svc_storage.domain.reading.filtering import evaluate
from svc_storage.domain.reading.pinned import Pinned
from svc_storage.domain.reading.predicates import columns_of
from svc_storage.domain.reading.tokens import Place

CHUNK_BYTES = 1 << 20
SCANNED_BYTES = 32 << 20
"""A chunk is handed on, even an empty one, after this much was looked at: a filter that matches nothing stays interruptible."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Rows of a chunk from one batch of a file: `row`, `row + 1`, … of `file`, or `row + indices`. `first`: in the chunk."""

    first: int
    file: int
    row: int
    indices: pa.Array | None

    def place_after(self, count: int) -> Place:
        if self.indices is None:
            return Place(self.file, self.row + count)
        return Place(self.file, self.row + int(self.indices[count - 1].as_py()) + 1)


@dataclass(frozen=True, slots=True)
class Chunk:
    """`batch`: matching rows. `end`: the place after all that was looked at. `fraction`: done of the range's files, by bytes."""

    batch: pa.RecordBatch
    runs: Sequence[_Run]
    end: Place
    fraction: float

    def place_after(self, rows: int) -> Place:
        """Where to go on once the first `rows` of the chunk were delivered; `rows` >= 1."""
        if rows >= self.batch.num_rows:
            return self.end
        run = self.runs[bisect_right(self.runs, rows - 1, key=lambda one: one.first) - 1]
        return run.place_after(rows - run.first)

    def head(self, rows: int) -> Chunk:
        """The first `rows` of it."""
        end = self.place_after(rows) if rows else self.end
        return Chunk(self.batch.slice(0, rows), self.runs, end, self.fraction)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one batch of a file gave. `scanned`: its bytes in memory before the filter."""

    batch: pa.RecordBatch
    run: _Run
    end: Place
    scanned: int
    fraction: float


class RowReader:
    """The chunks of [start, end), one by one; close it. `begin`: of the whole range when `start` is a place inside it."""

    def __init__(self, pinned: Pinned, start: Place, end: Place, *, begin: Place | None = None) -> None:
        self._schema = pinned.schema
        self._pieces = _pieces(pinned, begin or start, start, end)

    def next(self) -> Chunk | None:
        """None at the end."""
        batches: list[pa.RecordBatch] = []
        runs: list[_Run] = []
        rows = size = scanned = 0
        last: _Piece | None = None
        for piece in self._pieces:
            last = piece
            scanned += piece.scanned
            if piece.batch.num_rows:
                runs.append(_Run(rows, piece.run.file, piece.run.row, piece.run.indices))
                batches.append(piece.batch)
                rows, size = rows + piece.batch.num_rows, size + piece.batch.nbytes
            if size >= CHUNK_BYTES or scanned >= SCANNED_BYTES:
                break
        if last is None:
            return None
        return Chunk(self._joined(batches), runs, last.end, last.fraction)

    def close(self) -> None:
        self._pieces.close()

    def _joined(self, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
        if not batches:
            return pa.RecordBatch.from_pylist([], schema=self._schema)
        return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _pieces(pinned: Pinned, begin: Place, start: Place, end: Place) -> Generator[_Piece, None, None]:
    needed = _needed(pinned)
    range_files = range(begin.file, min(len(pinned.files), end.file + 1))
    total = sum(pinned.files[number].size_bytes for number in range_files if pinned.kept[number]) or 1
    done = sum(pinned.files[number].size_bytes for number in range(begin.file, start.file) if pinned.kept[number])
    for number in range(start.file, range_files.stop):
        file = pinned.files[number]
        first = start.row if number == start.file else 0
        last = min(end.row, file.row_count) if number == end.file else file.row_count
        if not pinned.kept[number] or first >= last:
            continue
        for row, batch in pinned.view.files.batches(file, needed, first, last):
            after = row + batch.num_rows
            fraction = min(1.0, (done + file.size_bytes * after / file.row_count) / total)
            yield _matched(pinned, batch, number, row, fraction)
        done += file.size_bytes


def _matched(pinned: Pinned, batch: pa.RecordBatch, number: int, row: int, fraction: float) -> _Piece:
    end = Place(number, row + batch.num_rows)
    scanned, indices = batch.nbytes, None
    if pinned.filter is not None:
        mask = pc.fill_null(evaluate(pinned.filter, batch), False)
        if mask.true_count < len(mask):
            indices = pc.indices_nonzero(mask)
            batch = batch.take(indices)
    # Rebuilt against the answer's schema: order, nullability and metadata are the table's, not the file's.
    columns = [batch.column(name) for name in pinned.schema.names]
    return _Piece(
        pa.RecordBatch.from_arrays(columns, schema=pinned.schema), _Run(0, number, row, indices), end, scanned, fraction
    )


def _needed(pinned: Pinned) -> pa.Schema:
    names = dict.fromkeys((*pinned.schema.names, *(columns_of(pinned.filter) if pinned.filter else ())))
    return pa.schema([pinned.stored.field(name) for name in names])
