"""The chain of local files: what a new version costs, when it begins anew, and that the rows are always the version's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.engine.shelf import Shelf
from millrace.engine.spool import MERGED, Plan, Spool, Spooled
from millrace.errors import ChangesNotAppendOnly, StoreUnavailable, VersionExpired

SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False)])
WIDER = SCHEMA.append(pa.field("more", pa.string()))


@dataclass
class Table:
    """Versions as lists of ids; `rewritten`: versions that did more than append."""

    versions: list[list[int]] = field(default_factory=lambda: [[]])
    rewritten: set[int] = field(default_factory=set)
    oldest: int = 0
    key: str = "t@uid"
    reads: list[tuple[int, int | None]] = field(default_factory=list)
    pause_s: float = 0.0
    fails_at: int | None = None
    schema: pa.Schema = SCHEMA

    def append(self, *ids: int) -> int:
        self.versions.append([*self.versions[-1], *ids])
        return len(self.versions) - 1

    def rewrite(self, *ids: int) -> int:
        self.versions.append(list(ids))
        self.rewritten.add(len(self.versions) - 1)
        return len(self.versions) - 1

    async def plan(self, version: int, *, after: int | None, parallel: int) -> Plan:
        self.reads.append((version, after))
        if after is None:
            ids = self.versions[version]
        else:
            if after < self.oldest:
                raise VersionExpired("too old")
            if any(after < one <= version for one in self.rewritten):
                raise ChangesNotAppendOnly("a rewrite")
            ids = self.versions[version][len(self.versions[after]) :]
        cut = -(-len(ids) // parallel) or 1
        parts = [ids[at : at + cut] for at in range(0, len(ids), cut)]
        return Plan([json.dumps(part).encode() for part in parts], len(ids))

    async def rows(self, split: bytes) -> AsyncIterator[pa.RecordBatch]:
        for number, one in enumerate(json.loads(split)):
            await asyncio.sleep(self.pause_s)
            if self.fails_at == number:
                raise StoreUnavailable("gone")
            columns = {"id": [one]} | ({"more": [None]} if len(self.schema) > 1 else {})
            yield pa.RecordBatch.from_pydict(columns, schema=self.schema)


def ids(found: Spooled) -> list[int]:
    return [one for path in found.files for one in pq.read_table(path).column("id").to_pylist()]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(Shelf(tmp_path, 1 << 30))


async def test_a_later_version_reads_only_what_was_added(spool: Spool) -> None:
    table = Table()
    first = table.append(1, 2, 3, 4, 5)
    assert ids(await spool.version(table, first, SCHEMA)) == [1, 2, 3, 4, 5]
    second = table.append(6)
    found = await spool.version(table, second, SCHEMA)
    assert (ids(found), found.rows) == ([1, 2, 3, 4, 5, 6], 6)
    assert table.reads == [(first, None), (second, first)]
    assert ids(await spool.version(table, first, SCHEMA)) == [1, 2, 3, 4, 5]
    assert len(table.reads) == 2
    assert ids(await spool.added(table, first, second, SCHEMA)) == [6]


async def test_what_is_no_append_begins_anew(spool: Spool) -> None:
    table = Table()
    await spool.version(table, table.append(1, 2), SCHEMA)
    rewritten = table.rewrite(2)
    assert ids(await spool.version(table, rewritten, SCHEMA)) == [2]
    assert ids(await spool.version(table, table.append(3), SCHEMA)) == [2, 3]
    assert table.reads[-1] == (rewritten + 1, rewritten)
    table.oldest = 99
    assert ids(await spool.version(table, table.append(4), SCHEMA)) == [2, 3, 4]
    table.schema = WIDER
    last = await spool.version(table, table.append(5), WIDER)
    assert ids(last) == [2, 3, 4, 5]
    assert all(pq.read_schema(path).names == ["id", "more"] for path in last.files)
    assert spool.full_reads == 4


async def test_an_older_version_leaves_the_chain_alone(spool: Spool) -> None:
    table = Table()
    old = table.append(1)
    new = table.append(2)
    await spool.version(table, new, SCHEMA)
    assert ids(await spool.version(table, old, SCHEMA)) == [1]
    newest = table.append(3)
    assert ids(await spool.version(table, newest, SCHEMA)) == [1, 2, 3]
    assert table.reads[-1] == (newest, new)


async def test_two_who_ask_at_once_fill_once(spool: Spool) -> None:
    table = Table(pause_s=0.001)
    version = table.append(*range(20))
    found = await asyncio.gather(*(spool.version(table, version, SCHEMA) for _ in range(12)))
    assert table.reads == [(version, None)]
    assert all(ids(one) == list(range(20)) for one in found)


async def test_whoever_waits_takes_over_from_a_cancelled_one(spool: Spool, tmp_path: Path) -> None:
    table = Table(pause_s=0.01)
    version = table.append(*range(20))
    first = asyncio.create_task(spool.version(table, version, SCHEMA))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(spool.version(table, version, SCHEMA))
    await asyncio.sleep(0.01)
    first.cancel()
    assert ids(found := await second) == list(range(20))
    assert {str(path) for path in tmp_path.iterdir()} == set(found.files)


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_a_fill_that_does_not_end_leaves_nothing(spool: Spool, tmp_path: Path, how: str) -> None:
    table = Table(pause_s=0.005, fails_at=3 if how == "failed" else None)
    version = table.append(*range(18))
    task = asyncio.create_task(spool.version(table, version, SCHEMA))
    await asyncio.sleep(0.018)
    if how == "cancelled":
        task.cancel()
    with pytest.raises((StoreUnavailable, asyncio.CancelledError)):
        await task
    assert list(tmp_path.iterdir()) == []
    table.fails_at = None
    assert ids(await spool.version(table, version, SCHEMA)) == list(range(18))


async def test_a_chain_stays_short_however_many_versions(spool: Spool) -> None:
    table = Table()
    held = []
    for number in range(150):
        found = await spool.version(table, table.append(number), SCHEMA)
        if number % 40 == 0:
            held.append((number, found))
    while any(chain.merging for chain in spool._chains.values()):
        await asyncio.sleep(0.005)
    found = await spool.version(table, table.append(150), SCHEMA)
    assert ids(found) == list(range(151))
    assert len(found.files) <= 4 * MERGED
    assert all(ids(old) == list(range(number + 1)) for number, old in held)
    assert spool.full_reads == 1


async def test_a_chain_that_lost_a_file_begins_anew(tmp_path: Path) -> None:
    spool = Spool(Shelf(tmp_path, 4_000))  # a file here is about 500 bytes
    table, other = Table(), Table(key="other@uid")
    await spool.version(table, table.append(1), SCHEMA)
    for number in range(12):
        await spool.version(other, other.append(number), SCHEMA)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4_000
    assert ids(await spool.version(table, table.append(2), SCHEMA)) == [1, 2]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 5)),
        st.tuples(st.just("rewrite"), st.integers(0, 3)),
        st.tuples(st.just("pin"), st.integers(0, 30)),
        st.tuples(st.just("forget"), st.integers(0, 30)),
    ),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=60)
def test_the_rows_are_always_the_version_s(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    async def play() -> None:
        table, spool = Table(), Spool(Shelf(tmp_path_factory.mktemp("spool"), 6_000))
        for number, (what, count) in enumerate(steps):
            fresh = range(number * 100, number * 100 + count)
            if what == "append":
                table.append(*fresh)
            elif what == "rewrite":
                table.rewrite(*fresh)
            elif what == "forget":
                table.oldest = min(count, len(table.versions) - 1)
            else:
                version = max(0, len(table.versions) - 1 - count // 4)
                found = await spool.version(table, version, SCHEMA)
                assert sorted(ids(found)) == sorted(table.versions[version])
        await spool.close()

    asyncio.run(play())
