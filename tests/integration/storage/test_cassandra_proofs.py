"""One Cassandra node, at length: 1,000 acknowledged commits and a kill; 200 MiB scanned; limits kept; users, certificates, refusals."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from millrace import errors
from millrace.laptop.servers.cassandra import Cassandra
from millrace.laptop.servers.cassandra_files import Options
from millrace.server.settings import Secret
from svc_storage.adapters.cassandra.log import PART, CassandraLog
from svc_storage.adapters.cassandra.objects import PIECE_BYTES
from svc_storage.adapters.cassandra.session import Session
from svc_storage.adapters.cassandra.store import open_backend, open_session
from svc_storage.domain.versions import LogView
from svc_storage.ports import LogTrimmed, Snapshot, VersionTaken
from tests.integration.storage.on_cassandra import WIDE, append, session_in, stored, table_in, wide_rows
from tests.servers.cassandra import CLUSTER, place, running

pytestmark = [pytest.mark.needs("cassandra"), pytest.mark.timeout(600)]
NARROW = pa.schema([pa.field("id", pa.int64()), pa.field("what", pa.string())])
PARTITION_LIMIT = 64 << 20


@pytest.fixture(scope="module")
def node() -> Iterator[Cassandra]:
    with running() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def session(node: Cassandra) -> Iterator[Session]:
    with session_in(node) as found:
        yield found


def narrow(number: int, count: int = 5) -> pa.RecordBatch:
    ids = list(range(number * count, (number + 1) * count))
    return pa.RecordBatch.from_pydict({"id": ids, "what": [f"row {value}" for value in ids]}, schema=NARROW)


async def test_a_thousand_of_a_thousand_survive_a_kill(node: Cassandra, session: Session) -> None:
    """Killed while the next ones are under way: `commitlog_sync: batch` keeps what was acknowledged."""
    async with table_in(session, NARROW) as table:
        acknowledged = 0
        killing: asyncio.Task[None] | None = None
        for number in range(5_000):
            try:
                file = await table.files.write(f"l0-{number}.parquet", [narrow(number)], NARROW)
                await table.log.append(append(f"c{number}", file), after=number)
            except (errors.StoreUnavailable, errors.OutcomeUnknown):
                break
            acknowledged += 1
            if acknowledged == 1_000:
                killing = asyncio.create_task(asyncio.to_thread(node.nodes[0].kill))
        assert killing is not None
        await killing
        node.nodes[0].start()
        await asyncio.to_thread(node.nodes[0].wait)
        tail = await recovered(table.log)
        assert len(tail.commits) - acknowledged in (0, 1)  # the one whose answer was lost may be there
        files = [file for found in tail.commits for file in found.commit.adds]
        rows = sum(batch.num_rows for file in files for _, batch in table.files.batches(file, NARROW))
        assert (acknowledged >= 1_000, rows) == (True, 5 * len(tail.commits))


async def recovered(log: object) -> object:
    for _ in range(100):
        try:
            return await log.recover()  # type: ignore[attr-defined]
        except errors.StoreUnavailable:
            await asyncio.sleep(0.2)
    raise AssertionError("the node is back, the session is not")


async def test_two_hundred_mebibytes_are_scanned_and_limits_are_kept(node: Cassandra, session: Session) -> None:
    async with table_in(session, WIDE) as table:
        batches = [wide_rows(50_000, seed) for seed in range(28)]
        assert sum(batch.nbytes for batch in batches) > 200 << 20
        file = await table.files.write("l2-big.parquet", batches, WIDE, level=2)
        for _ in range(3):
            rows, scanned = 0, 0
            for _, batch in table.files.batches(file, WIDE):
                rows, scanned = rows + batch.num_rows, scanned + batch.nbytes
            assert (rows, scanned > 200 << 20) == (28 * 50_000, True)
        sizes = stored(session)
        assert max(map(max, sizes.values())) <= PIECE_BYTES
        assert max(map(sum, sizes.values())) <= PARTITION_LIMIT / 2 + PIECE_BYTES
        served = session.wait(
            "SELECT table_name, mebibytes FROM system_views.max_partition_size WHERE keyspace_name = ? ALLOW FILTERING",
            session.place.keyspace,
        )
        assert all(mebibytes < 64 for _, mebibytes in served), served


async def test_what_leaves_leaves_no_tombstones(node: Cassandra, session: Session) -> None:
    """Records replaced, files removed, the log cut, the table dropped: reads of all of it meet none."""
    pool = ThreadPoolExecutor(8)
    backend = await open_backend(session, pool)
    await backend.create("gone", NARROW, time_us=1)
    _, files = backend.open("gone")
    log = CassandraLog(session, "gone", pool, grace_s=0.0)
    view = LogView(await log.recover())
    for number in range(2 * PART + 20):
        file = await files.write(f"l0-{number}.parquet", [narrow(number)], NARROW)
        await log.append(append(f"c{number}", file), after=number)
        view.publish((await log.read_after(number))[0])
        await files.put_record("notes", f"{number}".encode())
    await log.checkpoint(view.head, {})
    await log.trim(view.head.version)
    assert not session.wait("SELECT n FROM commits WHERE uid = 'gone' AND part = 0")
    await files.remove([f"l0-{number}.parquet" for number in range(2 * PART)])
    assert len(await files.list_paths()) == 21
    assert (await log.recover()).base.version == view.head.version
    with pytest.raises(LogTrimmed):
        await backend.open("gone")[0].read_after(3)
    await backend.drop("gone")
    assert "gone" not in await backend.list_uids()
    assert not session.wait("SELECT path FROM paths WHERE uid = 'gone' AND bucket = 0")
    assert not node.warnings("tombstone")
    seen = session.wait(
        "SELECT table_name, max FROM system_views.tombstones_per_read WHERE keyspace_name = ? ALLOW FILTERING",
        session.place.keyspace,
    )
    assert all((most or 0) <= 1 for _, most in seen), seen  # a partition's own end
    pool.shutdown()


async def test_who_slept_through_a_cut_does_not_commit_into_the_past(session: Session) -> None:
    pool = ThreadPoolExecutor(8)
    backend = await open_backend(session, pool)
    await backend.create("past", NARROW, time_us=1)
    log, sleeper = CassandraLog(session, "past", pool, grace_s=0.0), CassandraLog(session, "past", pool)
    view = LogView(await log.recover())
    for number in range(PART + 5):
        if number == 100:
            await sleeper.recover()
        await log.append(append(f"c{number}"), after=number)
        view.publish((await log.read_after(number))[0])
    await log.checkpoint(view.head, {})
    await log.trim(view.head.version)
    sleeper._heard_s -= 1_000  # as if it had been stopped for a quarter of an hour
    with pytest.raises(VersionTaken):
        await sleeper.append(append("late"), after=100)
    with pytest.raises(LogTrimmed):
        await sleeper.read_after(100)
    pool.shutdown()


async def test_bodies_and_states_of_many_mebibytes_come_back(session: Session) -> None:
    noise = os.urandom(3 << 19).hex()  # a position that does not pack
    async with table_in(session, NARROW) as table:
        commit = append("big")
        await table.log.append(type(commit)(id="big", kind=commit.kind, time_us=2, trace_context=noise), after=0)
        assert (await table.log.read_after(0))[0].commit.trace_context == noise
        dead = {f"{number}-{os.urandom(20).hex()}": number for number in range(300_000)}
        head = Snapshot(version=1, time_us=2, schema=NARROW)
        await table.log.checkpoint(head, dead)
        tail = await table.log.recover()
        assert (tail.base, tail.removed_us) == (head, dead)
        await table.files.put_record("plan", noise.encode() * 12)
        assert await table.files.get_record("plan") == noise.encode() * 12
        await table.files.put_record("plan", b"small")
        assert await table.files.get_record("plan") == b"small"
    assert max(map(max, stored(session).values())) <= PIECE_BYTES


def test_users_and_certificates(tmp_path: Path) -> None:
    with running(options=Options(auth=True, tls=True)) as node:
        secret = tmp_path / "password"
        secret.write_text("cassandra\n")
        user, known = "env:CASSANDRA_USER", {"CASSANDRA_USER": Secret("cassandra")}
        trusted = {"tls_ca": node.certificate, "user": user, "environment": known}
        with session_in(node, **trusted, password=f"file:{secret}") as session:
            assert session.wait("SELECT value FROM meta WHERE key = 'version'")
        secret.write_text("wrong")
        with pytest.raises(errors.NotAllowed, match="credentials"):
            open_session(place(node, **trusted, password=f"file:{secret}"), CLUSTER)
        with pytest.raises(errors.NotAllowed, match="credentials"):
            open_session(place(node, tls_ca=node.certificate), CLUSTER)
        with pytest.raises(errors.StoreUnavailable):
            open_session(place(node, user=user, environment=known, password=f"file:{secret}"), CLUSTER)


def test_a_single_node_that_loses_acknowledged_rows_is_refused() -> None:
    refused = pytest.raises(errors.StoreUnavailable, match="commitlog_sync is periodic")
    with running(options=Options(commitlog_sync="periodic")) as node, refused:
        open_session(place(node), CLUSTER)
