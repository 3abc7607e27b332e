"""Opaque tokens of at most 512 bytes: where a reader stands, and in which request.

Layout: format byte, kind byte, fields as varints and length-prefixed bytes, CRC32 of all before. A token carries no
right: whoever presents it is authorised anew. A token is valid on any replica and one release up or down, so a field
is only ever added at the end of a kind, under a new format byte.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

from millrace.errors import TokenMismatch, TokenUnsupported

FORMAT: Final = 1
MAX_BYTES: Final = 512
FINGERPRINT_BYTES: Final = 16


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A row boundary: before row `row` (in the file, zero-based, before any filter) of file number `file` of the list."""

    file: int
    row: int = 0


@dataclass(frozen=True, slots=True)
class SplitToken:
    """The half-open range [start, end) over the file list of a version. `scan`: the encoded request, or empty when it is
    too large to travel here and is kept under `fingerprint`."""

    uid: str
    version: int
    fingerprint: bytes
    start: Place
    end: Place
    scan: bytes = b""


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """After the message that carried it. `fingerprint`: of the request and the split. `emitted`: rows since the split's
    start, so that the end's row count covers the whole of it."""

    uid: str
    version: int
    fingerprint: bytes
    place: Place
    emitted: int


@dataclass(frozen=True, slots=True)
class PageToken:
    """The next page starts after `after`, in the order of the list."""

    fingerprint: bytes
    after: str


def encode_split(token: SplitToken) -> bytes:
    body = _Writer(b"S").text(token.uid).number(token.version).raw(token.fingerprint)
    body.number(token.start.file).number(token.start.row).number(token.end.file).number(token.end.row)
    return body.raw(token.scan).seal()


def decode_split(data: bytes, *, field: str) -> SplitToken:
    read = _Reader(data, b"S", field)
    return SplitToken(
        uid=read.text(),
        version=read.number(),
        fingerprint=read.raw(),
        start=Place(read.number(), read.number()),
        end=Place(read.number(), read.number()),
        scan=read.raw(),
    )


def encode_resume(token: ResumeToken) -> bytes:
    body = _Writer(b"R").text(token.uid).number(token.version).raw(token.fingerprint)
    return body.number(token.place.file).number(token.place.row).number(token.emitted).seal()


def decode_resume(data: bytes, *, field: str = "resume_token") -> ResumeToken:
    read = _Reader(data, b"R", field)
    return ResumeToken(read.text(), read.number(), read.raw(), Place(read.number(), read.number()), read.number())


def encode_page(token: PageToken) -> bytes:
    return _Writer(b"P").raw(token.fingerprint).text(token.after).seal()


def decode_page(data: bytes, *, fingerprint: bytes, field: str = "page_token") -> PageToken:
    """Raises TokenMismatch also when the token belongs to another list request."""
    read = _Reader(data, b"P", field)
    token = PageToken(read.raw(), read.text())
    if token.fingerprint != fingerprint:
        raise TokenMismatch(
            "the page token belongs to another request", field=field, hint="list again without a page token"
        )
    return token


class _Writer:
    def __init__(self, kind: bytes) -> None:
        self._parts = bytearray((FORMAT,)) + kind

    def number(self, value: int) -> _Writer:
        while value >= 0x80:
            self._parts.append(value & 0x7F | 0x80)
            value >>= 7
        self._parts.append(value)
        return self

    def raw(self, value: bytes) -> _Writer:
        self.number(len(value))
        self._parts += value
        return self

    def text(self, value: str) -> _Writer:
        return self.raw(value.encode())

    def seal(self) -> bytes:
        sealed = bytes(self._parts) + zlib.crc32(self._parts).to_bytes(4, "big")
        if len(sealed) > MAX_BYTES:
            raise ValueError(f"a token of {len(sealed)} bytes: what it carries has to be kept elsewhere")
        return sealed


class _Reader:
    def __init__(self, data: bytes, kind: bytes, field: str) -> None:
        self._field = field
        if data and data[0] != FORMAT:
            raise TokenUnsupported(
                "the token has a format that this release does not know", field=field, hint="start again without it"
            )
        if not 6 <= len(data) <= MAX_BYTES or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
            raise self._bad("the token is damaged")
        if data[1:2] != kind:
            raise self._bad("this is a token of another kind")
        self._data, self._at = data[2:-4], 0

    def number(self) -> int:
        value = shift = 0
        while True:
            if self._at >= len(self._data) or shift > 63:
                raise self._bad("the token is damaged")
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def raw(self) -> bytes:
        size = self.number()
        if self._at + size > len(self._data):
            raise self._bad("the token is damaged")
        self._at += size
        return self._data[self._at - size : self._at]

    def text(self) -> str:
        try:
            return self.raw().decode()
        except UnicodeDecodeError:
            raise self._bad("the token is damaged") from None

    def _bad(self, message: str) -> TokenMismatch:
        return TokenMismatch(message, field=self._field, hint="use a token as it came, with the request it came for")
