"""MergeRows against a dict: whatever is merged, sent again, cut and compacted in whatever order, the table holds what the dict does.

The dict follows the rule as merge.proto states it: within a commit the highest sequence of a key counts, between equal ones the last;
against the table an older one is ignored; a DELETE takes the key's sequence with it.
"""

from __future__ import annotations

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from svc_storage.domain.opened import OpenTable
from svc_storage.domain.reading.lookup import Lookups, LookupWish
from svc_storage.domain.upkeep import Policy, Upkeep
from svc_storage.domain.writing import compaction
from svc_storage.domain.writing.appending import AppendStream
from tests.contract.storage.backends import BACKENDS, NAME, Rig
from tests.contract.storage.conftest import CHOSEN
from tests.contract.storage.test_merging import Line, NoReaders, defined, frame, gone, held, merger, up

KEYS = 7
Step = tuple[str, list[Line]]

lines = st.lists(
    st.builds(
        lambda deletes, key, seq, name: gone(key, seq) if deletes else up(key, name, seq),
        st.booleans(),
        st.integers(0, KEYS - 1),
        st.integers(0, 5),
        st.sampled_from("abcdef"),
    ),
    max_size=8,
)
steps = st.lists(
    st.tuples(st.sampled_from(["merge", "merge", "merge", "resend", "cut", "compact"]), lines), max_size=14
)


@dataclass
class Model:
    """`sent`: every batch that must be stored, with its offset."""

    sequenced: bool
    rows: dict[int, tuple[str, int]] = field(default_factory=dict)
    sent: list[tuple[int, list[Line]]] = field(default_factory=list)
    offset: int = 0

    def merge(self, batch: list[Line]) -> None:
        self.sent.append((self.offset, batch))
        self.offset += len(batch)
        winners: dict[int, Line] = {}
        for line in batch:
            before = winners.get(line[1])
            if before is None or not self.sequenced or (line[3] or 0) >= (before[3] or 0):
                winners[line[1]] = line
        for op, key, name, seq in winners.values():
            stored = self.rows.get(key)
            if self.sequenced and stored is not None and stored[1] > (seq or 0):
                continue
            if op == "DELETE":
                self.rows.pop(key, None)
            else:
                self.rows[key] = (str(name), seq or 0)


class Run:
    def __init__(self, rig: Rig, table: OpenTable, model: Model) -> None:
        self.rig, self.table, self.model = rig, table, model

    async def stream(self, epoch: int = 1) -> AppendStream:
        return await merger(self.rig, epoch=epoch)

    async def merge(self, batch: list[Line]) -> None:
        stream = await self.stream()
        assert stream.opened.next_offset == self.model.offset
        await stream.append(frame(self.model.offset, batch, self.table.definition))
        await stream.finish()
        self.model.merge(batch)

    async def resend(self, batch: list[Line]) -> None:
        """The newest batches again, under the same epoch, then a new one."""
        stream = await self.stream()
        for offset, again in self.model.sent[-3:]:
            await stream.append(frame(offset, again, self.table.definition))
        await stream.append(frame(self.model.offset, batch, self.table.definition))
        await stream.finish()
        self.model.merge(batch)

    async def cut(self, batch: list[Line]) -> None:
        """A batch that was handed in when the process died: not stored, then sent again."""
        stream = await self.rig.open("w", 1, op_column="op", interval_s=60)
        await stream.append(frame(self.model.offset, batch, self.table.definition))
        self.table = await self.rig.restart()
        await self.merge(batch)

    async def compact(self, batch: list[Line]) -> None:
        rig = self.rig
        await Upkeep(rig.opened, rig.catalog, rig.backend, NoReaders(), rig.clock, Policy()).compact(self.table)

    async def check(self) -> None:
        assert held(self.table) == self.model.rows
        lookups = Lookups(self.rig.opened, self.rig.pool)
        target = await lookups.pin(LookupWish(table=NAME, columns=("id", "name", "seq")))
        keys = pa.RecordBatch.from_arrays([pa.array(range(KEYS), pa.int64())], schema=target.keys)
        found = await lookups.find(target, keys)
        assert found.found == [key in self.model.rows for key in range(KEYS)]
        looked = {row["id"]: (row["name"], row["seq"]) for row in found.rows.to_pylist()}
        assert looked == self.model.rows


async def scenario(backend: str, script: list[Step], sequenced: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pool = ThreadPoolExecutor(2)
        async with BACKENDS[backend](Path(folder), pool) as store:
            rig = Rig(Path(folder), store, pool)
            table = await rig.create(defined(sequence="seq" if sequenced else ""))
            run = Run(rig, table, Model(sequenced))
            (await run.stream(0)).close()
            for step, batch in script:
                await getattr(run, step)(batch)
            await run.check()
            await rig.close()


@pytest.mark.parametrize("sequenced", [True, False])
@pytest.mark.parametrize("backend", CHOSEN)
def test_the_table_holds_what_a_dict_would(backend: str, sequenced: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FAN_IN", 3)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(script=steps)
    def holds(script: list[Step]) -> None:
        asyncio.run(scenario(backend, script, sequenced))

    holds()
