"""Programs that merge through two replicas at once: both get done, and each key holds what came last."""

from __future__ import annotations

import asyncio
import hashlib

import pyarrow as pa
import pytest

from svc_storage.domain.definition import define
from svc_storage.domain.writing import merging
from svc_storage.domain.writing.appending import Incoming, OpenRequest
from svc_storage.ports import CommitKind, RequestMark
from tests.contract.storage.backends import NAME
from tests.integration.fleet.replicas import Place, Replica, two

pytestmark = pytest.mark.timeout(600)  # a server may have to be started first
KEYED = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("seq", pa.int64(), nullable=False)])
TABLE = f"{NAME}_merged"
ROUNDS, KEYS = 12, 20


async def create(at: Replica) -> None:
    mark = RequestMark(f"create {TABLE}", "tester", hashlib.sha256(TABLE.encode()).hexdigest())
    await at.tables.create(TABLE, define(KEYED, primary_key=("id",), sequence_column="seq"), mark)


def lines(offset: int, first: int, seq: int) -> Incoming:
    """KEYS upserts."""
    columns = [list(range(first, first + KEYS)), [seq] * KEYS, ["UPSERT"] * KEYS]
    rows = pa.RecordBatch.from_arrays(
        [pa.array(columns[0], pa.int64()), pa.array(columns[1], pa.int64()), pa.array(columns[2])],
        schema=merging.wire_schema(define(KEYED, primary_key=("id",), sequence_column="seq"), "op"),
    )
    return Incoming(offset=offset, rows=rows, crc32=offset * 100 + seq, size=rows.nbytes)


async def merge(at: Replica, writer: str, first: int) -> None:
    """ROUNDS commits of the same keys, each with a higher sequence."""
    request = OpenRequest(writer=writer, epoch=0, principal="tester", op_column="op", interval_s=0.1)
    stream = await (await at.table(TABLE)).committer.open(request)
    for number in range(ROUNDS):
        await stream.append(lines(number * KEYS, first, number))
        await stream.settle()
    stream.close()


@pytest.mark.parametrize("apart", [0, KEYS // 2, KEYS])
async def test_two_programs_merge_at_two_replicas(place: Place, apart: int) -> None:
    """The same keys, half of them, none."""
    async with two(place) as (a, b):
        await create(a)
        await asyncio.gather(merge(a, "a", 0), merge(b, "b", apart), merge(b, "c", apart))
        for at in (a, b):
            table = await at.table(TABLE)
            await table.refresh()
            head = table.versions.head
            found = [
                row
                for file in head.files.values()
                for _, batch in table.committer.files.batches(file, head.schema)
                for row in batch.select(["id", "seq"]).to_pylist()
            ]
            assert sorted(row["id"] for row in found) == list(range(apart + KEYS))
            assert {row["seq"] for row in found} == {ROUNDS - 1}
            merges = [one for one in table.commits_in(0, table.head) if one.commit.kind is CommitKind.MERGE]
            assert len(merges) >= 2 * ROUNDS  # b's two programs share commits
