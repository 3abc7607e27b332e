"""AppendRows' rules W1–W9 on every backend, without the network."""

from __future__ import annotations

import asyncio
import contextlib

import pyarrow as pa
import pytest

from millrace import errors
from svc_storage.domain.definition import ColumnRule, define
from svc_storage.domain.writing.appending import MAX_UNACKED_BATCHES, AppendStream
from svc_storage.domain.writing.dead_letters import ClientDeadLetter
from svc_storage.domain.writing.group import Ack
from svc_storage.ports import CommitKind, RequestMark
from tests.contract.storage.backends import NAME, SCHEMA, Rig, ids, incoming, read, rows


async def send(stream: AppendStream, *counts: int, start: int | None = None) -> None:
    offset = stream.opened.next_offset if start is None else start
    for count in counts:
        await stream.append(incoming(offset, count))
        offset += count


async def acks(stream: AppendStream) -> list[Ack]:
    found = []
    with contextlib.suppress(errors.MillraceError):
        while ack := await stream.next_event(0.01):
            found.append(ack)
    return found


async def test_rows_are_there_after_finish(rig: Rig) -> None:
    table = await rig.create()
    stream = await rig.open()
    assert (stream.epoch, stream.opened.next_offset) == (1, 0)
    await send(stream, 3, 4)
    await stream.finish()
    ack = await stream.next_event(1)
    assert ack is not None
    assert (ack.next_offset, ack.rows_written, ack.version) == (7, 7, table.head)
    assert stream.ended
    assert ids(table) == list(range(7))
    assert [found.commit.kind for found in table.commits_in(0, table.head)] == [CommitKind.FENCE, CommitKind.APPEND]


async def test_ingested_at_is_one_time_per_commit_and_never_falls(rig: Rig) -> None:
    table = await rig.create()
    stream = await rig.open()
    for start in (0, 5):
        await send(stream, 5, start=start)
        await stream.settle()
        rig.clock.ahead_us -= 60_000_000  # the wall clock steps back
    stamps = read(table, table.versions.head).column("_ingested_at").cast(pa.int64()).to_pylist()
    assert stamps == sorted(stamps)
    assert len(set(stamps)) == 1  # never lower than the group before, even when the clock is


async def test_a_restart_goes_on_where_the_log_says(rig: Rig) -> None:
    await rig.create()
    stream = await rig.open()
    await send(stream, 10)
    await stream.settle()
    await send(stream, 10, start=10)  # not committed yet
    table = await rig.restart()
    again = await rig.open(epoch=1)
    assert again.opened.next_offset in (10, 20)
    await send(again, 10, start=10)
    await again.finish()
    assert ids(table) == list(range(20))


async def test_a_known_offset_is_acknowledged_and_not_stored(rig: Rig) -> None:
    table = await rig.create()
    stream = await rig.open()
    await send(stream, 10)
    await stream.settle()
    again = await rig.open(epoch=1)
    await send(again, 10, start=0)
    await again.finish()
    found = await acks(again)
    assert sum(ack.rows_duplicate for ack in found) == 10
    assert sum(ack.rows_written for ack in found) == 0
    assert ids(table) == list(range(10))


@pytest.mark.parametrize(
    ("offset", "count", "raised"),
    [
        (11, 1, errors.OffsetGap),
        (9, 2, errors.OffsetOverlap),
        (0, 11, errors.OffsetOverlap),
        (-1, 1, errors.FieldInvalid),
    ],
)
async def test_offsets_that_do_not_follow_are_refused(
    rig: Rig, offset: int, count: int, raised: type[Exception]
) -> None:
    await rig.create()
    stream = await rig.open()
    await send(stream, 10)
    with pytest.raises(raised) as refused:
        await send(stream, count, start=offset)
    assert isinstance(refused.value, errors.MillraceError)
    assert refused.value.metadata["next_offset"] == "10"


async def test_other_bytes_at_a_known_offset_are_noticed_after_a_restart(rig: Rig) -> None:
    await rig.create()
    stream = await rig.open()
    await stream.append(incoming(0, 5, crc32=1))
    await stream.settle()
    await rig.restart()
    again = await rig.open(epoch=1)
    await again.append(incoming(0, 5, crc32=1))
    with pytest.raises(errors.OffsetContentMismatch):
        await again.append(incoming(0, 5, crc32=2))


async def test_a_new_epoch_fences_the_old_stream_and_drops_its_rows(rig: Rig) -> None:
    table = await rig.create()
    old = await rig.open(interval_s=60)
    await send(old, 5)
    new = await rig.open()
    assert (new.epoch, new.opened.next_offset) == (2, 0)
    with pytest.raises(errors.WriterFenced):
        await send(old, 5, start=5)
    await send(new, 3)
    await new.finish()
    assert ids(table) == [0, 1, 2]
    with pytest.raises(errors.WriterFenced):
        await rig.open(epoch=1)


