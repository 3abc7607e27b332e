"""What waits for the next commit: whole batches of several writers, bounded in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from millrace.errors import MillraceError
from svc_storage.domain.writing.contract import BadRow
from svc_storage.domain.writing.dead_letters import DeadRow
from svc_storage.ports import BatchMark, Version

MAX_BYTES = 64 * 1024 * 1024
"""A group of this size commits at once; streams wait while it is full."""
SHORTEST_S, LONGEST_S = 0.1, 2.0
LONGEST_GATHER_S = 0.01
MERGE_INTERVAL_S = 10.0
"""How long merged rows wait for their commit when their stream does not say: each rewrites files."""
SAMPLE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Everything before `next_offset` is stored. The counts are since the ack before; of a merge, each row counts as written (of these,
    `rows_updated` replaced one), deleted or ignored. `positions`: what is covered."""

    next_offset: int
    version: Version
    time_us: int
    rows_written: int = 0
    rows_dead: int = 0
    rows_duplicate: int = 0
    rows_updated: int = 0
    rows_deleted: int = 0
    rows_ignored: int = 0
    sample: tuple[BadRow, ...] = ()
    positions: Mapping[str, str] = field(default_factory=dict)
    event_time_high_us: int | None = None
    schema: pa.Schema | None = None
    """The table's columns, when they are others than the stream was told last."""

    def after(self, earlier: Ack | None) -> Ack:
        """This ack, standing for an unsent earlier one too."""
        if earlier is None:
            return self
        return Ack(
            next_offset=self.next_offset,
            version=self.version,
            time_us=self.time_us,
            rows_written=earlier.rows_written + self.rows_written,
            rows_dead=earlier.rows_dead + self.rows_dead,
            rows_duplicate=earlier.rows_duplicate + self.rows_duplicate,
            rows_updated=earlier.rows_updated + self.rows_updated,
            rows_deleted=earlier.rows_deleted + self.rows_deleted,
            rows_ignored=earlier.rows_ignored + self.rows_ignored,
            sample=(*earlier.sample, *self.sample)[:SAMPLE],
            positions=self.positions,
            event_time_high_us=self.event_time_high_us,
            schema=earlier.schema if self.schema is None else self.schema,
        )


class Waiter(Protocol):
    """A stream, as the committer sees it."""

    writer: str
    epoch: int
    lease: str
    principal: str
    interval_s: float
    trace_context: str
    merges: bool

    @property
    def live(self) -> bool: ...

    def acknowledge(self, ack: Ack, *, batches: int, cost: int) -> None: ...

    def fail(self, failure: MillraceError) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pending:
    """A checked batch that follows what its writer has in the group already. `cost` in bytes counts against the credits."""

    stream: Waiter
    mark: BatchMark
    rows: pa.RecordBatch
    dead: tuple[DeadRow, ...] = ()
    sample: tuple[BadRow, ...] = ()
    positions: Mapping[str, str] | None = None
    event_time_high_us: int | None = None
    cost: int = 0


@dataclass(slots=True)
class Group:
    """`opened_s`: monotonic time of its first batch; `hurry`: commit now (flush, finish, credits used up)."""

    entries: list[Pending] = field(default_factory=list)
    size: int = 0
    opened_s: float = 0.0
    hurry: bool = False

    def add(self, entry: Pending, now_s: float) -> None:
        if not self.entries:
            self.opened_s = now_s
        self.entries.append(entry)
        self.size += entry.cost

    @property
    def full(self) -> bool:
        return self.size >= MAX_BYTES

    def wait_s(self, now_s: float, interval_s: float) -> float | None:
        """Seconds until it is due; 0 = now; None = nothing waits."""
        if not self.entries:
            return None
        if self.hurry or self.full:
            return 0.0
        return max(0.0, self.opened_s + interval_s - now_s)

    def holds(self, stream: Waiter) -> bool:
        return any(entry.stream is stream for entry in self.entries)

    def drop(self, stream: Waiter) -> None:
        """Takes a stream's batches out again: they were never acknowledged."""
        self.entries = [entry for entry in self.entries if entry.stream is not stream]
        self.size = sum(entry.cost for entry in self.entries)


class Returning:
    """Streams whose batches were committed just now: a writer that waits for each answer sends its next batch at once. A commit that is
    due waits for them a moment, so that several such writers share each commit instead of taking turns with theirs."""

    def __init__(self) -> None:
        self._away: set[Waiter] = set()
        self._until_s = 0.0

    def expect(self, streams: Iterable[Waiter], now_s: float, commit_s: float) -> None:
        """They were acknowledged now, after a commit that took `commit_s`. Half of that is waited for them at most."""
        self._away = set(streams)
        self._until_s = now_s + min(LONGEST_GATHER_S, commit_s / 2)

    def came(self, stream: Waiter) -> bool:
        """Handed in, or ended. Whether it was the last one."""
        if stream not in self._away:
            return False
        self._away.discard(stream)
        return not self._away

    def wait_s(self, now_s: float) -> float:
        return max(0.0, self._until_s - now_s) if self._away else 0.0


class Pace:
    """The adaptive interval: ten times what a commit takes lately, so that committing costs a tenth of the time."""

    def __init__(self) -> None:
        self._commit_s = 0.0

    def note(self, seconds: float) -> None:
        """A commit took this long."""
        self._commit_s = seconds if not self._commit_s else 0.8 * self._commit_s + 0.2 * seconds

    def interval_s(self, wishes: Iterable[float]) -> float:
        """`wishes`: what open streams ask for, 0 = adaptive. The shortest rules."""
        adaptive = min(LONGEST_S, max(SHORTEST_S, 10 * self._commit_s))
        return min((wish or adaptive for wish in wishes), default=adaptive)
