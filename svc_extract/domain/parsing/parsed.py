"""Records that were parsed: good rows, bad ones with their place, and how both are cut to what one message carries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from svc_extract.ports import MAX_CHUNK_BYTES, DeadLetter

RAW_BYTES = 64 * 1024
CUT_MARK = b"...[cut by millrace]"


@dataclass(frozen=True, slots=True)
class Parsed:
    """`records` records in order: each is a row of `rows` or one of `letters` (by ascending `row_index`)."""

    rows: pa.RecordBatch
    letters: tuple[DeadLetter, ...]

    @property
    def records(self) -> int:
        return int(self.rows.num_rows) + len(self.letters)


@dataclass(frozen=True, slots=True)
class Piece:
    """`records` of a Parsed from `first` on, small enough for one message."""

    rows: pa.RecordBatch
    letters: tuple[DeadLetter, ...]
    first: int
    records: int


def raw_of(record: bytes) -> bytes:
    """A dead letter's bytes: at most 64 KiB, a cut one says so."""
    return record if len(record) <= RAW_BYTES else record[: RAW_BYTES - len(CUT_MARK)] + CUT_MARK


def letter(row_index: int, reason: str, field: str, record: bytes) -> DeadLetter:
    return DeadLetter(row_index, reason, field, raw_of(record))


def letters_of(bad: Mapping[int, tuple[str, str]], raws: Sequence[bytes]) -> tuple[DeadLetter, ...]:
    """`bad`: record -> (reason, field)."""
    return tuple(letter(index, *bad[index], raws[index]) for index in sorted(bad))


def pieces(parsed: Parsed, *, limit_bytes: int = MAX_CHUNK_BYTES) -> Iterator[Piece]:
    """`parsed` in order, halved until each piece fits. A single record may be larger: storage refuses it by name."""
    at = np.array([one.row_index for one in parsed.letters], np.int64)
    stack = [(0, parsed.records)]
    while stack:
        first, count = stack.pop()
        from_letter, to_letter = np.searchsorted(at, [first, first + count])
        letters = parsed.letters[from_letter:to_letter]
        rows = parsed.rows.slice(first - int(from_letter), count - len(letters))
        if count > 1 and rows.nbytes + _bytes_of(letters) > limit_bytes:
            half = count // 2
            stack.append((first + half, count - half))
            stack.append((first, half))
            continue
        moved = tuple(DeadLetter(one.row_index - first, one.reason, one.field, one.raw) for one in letters)
        yield Piece(rows, moved, first, count)


def _bytes_of(letters: Sequence[DeadLetter]) -> int:
    return sum(len(one.raw) + 64 for one in letters)