async def test_the_newer_of_two_streams_of_one_epoch_wins(rig: Rig) -> None:
    await rig.create()
    older = await rig.open()
    version = (await rig.opened.table(NAME)).head
    await rig.open(epoch=1)
    assert (await rig.opened.table(NAME)).head == version, "an equal epoch costs no commit"
    with pytest.raises(errors.WriterSuperseded):
        await older.next_event(1)


async def test_a_higher_epoch_needs_its_lease(rig: Rig) -> None:
    await rig.create()
    with pytest.raises(errors.WriterFenced):
        await rig.open(epoch=7)
    held = await rig.leases.acquire("sources/orders", holder="a", ttl_ms=5000, request=rig.request())
    stream = await rig.open(epoch=held.epoch, lease="sources/orders")
    await send(stream, 2)
    await stream.settle()
    later = await rig.leases.acquire("sources/orders", holder="a", ttl_ms=5000, request=rig.request())
    assert later.epoch > stream.epoch
    await send(stream, 2, start=2)
    with pytest.raises(errors.LeaseLost):
        await stream.settle()
    table = await rig.opened.table(NAME)
    assert ids(table) == [0, 1], "the lease is checked in each commit"
    with pytest.raises(errors.LeaseLost):
        await rig.open(epoch=held.epoch, lease="sources/orders")


async def test_the_next_lease_starts_above_its_writers_epochs(rig: Rig) -> None:
    await rig.create()
    for _ in range(3):
        await rig.open()
    held = await rig.leases.acquire("sources/orders", holder="a", ttl_ms=5000, request=rig.request())
    with pytest.raises(errors.WriterFenced):
        await rig.open(epoch=held.epoch, lease="sources/orders")  # 1, the writer is at 3


async def test_a_writer_belongs_to_who_came_first(rig: Rig) -> None:
    await rig.create()
    await rig.open(principal="ada")
    with pytest.raises(errors.NotAllowed):
        await rig.open(principal="bob")


async def test_positions_move_with_rows_and_alone(rig: Rig) -> None:
    table = await rig.create()
    stream = await rig.open()
    await stream.append(incoming(0, 3, positions={"f": "120"}))
    await stream.settle()
    await stream.append(incoming(3, 0, positions={"f": "150"}, event_time_high_us=9_000_000))
    await stream.settle()
    state = table.versions.head.writers["w"]
    assert (state.next_offset, state.positions, state.event_time_high_us) == (3, {"f": "150"}, 9_000_000)
    table = await rig.restart()
    assert table.versions.head.writers["w"] == state


async def test_event_time_high_is_taken_from_the_rows(rig: Rig) -> None:
    table = await rig.create()
    stream = await rig.open()
    await send(stream, 8)
    await stream.settle()
    assert table.versions.head.event_time_high_us == 7_000_000


async def test_many_writers_share_a_commit(rig: Rig) -> None:
    table = await rig.create()
    streams = [await rig.open(f"w{number}") for number in range(5)]
    before = table.head
    for number, stream in enumerate(streams):
        await stream.append(incoming(0, 4, crc32=number))
    await asyncio.gather(*(stream.finish() for stream in streams))
    assert table.head == before + 1
    assert table.versions.head.row_count == 20


async def test_credits_used_up_commit_at_once(rig: Rig) -> None:
    table = await rig.create()
    stream = await rig.open(interval_s=60)
    async with asyncio.timeout(20):
        await send(stream, *[1] * (MAX_UNACKED_BATCHES * 2 + 1))
    assert table.versions.head.row_count >= MAX_UNACKED_BATCHES


async def test_a_bad_row_fails_the_stream_after_what_came_before_it(rig: Rig) -> None:
    table = await rig.create(define(SCHEMA, rules={"price": ColumnRule(minimum=0.0)}))
    stream = await rig.open()
    await send(stream, 5)
    bad = rows(3, 5).set_column(2, "price", pa.array([1.0, -1.0, float("nan")]))
    with pytest.raises(errors.RowInvalid) as refused:
        await stream.append(incoming(5, 3).__class__(offset=5, rows=bad, crc32=0, size=100))
    assert refused.value.metadata["next_offset"] == "5"
    assert [what for what, _ in refused.value.violations] == ["batch.rows[1].price", "batch.rows[2].price"]
    assert ids(table) == [0, 1, 2, 3, 4]


async def test_bad_rows_become_dead_letters(rig: Rig) -> None:
    table = await rig.create(define(SCHEMA, rules={"status": ColumnRule(allowed=("open", "done"))}))
    stream = await rig.open(keep_bad=True)
    batch = rows(3).set_column(3, "status", pa.array(["open", "lost", None]))
    letters = (ClientDeadLetter(place=1, reason="UNPARSEABLE", field="", raw=b"x,y"),)
    await stream.append(
        incoming(0, 3).__class__(offset=0, rows=batch, crc32=0, size=9, dead=letters, positions={"f": "9"})
    )
    await stream.finish()
    ack = await stream.next_event(1)
    assert ack is not None
    assert (ack.next_offset, ack.rows_written, ack.rows_dead) == (4, 2, 2)
    assert [(row.index, row.reason) for row in ack.sample] == [(1, "ENUM")]
    table = await rig.restart()
    view = await rig.opened.view(NAME + "$dead_letters")
    kept = read(table, await view.snapshot()).to_pylist()
    assert [(row["offset"], row["reason"], row["field"]) for row in kept] == [
        (1, "UNPARSEABLE", None),
        (2, "ENUM", "status"),
    ]
    assert kept[0]["raw"] == b"x,y"
    assert kept[0]["position"] == '{"f": "9"}'
    assert ids(table) == [0, 2]


