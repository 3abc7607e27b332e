"""The derived table by key: filled, following, rebuilt; and look-ups that say the same with it and without it."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from cassandra.cluster import Cluster

from millrace import errors, failpoints
from svc_storage.adapters.cassandra.key_table import CassandraKeyTable
from svc_storage.adapters.cassandra.session import Session
from svc_storage.adapters.cassandra.store import open_backend
from svc_storage.domain.definition import TableDefinition, define
from svc_storage.domain.opened import Opened, OpenTable
from svc_storage.domain.reading.key_tables import catch_up
from svc_storage.domain.reading.lookup import Found, Lookups, LookupWish
from svc_storage.domain.tables import Tables
from svc_storage.domain.writing import rewrite
from svc_storage.domain.writing.appending import Incoming
from svc_storage.ports import CommitKind, KeyTableState, Version
from tests.contract.storage.backends import NAME, Rig
from tests.contract.storage.test_merging import SCHEMA as MERGED_SCHEMA
from tests.contract.storage.test_merging import gone, merge, merger, up
from tests.servers.cassandra import shared_session

SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("name", pa.string())])


@dataclass
class NativeRig(Rig):
    """With derived tables. They follow when they are told to."""

    session: Session | None = None

    def _start(self) -> None:
        def key_table(uid: str) -> CassandraKeyTable:
            assert self.session is not None
            return CassandraKeyTable(self.session, uid, self.pool)

        self.opened = Opened(self.catalog, self.backend, self.leases, self.clock, key_tables=key_table)
        self.tables = Tables(self.catalog, self.backend, self.opened, self.dependents, self.clock)

    async def follow(self, table: OpenTable) -> KeyTableState:
        assert table.key_table is not None
        table.key_state = await catch_up(table, table.key_table, table.key_state or await table.key_table.state())
        return table.key_state

    async def append(self, batch: pa.RecordBatch) -> Version:
        stream = await self.open()
        await stream.append(Incoming(offset=stream.opened.next_offset, rows=batch, crc32=0, size=batch.nbytes))
        await stream.finish()
        stream.close()
        return stream.last_version

    async def find(self, keys: pa.RecordBatch, *, native: bool = True, version: Version | None = None) -> Found:
        """Files are not touched when the derived table can tell, and are when it is not asked."""
        lookups = Lookups(self.opened, self.pool)
        target = await lookups.pin(LookupWish(table=NAME, version=version))
        before = target.table.key_state
        target.table.key_state = before if native else None
        try:
            return await lookups.find(target, keys)
        finally:
            target.table.key_state = before


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[NativeRig]:
    pool = ThreadPoolExecutor(4)
    session = shared_session(1)
    built = NativeRig(tmp_path, await open_backend(session, pool), pool, session=session)
    yield built
    await built.close()


def native(schema: pa.Schema, *key: str, **more: object) -> TableDefinition:
    return define(schema, primary_key=key, native_lookup=True, **more)  # type: ignore[arg-type]


def lines(*names: tuple[int, str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {"id": [key for key, _ in names], "name": [name for _, name in names]}, schema=SCHEMA
    )


def ids(*keys: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"id": pa.array(keys, pa.int64())})


def names(found: Found) -> list[str | None]:
    rows = iter(found.rows.to_pylist())
    return [next(rows)["name"] if there else None for there in found.found]


KINDS = pa.schema(
    [
        pa.field("k", pa.int32()),
        pa.field("t", pa.string()),
        pa.field("d", pa.date32()),
        pa.field("at", pa.timestamp("us", "UTC")),
        pa.field("local", pa.timestamp("us")),
        pa.field("n", pa.decimal128(38, 6)),
        pa.field("f", pa.float64()),
        pa.field("g", pa.float32()),
        pa.field("b", pa.bool_()),
        pa.field("raw", pa.binary()),
        pa.field("tiny", pa.int8()),
        pa.field("short", pa.int16()),
    ]
)
ROWS = [
    (1, "a", dt.date(1, 1, 1), dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999),
     decimal.Decimal("-99999999999999999999999999999999.999999"), float("nan"), 1.5, True, b"\x00\xff", -128, 32_767),
    (2, "", dt.date(2024, 2, 29), dt.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=dt.UTC), None,
     decimal.Decimal("0.000001"), float("-inf"), None, False, b"", 127, None),
    (-3, "äöü\x00", None, None, None, None, None, None, None, None, None, None),
]  # fmt: skip


async def test_every_type_is_exact(rig: NativeRig) -> None:
    table = await rig.create(native(KINDS, "k", "t"))
    columns = [pa.array(values, field.type) for values, field in zip(zip(*ROWS, strict=True), KINDS, strict=True)]
    batch = pa.RecordBatch.from_arrays(columns, schema=KINDS)
    await rig.append(batch)
    await rig.follow(table)
    keys = batch.select(["k", "t"])
    by_table, by_files = await rig.find(keys), await rig.find(keys, native=False)
    assert by_table.found == by_files.found == [True] * 3
    assert repr(by_table.rows.to_pylist()) == repr(by_files.rows.to_pylist()) == repr(batch.to_pylist())


@pytest.mark.parametrize("kind", ["d", "at", "n", "b", "raw", "tiny"])
async def test_kinds_of_keys(rig: NativeRig, kind: str) -> None:
    table = await rig.create(native(KINDS, kind))
    columns = [pa.array(values, field.type) for values, field in zip(zip(*ROWS, strict=True), KINDS, strict=True)]
    batch = pa.RecordBatch.from_arrays(columns, schema=KINDS)
    await rig.append(batch)
    await rig.follow(table)
    keys = batch.select([kind])
    assert (await rig.find(keys)).found == (await rig.find(keys, native=False)).found == [True, True, False]


async def test_it_follows_and_says_what_is_newer_or_older(rig: NativeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    table = await rig.create(native(SCHEMA, "id"))
    first = await rig.append(lines((1, "a"), (2, "b"), (2, "B")))
    state = await rig.follow(table)
    assert state.through == table.head
    assert names(await rig.find(ids(1, 2, 3))) == ["a", "B", None]
    second = await rig.append(lines((1, "A"), (3, "c")))
    assert names(await rig.find(ids(1, 2, 3))) == ["A", "B", "c"]  # not followed yet: the new file is looked into
    state = await rig.follow(table)
    assert state.through == table.head == second
    assert names(await rig.find(ids(1, 2, 3), version=first)) == ["a", "B", None]
    monkeypatch.setattr(table.files, "batches", None)  # whatever is read from here on comes from the derived table
    assert names(await rig.find(ids(1, 2, 3))) == ["A", "B", "c"]


async def test_the_newest_is_asked_for_while_it_moves_on(rig: NativeRig, monkeypatch: pytest.MonkeyPatch) -> None:
    table = await rig.create(native(SCHEMA, "id"))
    await rig.append(lines((1, "a"), (2, "b")))
    await rig.follow(table)
    lookups = Lookups(rig.opened, rig.pool)
    pinned = await lookups.pin(LookupWish(table=NAME))
    newer = await rig.append(lines((1, "A")))
    before = table.key_state
    await rig.follow(table)
    table.key_state = before  # the row is there, the watermark is not told yet
    found = await lookups.find(pinned, ids(1, 2))
    assert (names(found), found.target.snapshot.version) == (["A", "b"], newer)


async def test_it_follows_merges(rig: NativeRig) -> None:
    table = await rig.create(native(MERGED_SCHEMA, "id", sequence_column="seq"))
    with pytest.raises(errors.WriterModeConflict):
        await rig.open("appender")
    stream = await merger(rig)
    await merge(stream, table, [up(1, "a", 1), up(2, "b", 1), up(3, "c", 1)])
    await rig.follow(table)
    await merge(stream, table, [up(1, "A", 2), gone(2, 2), up(4, "d", 1)], [gone(4, 2), up(3, "late", 0)])
    assert names(await rig.find(ids(1, 2, 3, 4))) == ["A", None, "c", None]  # files
    name = (await rig.follow(table)).name
    assert table.key_state is not None
    assert table.key_state.name == name
    assert names(await rig.find(ids(1, 2, 3, 4))) == ["A", None, "c", None]


async def test_following_again_changes_nothing(rig: NativeRig) -> None:
    table = await rig.create(native(SCHEMA, "id"))
    await rig.append(lines((1, "a"), (2, "b")))
    state = await rig.follow(table)
    for name in "xyz":
        await rig.append(lines((1, name)))
    await rig.follow(table)
    table.key_state = state  # died before the watermark moved
    again = await rig.follow(table)
    assert again.through == table.head
    assert names(await rig.find(ids(1, 2))) == ["z", "b"]


async def test_what_it_cannot_follow_fills_a_new_one(rig: NativeRig) -> None:
    table = await rig.create(native(SCHEMA, "id"))
    await rig.append(lines((1, "a"), (2, "b")))
    before = await rig.follow(table)
    head = table.versions.head
    (file,) = head.files.values()
    anew = await rewrite.write_without(table.files, file, head.schema, lambda batch: batch.slice(1))
    assert anew is not None
    swap = rewrite.Swap(kind=CommitKind.RESTORE, inputs=(file,), outputs=(anew,))
    await rewrite.swap(table.committer, swap, now_us=0)
    assert names(await rig.find(ids(1, 2))) == [None, "b"]  # by the files
    after = await rig.follow(table)
    assert after.name != before.name
    assert names(await rig.find(ids(1, 2))) == [None, "b"]
    assert rig.session is not None
    kept = rig.session.wait(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?", rig.session.place.keyspace
    )
    assert (before.name,) not in kept


async def test_a_plain_driver_reads_it(rig: NativeRig) -> None:
    table = await rig.create(native(SCHEMA, "id"))
    await rig.append(lines(*((key, f"n{key}") for key in range(500))))
    state = await rig.follow(table)
    assert rig.session is not None
    host, _, port = rig.session.place.contact_points[0].partition(":")
    with Cluster([host], port=int(port or 9042)) as cluster:
        plain = cluster.connect(rig.session.place.keyspace)
        rows = list(plain.execute(f"SELECT id, name FROM {state.name}"))
    assert sorted((row.id, row.name) for row in rows) == [(key, f"n{key}") for key in range(500)]


async def test_one_that_is_gone_is_not_missed(rig: NativeRig) -> None:
    table = await rig.create(native(SCHEMA, "id"))
    await rig.append(lines((1, "a")))
    state = await rig.follow(table)
    assert table.key_table is not None
    await table.key_table.drop()
    assert await table.key_table.state() is None
    assert names(await rig.find(ids(1))) == ["a"]
    table.key_state = None
    assert (await rig.follow(table)).name != state.name
    assert names(await rig.find(ids(1))) == ["a"]


async def test_keys_it_cannot_have_are_refused(rig: NativeRig) -> None:
    with pytest.raises(errors.FieldInvalid, match="double"):
        await rig.create(native(KINDS, "f"))


async def test_broken_off_before_its_mark_it_does_the_rest_again(
    rig: NativeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.create(native(SCHEMA, "id"))
    await rig.append(lines((1, "a")))
    table = await rig.opened.table(NAME)
    await rig.follow(table)
    version = await rig.append(lines((2, "b")))
    with monkeypatch.context() as broken:
        broken.setattr(failpoints, "_points", failpoints.parse("storage.before_key_table_complete=error:1"))
        with pytest.raises(failpoints.InjectedFault):
            await rig.follow(table)
    assert (await rig.follow(table)).through == version
    assert names(await rig.find(ids(1, 2, 3))) == ["a", "b", None]
