"""One Cassandra node, killed and damaged: what was acknowledged is there, what is broken is named, the rest goes on."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from millrace import errors
from millrace.laptop.servers.cassandra import Cassandra
from svc_storage.adapters.cassandra import migrations
from svc_storage.adapters.cassandra.objects import PARTITION_BYTES, PIECE_BYTES
from svc_storage.adapters.cassandra.session import Session
from svc_storage.adapters.cassandra.store import open_session
from tests.integration.storage.on_cassandra import WIDE, Table, append, session_in, stored, table_in, wide_rows
from tests.servers.cassandra import place, shared_cassandra

pytestmark = [pytest.mark.needs("cassandra"), pytest.mark.timeout(300)]
IDS = pa.schema([pa.field("id", pa.int64())])


@pytest.fixture(scope="module")
def node() -> Cassandra:
    """The session's own, although it is killed here: it is back when that test ends, and who uses it later goes on."""
    return shared_cassandra()


@pytest.fixture(scope="module")
def session(node: Cassandra) -> Iterator[Session]:
    with session_in(node) as found:
        yield found


def ids(first: int, count: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(range(first, first + count), pa.int64())], schema=IDS)


async def commit(table: Table, number: int) -> None:
    file = await table.files.write(f"l0-{number}.parquet", [ids(number * 10, 10)], IDS)
    await table.log.append(append(f"c{number}", file), after=number)


async def test_what_was_acknowledged_survives_a_kill(node: Cassandra, session: Session) -> None:
    async with table_in(session, IDS) as table:
        for number in range(100):
            await commit(table, number)
        node.nodes[0].kill()
        try:
            with pytest.raises((errors.StoreUnavailable, errors.OutcomeUnknown)) as refused:
                await commit(table, 100)
        finally:
            node.nodes[0].start()
        assert not isinstance(refused.value, errors.StoreUnavailable) or refused.value.retry_after_ms
        await asyncio.to_thread(node.nodes[0].wait)
        await goes_on(table, 100)
        tail = await table.log.recover()
        assert [found.version for found in tail.commits] == list(range(1, 102))
        rows = [
            row
            for found in tail.commits
            for file in found.commit.adds
            for _, batch in table.files.batches(file, IDS)
            for row in batch.column(0).to_pylist()
        ]
        assert rows == list(range(1010))


async def goes_on(table: Table, number: int) -> None:
    """By itself, once the node is back: nothing is opened anew."""
    until = time.monotonic() + 90
    while True:
        try:
            return await commit(table, number)
        except (errors.StoreUnavailable, errors.OutcomeUnknown):
            assert time.monotonic() < until
            await asyncio.sleep(0.2)


async def test_one_of_twenty_columns_moves_a_tenth_of_the_bytes_at_most(session: Session) -> None:
    async with table_in(session, WIDE) as table:
        file = await table.files.write("l1-a.parquet", [wide_rows(70_000, seed) for seed in range(2)], WIDE, level=1)
        blobs = stored(session)
        sizes = {key: sizes for key, sizes in blobs.items() if key[0] == table.uid}
        total = sum(map(sum, sizes.values()))
        moved = 0
        take = session.reads.take

        def counted(size: int) -> None:
            nonlocal moved
            moved += size
            take(size)

        session.reads.take = counted  # type: ignore[method-assign]
        try:
            one = pa.schema([WIDE.field("c7")])
            found = pa.Table.from_batches([batch for _, batch in table.files.batches(file, one)], one)
        finally:
            session.reads.take = take  # type: ignore[method-assign]
        assert found.column("c7").to_pylist()[:70_000] == wide_rows(70_000, 0).column("c7").to_pylist()
        assert 0 < moved < total / 10, (moved, total)
        assert max(map(max, blobs.values())) <= PIECE_BYTES
        assert max(map(sum, blobs.values())) <= PARTITION_BYTES + PIECE_BYTES


