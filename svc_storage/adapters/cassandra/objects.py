"""Named bytes of a table in the `chunks` table: in pieces of at most 1 MiB, 32 to a partition, with one checksum over all.

A head stands before the first piece: form, how many pieces, size, CRC-32. It is written last: what has no head is not there.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterable, Sequence

from millrace import errors
from svc_storage.adapters.cassandra.session import Pending, Session

PIECE_BYTES = 1 << 20
"""No blob is larger."""
PARTITION_PIECES = 32
PARTITION_BYTES = PARTITION_PIECES * PIECE_BYTES
"""No partition is meant to be larger; half of what storage.md allows."""
_FORM = 1
_HEAD = struct.Struct(">BIQI")
_CONTENT, _FIRST = -1, 0
"""`grp` and `col` of an object's pieces."""
_AHEAD_US = 60_000_000

PUT = "INSERT INTO chunks (uid, file, part, grp, col, piece, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
_GET = "SELECT piece, body FROM chunks WHERE uid = ? AND file = ? AND part = ? AND grp = ? AND col = ?"
_DROP = "DELETE FROM chunks WHERE uid = ? AND file = ? AND part = ?"
STATEMENTS = (PUT, _GET, _DROP)


class Objects:
    """Of the table `uid`. Everything blocks: for worker threads."""

    def __init__(self, session: Session, uid: str) -> None:
        self._session, self.uid = session, uid

    def put(self, file: str, content: bytes) -> int:
        """Durable when it returns; the number of partitions it took. Raises StoreUnavailable."""
        first_bytes = PIECE_BYTES - _HEAD.size
        pieces = [content[:first_bytes], *split(content[first_bytes:])]
        head = _HEAD.pack(_FORM, len(pieces), len(content), zlib.crc32(content))
        later = [self.send(file, n // PARTITION_PIECES, _CONTENT, _FIRST, n, pieces[n]) for n in range(1, len(pieces))]
        settle(later)
        settle([self.send(file, 0, _CONTENT, _FIRST, 0, head + pieces[0])])
        return parts_of(len(pieces))

    def get(self, file: str) -> bytes:
        """Raises FileMissing, ChecksumMismatch, StoreUnavailable."""
        first: dict[int, bytes] = dict(self._session.wait(_GET, self.uid, file, 0, _CONTENT, _FIRST))
        if 0 not in first:
            raise errors.FileMissing(f"{file} of the table is missing")
        form, count, size, crc = _unpacked(file, first[0])
        if form != _FORM:
            raise errors.StoreUnavailable(f"{file} has form {form}, this release knows {_FORM}")
        for part in range(1, parts_of(count)):
            first.update(self._session.wait(_GET, self.uid, file, part, _CONTENT, _FIRST))
        content = b"".join([first[0][_HEAD.size :], *(first.get(piece, b"") for piece in range(1, count))])
        if len(content) != size or zlib.crc32(content) != crc:
            raise errors.ChecksumMismatch(f"{file} of the table is damaged")
        return content

    def remove(self, file: str) -> None:
        """With all its partitions; a missing one is no error."""
        first = self._session.wait(
            "SELECT body FROM chunks WHERE uid = ? AND file = ? AND part = 0 AND grp = ? AND col = ? AND piece = 0",
            *(self.uid, file, _CONTENT, _FIRST),
        )
        count = _unpacked(file, first[0][0])[1] if first else 1
        settle(self.drop_parts(file, range(parts_of(count))))

    def send(self, file: str, part: int, grp: int, col: int, piece: int, body: bytes) -> Pending:
        """One blob on its way, as soon as there is room for it."""
        budget, size = self._session.writes, len(body)
        budget.take(size)
        try:
            sent = self._session.start(PUT, self.uid, file, part, grp, col, piece, body)
        except BaseException:
            budget.give(size)
            raise
        sent.when_answered(lambda: budget.give(size))
        return sent

    def drop_parts(self, file: str, parts: Iterable[int]) -> Sequence[Pending]:
        """Partition deletes on their way."""
        return [self._session.start(_DROP, self.uid, file, part) for part in parts]


def ahead_us() -> int:
    """A time for deletes of what must never come back: they also cover what a clock ahead of ours wrote, and what is written next."""
    return time.time_ns() // 1000 + _AHEAD_US


def split(content: bytes) -> list[bytes]:
    """Pieces of at most 1 MiB; none of nothing."""
    return [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]


def parts_of(pieces: int) -> int:
    return (pieces + PARTITION_PIECES - 1) // PARTITION_PIECES


def settle(sent: Iterable[Pending]) -> None:
    """Waits for all, then raises the first failure."""
    failure: Exception | None = None
    for one in sent:
        try:
            one.rows()
        except errors.MillraceError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def _unpacked(file: str, first: bytes) -> tuple[int, int, int, int]:
    if len(first) < _HEAD.size:
        raise errors.ChecksumMismatch(f"{file} of the table is damaged")
    return _HEAD.unpack_from(first)
