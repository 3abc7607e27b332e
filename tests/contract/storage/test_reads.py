"""Reading on every backend, without the network."""

from __future__ import annotations

import datetime as dt
import hashlib
import random
from collections.abc import AsyncIterator
from itertools import chain

import pyarrow as pa
import pytest

from millrace.errors import (
    BackendCapability,
    ChangesNotAppendOnly,
    FieldInvalid,
    TableNotFound,
    TableRecreated,
    TokenMismatch,
    TokenUnsupported,
    VersionExpired,
    VersionInFuture,
)
from svc_storage.domain.reading.predicates import Compare, In, Not, Op
from svc_storage.domain.reading.reads import DirectAccess, Reads, ReadWish, RowStream
from svc_storage.domain.reading.rows import Chunk
from svc_storage.domain.reading.scans import Scan, TimeRange
from svc_storage.domain.streams import closing
from svc_storage.domain.writing.dead_letters import ClientDeadLetter
from svc_storage.ports import Direct
from tests.contract.storage.backends import NAME, Rig, incoming

STORE = "store-1"


def reads_of(rig: Rig) -> Reads:
    return Reads(rig.opened, rig.control, rig.clock, rig.pool, DirectAccess(True, STORE))


async def fill(rig: Rig, *counts: int) -> None:
    """One commit per count, ids rising from 0."""
    await rig.create()
    stream = await rig.open()
    offset = 0
    for count in counts:
        await stream.append(incoming(offset, count))
        await stream.settle()
        offset += count
    await stream.finish()


async def collect(stream: RowStream) -> pa.Table:
    async with closing(stream):
        batches = []
        while (chunk := await stream.next()) is not None:
            batches.append(chunk.batch)
        return pa.Table.from_batches(batches, stream.pinned.schema)


async def read_ids(rig: Rig, scan: Scan) -> list[int]:
    table = await collect(await reads_of(rig).open(ReadWish(scan=Scan(**{**_fields(scan), "columns": ("id",)}))))
    found: list[int] = table.column("id").to_pylist()
    return found


def _fields(scan: Scan) -> dict[str, object]:
    return {name: getattr(scan, name) for name in Scan.__dataclass_fields__}