@pytest.mark.parametrize(
    "batch",
    [
        pa.RecordBatch.from_pydict({"id": [1], "more": [2]}),
        pa.RecordBatch.from_pydict({"price": [1.0]}),
        pa.RecordBatch.from_pydict({"id": ["7"]}),
        pa.RecordBatch.from_pydict({"id": [1], "_ingested_at": [2]}),
        pa.RecordBatch.from_pydict({"id": [1.5]}),
    ],
    ids=["extra", "missing", "text", "own", "float"],
)
async def test_columns_that_do_not_fit_are_refused(rig: Rig, batch: pa.RecordBatch) -> None:
    table = await rig.create()
    stream = await rig.open()
    with pytest.raises(errors.SchemaMismatch):
        await stream.append(incoming(0, 1).__class__(offset=0, rows=batch, crc32=0, size=9))
    assert table.versions.head.row_count == 0


async def test_without_finish_the_rest_is_dropped(rig: Rig) -> None:
    table = await rig.create()
    stream = await rig.open(interval_s=60)
    await send(stream, 5)
    stream.close()
    again = await rig.open(epoch=1)
    assert again.opened.next_offset == 0
    assert table.versions.head.row_count == 0


async def test_validate_only_keeps_nothing(rig: Rig) -> None:
    table = await rig.create()
    before = table.head
    stream = await rig.open(validate_only=True)
    await send(stream, 5, 6)
    await stream.finish()
    assert sum(ack.rows_written for ack in await acks(stream)) == 11
    assert (table.head, table.versions.head.row_count) == (before, 0)


async def test_draining_commits_what_waits(rig: Rig) -> None:
    table = await rig.create()
    stream = await rig.open(interval_s=60)
    await send(stream, 5)
    await rig.opened.close()
    ack = await stream.next_event(1)
    assert ack is not None
    assert ack.next_offset == 5
    with pytest.raises(errors.StreamDraining):
        await stream.next_event(1)
    assert table.versions.head.row_count == 5


async def test_watchers_hear_of_a_version(rig: Rig) -> None:
    table = await rig.create()
    waiting = asyncio.create_task(table.wait_beyond(table.head + 1))
    stream = await rig.open()
    await send(stream, 5)
    await stream.settle()
    assert await asyncio.wait_for(waiting, 5) == table.head


async def test_a_table_can_be_deleted_under_a_stream(rig: Rig) -> None:
    table = await rig.create()
    stream = await rig.open()
    waiting = asyncio.create_task(table.wait_beyond(table.head))
    await asyncio.sleep(0)
    await rig.tables.delete(NAME, etag="", request=rig.request())
    with pytest.raises(errors.TableNotFound):
        await stream.next_event(1)
    with pytest.raises(errors.TableNotFound):
        await waiting
    with pytest.raises(errors.TableNotFound):
        await rig.opened.table(NAME)


async def test_a_request_is_answered_once(rig: Rig) -> None:
    request = RequestMark("one", "tester", "f")
    first = await rig.tables.create(NAME, define(SCHEMA), request)
    again = await rig.tables.create(NAME, define(SCHEMA), request)
    assert first.row == again.row
    with pytest.raises(errors.RequestIdReused):
        await rig.tables.create(NAME, define(SCHEMA), RequestMark("one", "tester", "g"))
    with pytest.raises(errors.ResourceExists):
        await rig.tables.create(NAME, define(SCHEMA), RequestMark("two", "tester", "f"))


async def test_an_update_rules_the_next_batch(rig: Rig) -> None:
    await rig.create()
    state = await rig.tables.get(NAME)
    changed = define(SCHEMA, rules={"id": ColumnRule(maximum=3)}, description="few")
    with pytest.raises(errors.EtagMismatch):
        await rig.tables.update(NAME, changed, schema=None, etag="old", request=rig.request())
    updated = await rig.tables.update(NAME, changed, schema=None, etag=state.row.etag, request=rig.request())
    assert updated.row.etag != state.row.etag
    stream = await rig.open()
    with pytest.raises(errors.RowInvalid):
        await send(stream, 5)


async def test_what_is_used_is_not_deleted(rig: Rig) -> None:
    await rig.create()
    rig.dependents.users.append("namespaces/default/transforms/hourly")
    with pytest.raises(errors.TableHasDependents):
        await rig.tables.delete(NAME, etag="", request=rig.request())
