"""Where each record of a block of CSV begins and ends, quoted line breaks and broken quotes included.

A field is quoted only from its first character. A quote that does not close, or goes on after closing, makes the *line* it
began on bad, never what follows: one broken line costs one line. Blocks without quotes, and blocks whose quotes are all in
order, take a vectorised way; the others are read line by line. Both give the same records, wherever the block was cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

MAX_RECORD_BYTES = 1 << 20
"""A longer record is no row: storage takes 3.5 MiB a message, and memory stays bounded."""

_LF, _CR = 10, 13


@dataclass(frozen=True, slots=True)
class Dialect:
    """Single ASCII characters; `quote` "" means that every line is a record. `columns`: fields of a record, 0 when not known yet."""

    delimiter: str = ","
    quote: str = '"'
    columns: int = 0


@dataclass(frozen=True, slots=True)
class Records:
    """Byte ranges in a block: record i is [starts[i], ends[i]) without its line break, what follows begins at nexts[i].

    `bad`: record -> reason, for those that are none. `consumed`: bytes of whole records, blank lines included. `overlong`: the block
    begins with a record that does not end within MAX_RECORD_BYTES."""

    starts: np.ndarray
    ends: np.ndarray
    nexts: np.ndarray
    bad: dict[int, str] = field(default_factory=dict)
    consumed: int = 0
    overlong: bool = False

    def __len__(self) -> int:
        return len(self.starts)


def split(data: bytes, dialect: Dialect, *, final: bool) -> Records:
    """The whole records at the start of `data`. `final`: nothing follows, so the last record may lack its line break."""
    view = np.frombuffer(data, np.uint8)
    lines = np.flatnonzero(view == _LF)
    if final and len(data) and data[-1] != _LF:
        lines = np.append(lines, len(data))
    quotes = np.flatnonzero(view == ord(dialect.quote)) if dialect.quote else np.empty(0, np.int64)
    if not len(quotes):
        return _records(data, view, lines, {}, final)
    ends = lines[np.searchsorted(quotes, lines) % 2 == 0]
    if _in_order(view, quotes, dialect, final) and _plausible(view, lines, ends, quotes, dialect, final, len(data)):
        return _records(data, view, ends, {}, final)
    return _line_by_line(data, view, lines, dialect, final)


def _records(data: bytes, view: np.ndarray, breaks: np.ndarray, bad: dict[int, str], final: bool) -> Records:
    """From the places of the line breaks that end records; `bad` is by break, blank lines are left out."""
    breaks = breaks.astype(np.int64)
    nexts = np.minimum(breaks + 1, len(data))
    starts = np.concatenate([np.zeros(1, np.int64), nexts[:-1]]) if len(breaks) else np.empty(0, np.int64)
    ends = breaks.copy()
    filled = ends > starts
    ends[filled] -= view[ends[filled] - 1] == _CR
    kept = np.flatnonzero(ends > starts)
    long = np.flatnonzero(ends - starts > MAX_RECORD_BYTES)
    reasons = {**bad, **dict.fromkeys(long.tolist(), "ROW_TOO_LARGE")}
    consumed = int(nexts[-1]) if len(nexts) else 0
    rest = len(data) - consumed
    return Records(
        starts[kept],
        ends[kept],
        nexts[kept],
        {int(np.searchsorted(kept, at)): reason for at, reason in reasons.items()},
        consumed,
        overlong=not consumed and not final and rest > MAX_RECORD_BYTES,
    )


def _in_order(view: np.ndarray, quotes: np.ndarray, dialect: Dialect, final: bool) -> bool:
    """True when every quote opens a field, closes one, or is doubled inside one."""
    delimiter, quote, size = ord(dialect.delimiter), ord(dialect.quote), len(view)
    opening, closing = quotes[0::2], quotes[1::2]
    before = view[np.maximum(opening - 1, 0)]
    if not np.all((opening == 0) | (before == delimiter) | (before == _LF) | (before == quote)):
        return False
    after = view[np.minimum(closing + 1, size - 1)]
    second = view[np.minimum(closing + 2, size - 1)]
    breaks = (after == _CR) & ((second == _LF) | (closing + 2 >= size))
    if not np.all((closing + 1 >= size) | (after == delimiter) | (after == _LF) | (after == quote) | breaks):
        return False
    return not (final and len(quotes) % 2)


def _plausible(
    view: np.ndarray,
    lines: np.ndarray,
    ends: np.ndarray,
    quotes: np.ndarray,
    dialect: Dialect,
    final: bool,
    size: int,
) -> bool:
    """False when a record over several lines has another number of fields, or is too long: then its first quote is likelier broken."""
    tail = size - (int(ends[-1]) + 1 if len(ends) else 0)
    if tail > MAX_RECORD_BYTES:
        return False
    if len(ends) == len(lines):
        return True
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else np.empty(0, np.int64)
    several = np.searchsorted(lines, ends) - np.searchsorted(lines, starts) > 0
    if np.any(ends[several] - starts[several] > MAX_RECORD_BYTES):
        return False
    if not dialect.columns:
        return True
    delimiters = np.flatnonzero(view == ord(dialect.delimiter))
    outside = delimiters[np.searchsorted(quotes, delimiters) % 2 == 0]
    fields = np.searchsorted(outside, ends[several]) - np.searchsorted(outside, starts[several]) + 1
    return bool(np.all(fields == dialect.columns))


def _line_by_line(data: bytes, view: np.ndarray, lines: np.ndarray, dialect: Dialect, final: bool) -> Records:
    form = _Form(dialect)
    breaks: list[int] = []
    bad: dict[int, str] = {}
    start, quote = 0, dialect.quote.encode()
    for line in lines.tolist():
        if line < start:
            continue
        end = line
        if data.find(quote, start, line) >= 0:
            found = form.record_end(data, start)
            if found is not None:
                end = found
            elif not final and form.may_close_later(data, start):
                break
            else:
                bad[len(breaks)] = "UNPARSEABLE"
        if end == len(data) and not final:
            break
        breaks.append(end)
        start = end + 1
    return _records(data, view, np.array(breaks, np.int64), bad, final)


class _Form:
    """A record by regular expression, for blocks whose quotes are out of order."""

    def __init__(self, dialect: Dialect) -> None:
        delimiter, quote = re.escape(dialect.delimiter.encode()), re.escape(dialect.quote.encode())
        quoted = b"%b(?:[^%b]|%b%b)*+%b" % (quote, quote, quote, quote, quote)
        plain = b"(?:[^%b%b\r\n][^%b\r\n]*+)?" % (quote, delimiter, delimiter)
        one = b"(?:%b|%b)" % (quoted, plain)
        self._one = re.compile(one)
        self._record = re.compile(b"%b(?:%b%b)*+(?=\r?\n|\\Z)" % (one, delimiter, one))
        self._open = re.compile(b"(?:%b%b)*+%b(?:[^%b]|%b%b)*+\\Z" % (one, delimiter, quote, quote, quote, quote))
        self._delimiter, self._columns = dialect.delimiter.encode(), dialect.columns

    def record_end(self, data: bytes, start: int) -> int | None:
        """Where the record's line feed is (or the end of `data`); None when no record begins at `start`."""
        found = self._record.match(data, start, min(len(data), start + MAX_RECORD_BYTES + 2))
        if found is None or (found.end() == start + MAX_RECORD_BYTES + 2):
            return None
        end = found.end()
        several = data.find(b"\n", start, end) >= 0
        if several and self._columns and self._fields(data[start:end]) != self._columns:
            return None
        return end + (data[end : end + 2] == b"\r\n")

    def may_close_later(self, data: bytes, start: int) -> bool:
        """True when the rest of `data` is inside a quoted field that more bytes could still close."""
        return len(data) - start <= MAX_RECORD_BYTES and self._open.match(data, start) is not None

    def _fields(self, record: bytes) -> int:
        count, at = 0, 0
        while (found := self._one.match(record, at)) is not None:
            count += 1
            if record[found.end() : found.end() + 1] != self._delimiter:
                break
            at = found.end() + 1
        return count
