"""Small tables for people: what `status` and `get` print."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from millrace.cli.terminal import escaped, paint, width

_NUMBER = re.compile(r"[-+]?[\d,]+(\.\d+)?( ?[%a-zA-Z/]{1,5})?")


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with a colour (of `terminal.paint`)."""

    text: str
    style: str = ""


Row = Sequence["str | Cell"]


def grid(heads: Sequence[str], rows: Sequence[Row], *, colour: bool) -> str:
    """Heads and rows under each other; a column of numbers is right-aligned."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    shown = [[escaped(cell.text) for cell in row] for row in cells]
    lines = [_line([paint(text, "dim", colour) for text in _padded(heads, heads, shown)])]
    for texts, row in zip(shown, cells, strict=True):
        padded = _padded(texts, heads, shown)
        lines.append(_line([paint(text, cell.style, colour) for text, cell in zip(padded, row, strict=True)]))
    return "\n".join(lines)


def _padded(texts: Sequence[str], heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    found = []
    for at, text in enumerate(texts):
        column = [row[at] for row in rows]
        space = " " * (max(map(width, [heads[at], *column])) - width(text))
        numbers = bool(rows) and all(_NUMBER.fullmatch(one) or one in ("", "-") for one in column)
        found.append(space + text if numbers else text + space)
    return found


def _line(parts: Sequence[str]) -> str:
    return "  ".join(parts).rstrip()


def count(number: int) -> str:
    return f"{number:,}"


def counted(number: int, unit: str) -> str:
    """ "1 row", "3,000 rows"; `unit` is the plural in -s."""
    return f"{number:,} {unit.removesuffix('s') if number == 1 else unit}"


def size(number: int) -> str:
    """Bytes as people read them."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def span(seconds: float) -> str:
    """A length of time in its largest sensible unit."""
    if seconds < 0.95:
        return f"{max(0, seconds) * 1000:.0f} ms"
    for limit, unit, length in ((99.5, "s", 1), (5970, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def age(moment: Timestamp, now: float | None = None) -> str:
    """How long ago; empty when unset."""
    if not moment.seconds:
        return ""
    return span(max(0.0, (time.time() if now is None else now) - moment.seconds - moment.nanos / 1e9))


def instant(moment: Timestamp) -> str:
    """To the second, UTC; empty when unset."""
    return moment.ToDatetime().strftime("%Y-%m-%d %H:%M:%SZ") if moment.seconds else ""
