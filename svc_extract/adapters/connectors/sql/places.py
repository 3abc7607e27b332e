"""How far a cursor got, and which rows around that place are already out.

A cursor value alone does not do: rows of an equal value may be committed later than the ones read, and so may, within the declared
lateness, rows of lower values. The position therefore keeps the highest value read and a digest of every row from there back to the
lateness.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from millrace.errors import SourcePaused
from svc_extract.ports import Position

MAX_SEEN = 8_000
"""Keys that a position holds at most: with their numbers below 256 KiB."""


@dataclass(slots=True)
class Place:
    """`high`: the highest cursor value read, as the database writes it; None before the first row. `high_at`: the same as a number
    (seconds for times), used with a lateness. `seen`: digest of key and cursor, to the row's number, of rows that will be read again."""

    high: str | None = None
    high_at: float = 0.0
    seen: dict[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, position: Position | None) -> Place:
        """Of a position this module wrote; of none: the beginning."""
        if position is None or "high" not in position.parts:
            return cls()
        parts = position.parts
        return cls(parts["high"], float(parts.get("high_at", "0")), dict(json.loads(parts.get("seen", "{}"))))

    def position(self) -> Position | None:
        """None before the first row. Raises SourcePaused when too many rows share the last values."""
        if self.high is None:
            return None
        if len(self.seen) > MAX_SEEN:
            raise SourcePaused(
                f"more than {MAX_SEEN} rows lie at the cursor's last value or within its lateness",
                field="sql.cursor_lateness",
                hint="choose a column that tells rows apart better, or a smaller lateness",
                metadata={"cause": "too many rows within the cursor's lateness"},
            )
        seen = json.dumps(self.seen, separators=(",", ":"))
        return Position({"high": self.high, "high_at": repr(self.high_at), "seen": seen})

    def fresh(self, keys: Sequence[str]) -> list[int]:
        """Indexes of the rows that are not out yet."""
        return [index for index, key in enumerate(keys) if key not in self.seen]

    def move(self, keys: Sequence[str], numbers: Sequence[float], cursors: Sequence[str], *, lateness: float) -> None:
        """Rows were read, in the cursor's order; they may begin below `high`, within the lateness."""
        if not keys:
            return
        if not lateness:
            if cursors[-1] != self.high:
                self.seen = {}
            self.high, last = cursors[-1], cursors[-1]
            self.seen.update((key, 0.0) for key, cursor in zip(keys, cursors, strict=True) if cursor == last)
            return
        if self.high is None or numbers[-1] > self.high_at:
            self.high, self.high_at = cursors[-1], numbers[-1]
        self.seen.update(zip(keys, numbers, strict=True))
        floor = self.high_at - lateness
        self.seen = {key: at for key, at in self.seen.items() if at >= floor}
