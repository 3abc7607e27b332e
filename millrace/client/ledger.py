"""What a writer still holds: batches sent or waiting, in offset order, until storage acknowledged them. Pure bookkeeping, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from millrace.storage.v1 import frames_pb2
from millrace.types.v1 import types_pb2


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """One batch as it is sent, and sent again byte for byte. Rows and dead letters [offset, offset + rows); `size` in bytes.

    `serial`: how many batches were added before it."""

    batch: frames_pb2.AppendBatch
    offset: int
    rows: int
    size: int
    serial: int

    @property
    def end(self) -> int:
        return self.offset + self.rows


class Reread(Exception):
    """Storage wants rows that are no longer held, or holds rows that this writer did not send.

    Whoever has the source opens the writer again under a new epoch and reads the source from `position` (None: from its start);
    `next_offset` is how many rows of this writer are stored."""

    def __init__(self, why: str, *, next_offset: int, position: types_pb2.Position | None) -> None:
        super().__init__(why)
        self.next_offset = next_offset
        self.position = position


class Ledger:
    """Offsets, credits and the unacknowledged batches of one writer."""

    def __init__(self) -> None:
        self.next_offset = 0
        self.acked_offset = 0
        self.max_unacked_bytes = 16 * 1024 * 1024
        self.max_unacked_batches = 32
        self.added = 0
        self._held: deque[Held] = deque()
        self._held_bytes = 0
        self._sent = 0
        self._sent_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    def holds_before(self, serial: int) -> bool:
        """True while one of the first `serial` batches is not acknowledged."""
        return bool(self._held) and self._held[0].serial < serial

    @property
    def in_flight(self) -> bool:
        """True when something was sent on this stream and is not acknowledged."""
        return self._sent > 0

    @property
    def all_sent(self) -> bool:
        return self._sent == len(self._held)

    def begin(self, next_offset: int) -> None:
        """The first `opened`: batches are numbered from here."""
        self.next_offset = self.acked_offset = next_offset

    def add(self, batch: frames_pb2.AppendBatch, rows: int) -> Held:
        """Numbers `batch` and keeps it; `rows` = its rows + dead letters."""
        batch.offset = self.next_offset
        held = Held(batch, self.next_offset, rows, batch.ByteSize(), self.added)
        self.added += 1
        self.next_offset += rows
        self._held.append(held)
        self._held_bytes += held.size
        return held

    def to_send(self) -> Held | None:
        """The next batch for which there is credit; a batch larger than all credit goes when nothing else is under way."""
        if self._sent == len(self._held):
            return None
        found = self._held[self._sent]
        fits = self._sent < self.max_unacked_batches and self._sent_bytes + found.size <= self.max_unacked_bytes
        return found if fits or self._sent == 0 else None

    def sent(self, held: Held) -> None:
        self._sent += 1
        self._sent_bytes += held.size

    def acknowledge(self, next_offset: int, positions: Mapping[str, str] | None) -> int:
        """Drops what is stored and returns how many batches that were. A batch without rows counts once `positions` are its own."""
        whole = 0
        for count, held in enumerate(self._held, 1):
            if held.end > next_offset:
                break
            if held.rows or (positions is not None and dict(held.batch.position.positions) == dict(positions)):
                whole = count
        for _ in range(whole):
            self._drop_first()
        self.acked_offset = max(self.acked_offset, next_offset)
        return whole

    def acknowledge_all(self) -> None:
        """`done`: whatever was sent is stored."""
        while self._held:
            self._drop_first()
        self.acked_offset = self.next_offset

    def _drop_first(self) -> None:
        gone = self._held.popleft()
        self._held_bytes -= gone.size
        if self._sent:
            self._sent -= 1
            self._sent_bytes -= gone.size

    def reopened(self, next_offset: int, position: types_pb2.Position | None) -> None:
        """A new stream under the same epoch: drops what is stored; everything else is sent again. Raises Reread when that has a gap."""
        self._sent = self._sent_bytes = 0
        if next_offset < self.acked_offset:
            why = f"storage holds {next_offset} rows of this writer, it acknowledged {self.acked_offset}"
            raise Reread(why, next_offset=next_offset, position=position)
        self.acknowledge(next_offset, position.positions if position is not None else None)
        first = self._held[0].offset if self._held else self.next_offset
        if first != next_offset:
            why = f"storage wants row {next_offset} of this writer, the oldest held is {first}"
            raise Reread(why, next_offset=next_offset, position=position)
