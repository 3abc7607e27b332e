"""A gzip file as if it were plain: reads that move forward, and step back a little, unpack each byte once."""

from __future__ import annotations

import gzip
from pathlib import Path

_SKIP_BYTES = 1 << 20


class PackedFile:
    """`read_at` keeps what it returned last, so that the next read may begin inside of it; one before it unpacks anew."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.GzipFile(path, "rb")
        self._start, self._kept = 0, b""

    def read_at(self, offset: int, size: int) -> bytes:
        """Fewer bytes only at the end. Raises EOFError (not whole), gzip.BadGzipFile, zlib.error."""
        if offset < self._start:
            self._file.seek(0)
            self._start, self._kept = 0, b""
        self._drop_before(offset)
        if len(self._kept) < size:
            self._kept += self._file.read(size - len(self._kept))
        return self._kept[:size]

    def _drop_before(self, offset: int) -> None:
        while offset > self._start + len(self._kept):
            self._start += len(self._kept)
            self._kept = self._file.read(min(_SKIP_BYTES, offset - self._start))
            if not self._kept:
                return
        self._kept = self._kept[offset - self._start :]
        self._start = offset

    def close(self) -> None:
        self._file.close()


class PlainFile:
    """The same for a file as it lies there."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def read_at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()
