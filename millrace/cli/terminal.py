"""Where words go: data to stdout, all else to stderr; colours only for people; no control character passes."""

from __future__ import annotations

import os
import sys
import unicodedata
from typing import TextIO

_CODES = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "dim": "2", "bold": "1"}


class Interrupted(Exception):
    """Ctrl-C."""


class ReaderGone(Exception):
    """Whoever read stdout has enough."""


def colour(stream: TextIO) -> bool:
    """Whether this stream wants colours: a terminal, and nobody said NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, wanted: bool) -> str:
    return f"\033[{_CODES[style]}m{text}\033[0m" if wanted and style else text


def escaped(text: str) -> str:
    """`text` with what a terminal would obey written out: rows come from anywhere."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\u00a0" else _spelled(char) for char in text)


def _spelled(char: str) -> str:
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    if short:
        return short
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def width(text: str) -> int:
    """Columns that `text` takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def note(text: str, style: str = "") -> None:
    """One line for people, on stderr."""
    print(paint(text, style, colour(sys.stderr)), file=sys.stderr, flush=True)
