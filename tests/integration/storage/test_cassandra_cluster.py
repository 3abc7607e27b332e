"""Three Cassandra nodes at three copies: one of them is killed under load."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa
import pytest

from millrace import errors
from millrace.laptop.servers.cassandra import Cassandra
from svc_storage.adapters.cassandra.store import open_session
from tests.integration.storage.on_cassandra import append, session_in, table_in
from tests.servers.cassandra import CLUSTER, place, running

pytestmark = [pytest.mark.needs("cassandra"), pytest.mark.timeout(900)]
SCHEMA = pa.schema([pa.field("id", pa.int64())])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cassandra]:
    with running(3) as found:
        yield found


def rows(number: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([number * 2, number * 2 + 1])], schema=SCHEMA)


async def test_one_of_three_killed_under_load_fails_and_loses_nothing(cluster: Cassandra) -> None:
    """Writes, commits and reads go on while a node dies, is away, and comes back: none of them fails."""
    with session_in(cluster) as session:
        assert session.cluster.metadata.keyspaces[session.place.keyspace].replication_strategy
        async with table_in(session, SCHEMA) as table:
            node = cluster.nodes[2]
            failed: list[Exception] = []
            back = asyncio.Event()

            number = 0

            async def committed(more: int) -> None:
                wanted = number + more
                while number < wanted and not failed:
                    await asyncio.sleep(0.02)

            async def trouble() -> None:
                await committed(50)
                await asyncio.to_thread(node.kill)
                await committed(100)
                node.start()
                await asyncio.to_thread(node.wait)
                back.set()

            task = asyncio.create_task(trouble())
            while not back.is_set() or number < 300:
                try:
                    file = await table.files.write(f"l0-{number}.parquet", [rows(number)], SCHEMA)
                    await table.log.append(append(f"c{number}", file), after=number)
                    assert sum(batch.num_rows for _, batch in table.files.batches(file, SCHEMA)) == 2
                except errors.MillraceError as error:
                    failed.append(error)
                    break
                number += 1
            await task
            assert not failed
            tail = await table.log.recover()
            assert [found.commit.id for found in tail.commits] == [f"c{n}" for n in range(number)]
            found = [
                row
                for commit in tail.commits
                for file in commit.commit.adds
                for _, batch in table.files.batches(file, SCHEMA)
                for row in batch.column(0).to_pylist()
            ]
            assert found == list(range(2 * number))
            print(f"{number} commits, one of three nodes killed and back: 0 failed, 0 lost")


def test_one_copy_in_a_cluster_is_refused(cluster: Cassandra) -> None:
    with pytest.raises(errors.StoreUnavailable, match="one copy of each row in a cluster of several nodes"):
        open_session(place(cluster, replication=1), CLUSTER)
    with pytest.raises(errors.StoreUnavailable, match="4 copies of each row need as many nodes"):
        open_session(place(cluster, replication=4), CLUSTER)


def test_two_processes_make_one_keyspace_at_once(cluster: Cassandra) -> None:
    """Each through another node: one applies the steps, the other waits."""

    base = place(cluster)
    places = [replace(base, contact_points=(point,)) for point in cluster.contact_points]
    with ThreadPoolExecutor(3) as pool:
        opened = list(pool.map(lambda one: open_session(one, CLUSTER), places))
    assert len({store_id for _, store_id in opened}) == 1
    for session, _ in opened:
        session.cluster.shutdown()
