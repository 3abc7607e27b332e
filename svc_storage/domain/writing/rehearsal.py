"""validate_only: batches are judged and checked as if, and nothing is kept."""

from __future__ import annotations

import asyncio
from typing import Protocol

import pyarrow as pa

from svc_storage.domain.definition import TableDefinition
from svc_storage.domain.versions import LogView
from svc_storage.domain.writing import contract
from svc_storage.domain.writing.contract import Checked
from svc_storage.domain.writing.group import Ack, Pending, Waiter
from svc_storage.domain.writing.schema_change import SchemaChange, evolve


class _Real(Protocol):
    view: LogView

    @property
    def definition(self) -> TableDefinition: ...


class Rehearsal:
    """A desk that acknowledges at once what the committer would have stored."""

    def __init__(self, real: _Real) -> None:
        self._real = real
        self._next: dict[str, int] = {}
        self._changed: TableDefinition | None = None

    @property
    def definition(self) -> TableDefinition:
        return self._changed or self._real.definition

    async def change_schema(self, change: SchemaChange) -> TableDefinition:
        self._changed = evolve(self.definition, change)
        return self._changed

    async def room(self) -> None:
        """There always is."""

    def submit(self, entry: Pending) -> None:
        next_offset = entry.mark.offset + entry.mark.rows
        self._next[entry.stream.writer] = next_offset
        ack = Ack(
            next_offset=next_offset,
            version=self._real.view.head.version,
            time_us=self._real.view.head.time_us,
            rows_written=entry.rows.num_rows,
            rows_dead=len(entry.dead),
            sample=entry.sample,
            positions=entry.positions or {},
        )
        entry.stream.acknowledge(ack, batches=1, cost=entry.cost)

    def hurry(self, stream: Waiter) -> None:
        """Nothing waits."""

    def answer(self, stream: Waiter) -> None:
        head = self._real.view.head
        stored = head.writers.get(stream.writer)
        known = self._next.get(stream.writer, stored.next_offset if stored else 0)
        stream.acknowledge(Ack(next_offset=known, version=head.version, time_us=head.time_us), batches=0, cost=0)

    def leave(self, stream: Waiter) -> None:
        """Nothing waits."""

    async def check(self, rows: pa.RecordBatch, *, aside: bool) -> Checked:
        if aside:
            return await asyncio.to_thread(contract.check, rows, self.definition)
        return contract.check(rows, self.definition)
