"""Cuts a pinned read into splits: disjoint, complete, in the files' order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svc_storage.domain.reading.pinned import Pinned
from svc_storage.domain.reading.tokens import Place

TARGET_BYTES = 128 << 20
MAX_SPLITS = 1_000
MIN_PIECE_ROWS = 1_024
"""A file is not cut finer than this many rows."""


@dataclass(frozen=True, slots=True)
class Range:
    """Rows [start, end) of the file list. `rows`, `bytes`: by statistics, before the filter."""

    start: Place
    end: Place
    rows: int
    bytes: int

    @property
    def whole_files(self) -> bool:
        return self.start.row == 0 and self.end.row == 0


WHOLE = (Place(0), Place(1 << 40))


def split(pinned: Pinned, *, preferred: int = 0, most: int = 0, within: tuple[Place, Place] = WHOLE) -> Sequence[Range]:
    """At most `most` ranges (0: 1,000) covering all kept files in `within`; about `preferred` or more when the rows allow it.

    With a limit there is one at most: what the limit cuts depends on the order."""
    pieces = _pieces(pinned, within)
    if not pieces:
        return []
    most = min(most or MAX_SPLITS, MAX_SPLITS)
    if pinned.scan.limit:
        return [_joined(pieces)]
    wanted = max(preferred, -(-sum(piece.bytes for piece in pieces) // TARGET_BYTES), 1)
    return _grouped(_cut_finer(pieces, min(wanted, most)), min(wanted, most))


def _pieces(pinned: Pinned, within: tuple[Place, Place]) -> list[Range]:
    start, end = within
    found = []
    for number, (file, kept) in enumerate(zip(pinned.files, pinned.kept, strict=True)):
        first, last = max(start, Place(number)), min(end, Place(number + 1))
        if not kept or first >= last:
            continue
        rows = (last.row if last.file == number else file.row_count) - first.row
        share = rows / file.row_count if file.row_count else 0
        found.append(Range(first, last, rows, int(file.size_bytes * share)))
    return found


def _cut_finer(pieces: list[Range], wanted: int) -> list[Range]:
    pieces = list(pieces)
    while len(pieces) < wanted:
        at = max(range(len(pieces)), key=lambda index: pieces[index].rows)
        piece = pieces[at]
        if piece.rows < 2 * MIN_PIECE_ROWS:
            break
        half = piece.rows // 2
        middle = Place(piece.start.file, piece.start.row + half)
        size = piece.bytes * half // piece.rows
        pieces[at : at + 1] = [
            Range(piece.start, middle, half, size),
            Range(middle, piece.end, piece.rows - half, piece.bytes - size),
        ]
    return pieces


def _grouped(pieces: list[Range], count: int) -> list[Range]:
    """Neighbours together, `count` groups of about the same bytes."""
    count = min(count, len(pieces))
    left = sum(piece.bytes for piece in pieces)
    groups: list[Range] = []
    group: list[Range] = []
    for index, piece in enumerate(pieces):
        group.append(piece)
        open_groups = count - len(groups)
        held = sum(one.bytes for one in group)
        must_close = len(pieces) - index - 1 == open_groups - 1
        if must_close or (open_groups > 1 and held * open_groups >= left):
            groups.append(_joined(group))
            left -= held
            group = []
    if group:
        groups.append(_joined(group))
    return groups


def _joined(pieces: Sequence[Range]) -> Range:
    return Range(
        pieces[0].start, pieces[-1].end, sum(piece.rows for piece in pieces), sum(piece.bytes for piece in pieces)
    )