async def test_cells_of_five_mebibytes_come_back(session: Session) -> None:
    schema = pa.schema([pa.field("n", pa.int32()), pa.field("blob", pa.binary()), pa.field("text", pa.string())])

    cells = [os.urandom(5 << 20) for _ in range(3)]
    batch = pa.RecordBatch.from_pydict({"n": [1, 2, 3], "blob": cells, "text": ["ä" * (5 << 19)] * 3}, schema=schema)
    async with table_in(session, schema) as table:
        file = await table.files.write("l0-big.parquet", [batch], schema)
        rows = [row for _, found in table.files.batches(file, schema) for row in found.to_pylist()]
        assert rows == batch.to_pylist()
    assert max(map(max, stored(session).values())) <= PIECE_BYTES


async def test_a_damaged_chunk_is_named_and_hurts_its_own_table_alone(session: Session) -> None:
    async with table_in(session, WIDE) as table, table_in(session, WIDE) as other:
        file = await table.files.write("l1-x.parquet", [wide_rows(70_000)], WIDE, level=1)
        untouched = await other.files.write("l1-x.parquet", [wide_rows(70_000)], WIDE, level=1)
        where = (table.uid, "l1-x.parquet", 1, 1, 3, 0)
        key = "uid = ? AND file = ? AND part = ? AND grp = ? AND col = ? AND piece = ?"
        ((body,),) = session.wait(f"SELECT body FROM chunks WHERE {key}", *where)
        session.wait(f"UPDATE chunks SET body = ? WHERE {key}", bytes([body[0] ^ 1]) + body[1:], *where)
        with pytest.raises(errors.ChecksumMismatch, match=r"chunk 1/3 of the table's file l1-x\.parquet"):
            list(table.files.batches(file, WIDE))
        narrow = pa.schema([WIDE.field("c4")])
        assert sum(batch.num_rows for _, batch in table.files.batches(file, narrow)) == 70_000
        assert sum(batch.num_rows for _, batch in other.files.batches(untouched, WIDE)) == 70_000
        await table.files.remove(["l1-x.parquet"])
        with pytest.raises(errors.FileMissing):
            list(table.files.batches(file, narrow))


async def test_files_of_old_hours_move_together(session: Session) -> None:
    async with table_in(session, IDS) as table:
        names = [f"l0-{number}.parquet" for number in range(10)]
        session.wait_cas("UPDATE tables SET buckets = '[5]' WHERE uid = ? IF EXISTS", table.uid)
        for name in names:  # as if they had been begun long ago
            session.wait(
                "INSERT INTO paths (uid, bucket, path, modified_us, parts) VALUES (?, 5, ?, 7, 1)", table.uid, name
            )
        await table.files.remove(names[:8])
        assert await table.files.list_paths() == [("l0-8.parquet", 7), ("l0-9.parquet", 7)]
        assert not session.wait("SELECT path FROM paths WHERE uid = ? AND bucket = 5", table.uid)


def test_a_keyspace_of_a_newer_release_and_of_another_cluster_is_refused(node: Cassandra, session: Session) -> None:
    with pytest.raises(errors.StoreUnavailable, match="belongs to the cluster `tests`"):
        open_session(session.place, "another")
    with pytest.raises(errors.StoreUnavailable, match=r"has form \d+, this release knows up to 1"):
        migrations.migrate(session, migrations.steps()[:1])
    with pytest.raises(errors.StoreUnavailable, match="need as many nodes"):
        open_session(place(node, replication=3), "tests")
    with pytest.raises(errors.StoreUnavailable, match="no node of Cassandra is in the datacenter `mars`"):
        open_session(place(node, datacenter="mars"), "tests")


def test_a_node_that_is_not_there_is_said(node: Cassandra) -> None:
    port = node.cql_port
    absent = place(node)
    with pytest.raises(errors.StoreUnavailable, match="no node can be reached"):
        open_session(type(absent)(contact_points=(f"127.0.0.9:{port}",)), "tests")


def test_no_warning_about_tombstones_or_large_partitions(node: Cassandra) -> None:
    assert not node.warnings("tombstone")
    assert not node.warnings("large partition")
    assert not node.warnings("mutation")
