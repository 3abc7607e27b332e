"""Small chunks as one: a thousand files with a line each are one batch, not a thousand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pyarrow as pa

from svc_extract.ports import Chunk

ENOUGH_BYTES, ENOUGH_RECORDS = 512 << 10, 16_384


def size_of(chunk: Chunk) -> int:
    """Bytes of rows and dead letters."""
    rows = chunk.rows.nbytes if chunk.rows is not None else 0
    return int(rows) + sum(len(one.raw) + 64 for one in chunk.dead_letters)


@dataclass(slots=True)
class Merger:
    """Collects chunks in order; `take` gives all of them as one, with the last one's position."""

    _chunks: list[Chunk] = field(default_factory=list)
    _bytes: int = 0
    _records: int = 0

    def fits(self, chunk: Chunk) -> bool:
        """False when `chunk` should begin another one."""
        small = self._bytes + size_of(chunk) <= ENOUGH_BYTES and self._records + chunk.records <= ENOUGH_RECORDS
        return small or not self._chunks

    def add(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._bytes += size_of(chunk)
        self._records += chunk.records

    def take(self) -> Chunk | None:
        """None when nothing was added since."""
        chunks, self._chunks, self._bytes, self._records = self._chunks, [], 0, 0
        if len(chunks) < 2:
            return chunks[0] if chunks else None
        batches = [chunk.rows for chunk in chunks if chunk.rows is not None and chunk.rows.num_rows]
        letters, before = [], 0
        for chunk in chunks:
            letters += [replace(one, row_index=one.row_index + before) for one in chunk.dead_letters]
            before += chunk.records
        return replace(
            chunks[-1],
            rows=pa.concat_batches(batches) if batches else chunks[-1].rows,
            dead_letters=tuple(letters),
            source_bytes=sum(chunk.source_bytes for chunk in chunks),
        )