def sha(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


async def test_a_whole_read_is_in_order_and_without_storages_own_columns(rig: Rig) -> None:
    await fill(rig, 5, 3, 4)
    table = await collect(await reads_of(rig).open(ReadWish(scan=Scan(NAME))))
    assert table.schema.names == ["id", "at", "price", "status"]
    assert table.column("id").to_pylist() == list(range(12))
    own = await collect(await reads_of(rig).open(ReadWish(scan=Scan(NAME, columns=("_ingested_at", "id")))))
    assert own.schema.names == ["_ingested_at", "id"]
    assert own.column("_ingested_at").null_count == 0


async def test_splits_are_disjoint_and_complete(rig: Rig) -> None:
    await fill(rig, 5_000, 40, 40, 7_000)
    reads = reads_of(rig)
    for preferred in (1, 2, 3, 4, 7):
        plan = await reads.plan(ReadWish(scan=Scan(NAME, columns=("id",)), preferred_splits=preferred))
        assert len(plan.splits) == preferred
        parts = [(await collect(await reads.open_split(s.token))).column("id").to_pylist() for s in plan.splits]
        assert [len(part) for part in parts] == [s.rows for s in plan.splits]
        assert sorted(chain(*parts)) == list(range(12_080))
    few = await reads.plan(ReadWish(scan=Scan(NAME), preferred_splits=7, max_splits=2))
    assert len(few.splits) == 2


async def test_a_split_can_be_cut_finer(rig: Rig) -> None:
    await fill(rig, 9_000, 9_000)
    reads = reads_of(rig)
    wish = ReadWish(scan=Scan(NAME, columns=("id",)))
    plan = await reads.plan(ReadWish(scan=wish.scan, preferred_splits=2))
    finer = await reads.plan(ReadWish(scan=wish.scan, preferred_splits=3, refine=plan.splits[1].token))
    parts = [(await collect(await reads.open_split(s.token))).column("id").to_pylist() for s in finer.splits]
    assert len(parts) == 3
    assert sorted(chain(*parts)) == list(range(9_000, 18_000))
    with pytest.raises(TokenMismatch):
        await reads.plan(ReadWish(scan=Scan(NAME, columns=("at",)), refine=plan.splits[1].token))


async def test_predicate_time_range_and_limit(rig: Rig) -> None:
    await fill(rig, 100, 100, 100)
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert await read_ids(rig, Scan(NAME, predicate=Compare("id", Op.GE, 295))) == [295, 296, 297, 298, 299]
    assert await read_ids(rig, Scan(NAME, predicate=In("id", (3, 250, 999)))) == [3, 250]
    odd = Not(Compare("status", Op.EQ, "done"))
    assert await read_ids(rig, Scan(NAME, predicate=odd, limit=60)) == list(range(1, 121, 2))
    window = TimeRange(epoch + dt.timedelta(seconds=99), epoch + dt.timedelta(seconds=102))
    assert await read_ids(rig, Scan(NAME, time_range=window)) == [99, 100, 101]
    assert await read_ids(rig, Scan(NAME, limit=150)) == list(range(150))
    plan = await reads_of(rig).plan(ReadWish(scan=Scan(NAME, limit=150), preferred_splits=9))
    assert [split.rows for split in plan.splits] == [150]
    pruned = await reads_of(rig).plan(ReadWish(scan=Scan(NAME, predicate=Compare("id", Op.LT, 50))))
    assert sum(split.rows for split in pruned.splits) == 100
    nothing = await reads_of(rig).plan(ReadWish(scan=Scan(NAME, predicate=Compare("id", Op.LT, -1))))
    assert list(nothing.splits) == []


@pytest.mark.parametrize(
    ("scan", "field"),
    [
        (Scan(NAME, columns=("nope",)), "columns[0]"),
        (Scan(NAME, columns=("id", "id")), "columns[1]"),
        (Scan(NAME, predicate=Compare("nope", Op.EQ, 1)), "predicate.compare.column"),
        (Scan(NAME, predicate=Not(Compare("id", Op.EQ, "x"))), "predicate.negation.compare.value"),
        (Scan(NAME, predicate=In("id", (1, 1.5))), "predicate.one_of.values[1]"),
    ],
)
async def test_a_wrong_request_names_the_field(rig: Rig, scan: Scan, field: str) -> None:
    await fill(rig, 1)
    with pytest.raises(FieldInvalid) as refused:
        await reads_of(rig).open(ReadWish(scan=scan))
    assert refused.value.field == field


async def test_versions_and_times(rig: Rig) -> None:
    await fill(rig, 10, 10)
    table = await rig.opened.table(NAME)
    head = table.head
    reads = reads_of(rig)
    old = await collect(await reads.open(ReadWish(scan=Scan(NAME), version=head - 1)))
    assert old.num_rows == 10
    at = table.commits_in(head - 2, head - 1)[0].commit.time_us
    assert (await collect(await reads.open(ReadWish(scan=Scan(NAME), as_of_us=at)))).num_rows == 10
    assert (await collect(await reads.open(ReadWish(scan=Scan(NAME), as_of_us=at + 10**12)))).num_rows == 20
    with pytest.raises(VersionInFuture):
        await reads.open(ReadWish(scan=Scan(NAME), version=head + 1))
    with pytest.raises(VersionExpired):
        await reads.open(ReadWish(scan=Scan(NAME), as_of_us=1))
    with pytest.raises(TableRecreated):
        await reads.open(ReadWish(scan=Scan(NAME), table_uid="other"))
    with pytest.raises(TableNotFound):
        await reads.open(ReadWish(scan=Scan(NAME + "x")))


async def test_after_version_gives_exactly_what_appends_added(rig: Rig) -> None:
    await fill(rig, 10, 20, 30)
    head = (await rig.opened.table(NAME)).head
    reads = reads_of(rig)
    wish = ReadWish(scan=Scan(NAME, columns=("id",), after_version=head - 2))
    plan = await reads.plan(wish)
    parts = [(await collect(await reads.open_split(s.token))).column("id").to_pylist() for s in plan.splits]
    assert list(chain(*parts)) == list(range(10, 60))
    assert (await collect(await reads.open(ReadWish(scan=Scan(NAME, after_version=head))))).num_rows == 0
    between = ReadWish(scan=Scan(NAME, columns=("id",), after_version=head - 2), version=head - 1)
    assert (await collect(await reads.open(between))).column("id").to_pylist() == list(range(10, 30))
    with pytest.raises(VersionInFuture):
        await reads.plan(ReadWish(scan=Scan(NAME, after_version=head + 1)))
    assert ChangesNotAppendOnly.reason == "CHANGES_NOT_APPEND_ONLY"


async def test_dead_letters_are_read_like_a_table(rig: Rig) -> None:
    await rig.create()
    stream = await rig.open(keep_bad=True)
    await stream.append(incoming(0, 3, dead=(ClientDeadLetter(1, "UNPARSEABLE", "", b"x,y"),)))
    await stream.finish()
    found = await collect(await reads_of(rig).open(ReadWish(scan=Scan(NAME + "$dead_letters"))))
    assert found.column("raw").to_pylist() == [b"x,y"]
    assert found.column("offset").to_pylist() == [1]
    by_reason = Scan(NAME + "$dead_letters", columns=("writer",), predicate=Compare("reason", Op.EQ, "UNPARSEABLE"))
    plan = await reads_of(rig).plan(ReadWish(scan=by_reason))
    (split,) = plan.splits
    assert (await collect(await reads_of(rig).open_split(split.token))).column("writer").to_pylist() == ["w"]


# -- resuming
async def _cut_read(rig: Rig, wish: ReadWish | bytes, seed: int, cuts: int) -> tuple[pa.Table, int]:
    """Reads in pieces: each stream is dropped after a random number of rows, the next goes on by the token."""
    chance = random.Random(seed)
    batches: list[pa.RecordBatch] = []
    token = b""
    while True:
        reads = reads_of(rig)
        stream = await (reads.open_split(wish, token) if isinstance(wish, bytes) else reads.open(wish, token))
        async with closing(stream):
            while (chunk := await stream.next()) is not None:
                rows = chunk.batch.num_rows
                if cuts and rows:
                    rows = chance.randint(1, min(rows, 400))
                    token = stream.token(chunk, rows)
                    batches.append(chunk.batch.slice(0, rows))
                    cuts -= 1
                    break
                batches.append(chunk.batch)
                token = stream.token(chunk, rows)
            else:
                assert cuts == 0
                return pa.Table.from_batches(batches, stream.pinned.schema), stream.emitted


@pytest.mark.parametrize("limit", [0, 30_000])
@pytest.mark.parametrize("filtered", [False, True])
async def test_a_read_cut_a_hundred_times_has_the_same_rows(rig: Rig, filtered: bool, limit: int) -> None:
    await fill(rig, 20_000, 1, 333, 25_000, 5_000)
    predicate = Not(In("status", ("open",))) if filtered else None
    wish = ReadWish(scan=Scan(NAME, predicate=predicate, limit=limit))
    whole = await collect(await reads_of(rig).open(wish))
    cut, emitted = await _cut_read(rig, wish, seed=7131, cuts=100)
    assert sha(cut) == sha(whole)
    assert emitted == whole.num_rows
    (split,) = (await reads_of(rig).plan(wish)).splits
    cut, emitted = await _cut_read(rig, split.token, seed=17, cuts=100)
    assert sha(cut) == sha(whole)
    assert emitted == whole.num_rows


async def test_tokens_outlive_a_restart_and_newer_versions(rig: Rig) -> None:
    await fill(rig, 3_000, 3_000)
    reads = reads_of(rig)
    plan = await reads.plan(ReadWish(scan=Scan(NAME, columns=("id",)), preferred_splits=3))
    stream = await reads.open(ReadWish(scan=Scan(NAME, columns=("id",))))
    chunk = await stream.next()
    assert chunk is not None
    first = chunk.batch.column("id").to_pylist()
    token = stream.token(chunk, len(first))
    await stream.aclose()
    await rig.restart()
    writer = await rig.open()
    await writer.append(incoming(6_000, 5))
    await writer.finish()
    rest = await collect(await reads_of(rig).open(ReadWish(scan=Scan(NAME, columns=("id",))), token))
    assert first + rest.column("id").to_pylist() == list(range(6_000))
    parts = [(await collect(await reads_of(rig).open_split(s.token))).column("id").to_pylist() for s in plan.splits]
    assert list(chain(*parts)) == list(range(6_000))


async def test_tokens_of_another_request_are_refused(rig: Rig) -> None:
    await fill(rig, 3_000, 3_000)
    reads = reads_of(rig)
    stream = await reads.open(ReadWish(scan=Scan(NAME)))
    chunk = await stream.next()
    assert chunk is not None
    token = stream.token(chunk, 5)
    await stream.aclose()
    plan = await reads.plan(ReadWish(scan=Scan(NAME), preferred_splits=2))
    for attempt in (
        reads.open(ReadWish(scan=Scan(NAME, columns=("id",))), token),
        reads.open(ReadWish(scan=Scan(NAME), version=0), token),
        reads.open_split(plan.splits[0].token, token),
        reads.open_split(token),
        reads.open(ReadWish(scan=Scan(NAME)), plan.splits[0].token),
        reads.open(ReadWish(scan=Scan(NAME)), token[:-1]),
        reads.open_split(b"\x01"),
    ):
        with pytest.raises(TokenMismatch):
            await attempt
    with pytest.raises(TokenUnsupported):
        await reads.open_split(b"\x07" + plan.splits[0].token[1:])


async def test_a_request_too_large_for_its_token_is_kept(rig: Rig) -> None:
    await fill(rig, 3_000)
    wide = In("id", tuple(range(0, 3_000, 3)))
    reads = reads_of(rig)
    plan = await reads.plan(ReadWish(scan=Scan(NAME, predicate=wide), preferred_splits=2))
    assert all(len(split.token) <= 512 for split in plan.splits)
    parts = [(await collect(await reads.open_split(s.token))).column("id").to_pylist() for s in plan.splits]
    assert list(chain(*parts)) == list(range(0, 3_000, 3))


# -- the files themselves
async def test_direct_access_is_for_who_can_use_it(rig: Rig) -> None:
    """On a shared disk: whoever shows the store's id. Signed: everybody, for a while."""
    await fill(rig, 300, 200)
    direct = (await rig.opened.table(NAME)).files.direct
    reads = reads_of(rig)
    stranger = await reads.plan(ReadWish(scan=Scan(NAME)), store_id="other")
    assert all(split.direct == (direct is Direct.PRESIGNED) for split in stranger.splits)
    plan = await reads.plan(ReadWish(scan=Scan(NAME, predicate=Compare("id", Op.GE, 300))), store_id=STORE)
    (split,) = plan.splits
    assert split.direct == (direct is not Direct.NONE)
    if direct is not Direct.PRESIGNED:
        with pytest.raises(BackendCapability):
            await reads.split_files(split.token, store_id="")
    if split.direct:
        found = await reads.split_files(split.token, store_id=STORE)
        assert [file.row_count for file in found.files] == [200]
        assert found.residual == Compare("id", Op.GE, 300)
        (file,) = found.files
        assert file.url.startswith("file:///" if direct is Direct.SAME_DISK else "http")
        assert (file.expire_us is None) == (direct is Direct.SAME_DISK)
        again = await reads.split_files(split.token, store_id=STORE)
        assert [one.id for one in again.files] == [file.id]


# -- bounds
async def test_a_stalled_reader_holds_a_few_mebibytes(rig: Rig) -> None:
    await fill(rig, *([50_000] * 16))
    before = pa.total_allocated_bytes()
    streams = [await reads_of(rig).open(ReadWish(scan=Scan(NAME))) for _ in range(4)]
    for stream in streams:
        assert await stream.next() is not None
        assert stream._ahead is not None
        await stream._ahead
    assert (pa.total_allocated_bytes() - before) / len(streams) < 16 << 20
    for stream in streams:
        await stream.aclose()


async def test_a_filter_that_matches_nothing_stays_interruptible(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svc_storage.domain.reading.rows.SCANNED_BYTES", 1 << 16)
    await fill(rig, 30_000, 30_000)
    nothing = Not(In("status", ("open", "done")))
    stream = await reads_of(rig).open(ReadWish(scan=Scan(NAME, predicate=nothing)))
    async with closing(stream):
        chunks = [chunk async for chunk in _chunks(stream)]
    assert len(chunks) >= 2
    assert sum(chunk.batch.num_rows for chunk in chunks) == stream.emitted == 0
    ends = [chunk.end for chunk in chunks]
    assert ends == sorted(ends)


async def _chunks(stream: RowStream) -> AsyncIterator[Chunk]:
    while (chunk := await stream.next()) is not None:
        yield chunk
