"""Two replicas over one store: what one commits the other serves, and whoever dies, each row is stored once."""

from __future__ import annotations

import asyncio
import time

import pytest

from millrace import errors
from svc_storage.adapters.delta import log as delta_log
from svc_storage.domain.writing import compaction, landing
from svc_storage.domain.writing.appending import AppendStream
from svc_storage.ports import Commit, CommitKind, RequestMark, Version
from tests.contract.storage.backends import NAME, ids, incoming
from tests.integration.fleet.replicas import Place, Replica, two

pytestmark = pytest.mark.timeout(600)  # a server may have to be started first


async def send(stream: AppendStream, start: int, *counts: int) -> int:
    for count in counts:
        await stream.append(incoming(start, count))
        start += count
    await stream.settle()
    return start


async def test_what_one_acknowledged_the_other_serves_at_once(place: Place) -> None:
    async with two(place) as (a, b):
        stream = await a.open()
        for start in range(0, 30, 10):
            await send(stream, start, 10)
            there = await b.table()
            await there.refresh()
            assert ids(there) == list(range(start + 10))


async def test_a_commit_goes_to_the_holder(place: Place) -> None:
    async with two(place) as (a, b):
        first, second = await a.open("a"), await b.open("b")
        await send(first, 0, 5)
        await send(second, 0, 5, 5)
        uid = (await a.table()).row.uid
        assert a.leadership.leads(uid)
        assert not b.leadership.leads(uid)
        assert place.network.sent >= 2  # the fence and the rows
        assert ids(await b.table()) == sorted([*range(5), *range(10)])


async def test_a_lost_answer_lands_once(place: Place) -> None:
    async with two(place) as (a, b):
        await send(await a.open("a"), 0, 1)
        stream = await b.open("b")
        place.network.lose_answers = 2
        end = await send(stream, 0, 5)
        await send(stream, end, 5)
        table = await b.table()
        assert ids(table) == sorted([0, *range(10)])
        assert [found.commit.kind for found in table.commits_in(0, table.head)].count(CommitKind.APPEND) == 3


async def test_both_write_side_by_side_and_nothing_is_lost_or_doubled(place: Place) -> None:
    async with two(place) as (a, b):

        async def write(at: Replica, writer: str) -> None:
            stream = await at.open(writer, interval_s=0.1)
            offset = 0
            for _ in range(20):
                offset = await send(stream, offset, 3)

        await asyncio.gather(*(write(at, f"{at.name}{number}") for at in (a, b) for number in range(3)))
        for at in (a, b):
            table = await at.table()
            await table.refresh()
            assert ids(table) == sorted(list(range(60)) * 6)


async def test_hand_over_after_a_death_takes_less_than_eight_seconds(place: Place) -> None:
    async with two(place) as (a, b):
        await send(await a.open("a"), 0, 5)
        stream = await b.open("b")
        offset = await send(stream, 0, 5)
        a.die()
        began = time.monotonic()
        await send(stream, offset, 5)
        took = time.monotonic() - began
        assert b.leadership.leads((await b.table()).row.uid)
        assert ids(await b.table()) == sorted([*range(5), *range(10)])
        assert took < 8.0


async def test_a_holder_that_is_stopped_is_left_when_its_lease_runs_out(place: Place) -> None:
    async with two(place) as (a, b):
        await send(await a.open("a"), 0, 5)
        stream = await b.open("b")
        offset = await send(stream, 0, 5)
        place.network.hung.add("a")  # its connections stand, it answers nothing and renews nothing
        assert a._renewing is not None
        a._renewing.cancel()
        began = time.monotonic()
        await send(stream, offset, 5)
        assert time.monotonic() - began < 8.0


async def test_a_drained_holder_hands_over_at_once(place: Place) -> None:
    async with two(place) as (a, b):
        await send(await a.open("a"), 0, 5)
        stream = await b.open("b")
        offset = await send(stream, 0, 5)
        await a.close()
        place.network.cut.add("a")
        began = time.monotonic()
        await send(stream, offset, 5)
        assert time.monotonic() - began < 2.0


async def test_a_holder_that_is_not_reached_is_passed_by(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "UNREACHED_S", 0.5)
    async with two(place) as (a, b):
        await send(await a.open("a"), 0, 5)
        place.network.cut.add("a")  # it lives and renews
        stream = await b.open("b")
        await send(stream, 0, 5)
        first = await a.open("c")
        await send(first, 0, 5)
        place.network.cut.clear()
        for at in (a, b):
            table = await at.table()
            await table.refresh()
            assert ids(table) == sorted([*range(5)] * 3)


async def test_a_zombie_holder_is_refused_and_decides_anew(place: Place) -> None:
    async with two(place) as (a, b):
        stream = await a.open("a")
        offset = await send(stream, 0, 5)
        table = await a.table()
        real, asleep, awake = table.committer.landing.log, asyncio.Event(), asyncio.Event()

        class Sleeps:
            """Stopped between its decision and its append, and woken after others committed."""

            def __getattr__(self, name: str) -> object:
                return getattr(real, name)

            async def append(self, commit: Commit, *, after: Version) -> Version:
                asleep.set()
                await awake.wait()
                return await real.append(commit, after=after)

        table.committer.landing.log = Sleeps()  # type: ignore[assignment]
        assert a._renewing is not None
        a._renewing.cancel()
        place.network.cut.add("a")
        await stream.append(incoming(offset, 5))
        stream.flush()
        await asleep.wait()
        other = await b.open("b")  # waits for the lease, then leads
        await send(other, 0, 5)
        fenced = await b.open("a")
        awake.set()
        with pytest.raises(errors.WriterFenced):
            await stream.settle()
        await send(fenced, 5, 5)
        place.network.cut.clear()
        there = await b.table()
        await there.refresh()
        assert ids(there) == sorted([*range(10), *range(5)])


async def test_a_stream_that_moved_to_another_replica_goes_on(place: Place) -> None:
    """The client was cut from A and opened the same epoch on B, while A had still something of it waiting."""
    async with two(place) as (a, b):
        stream = await a.open(interval_s=60)
        offset = await send(stream, 0, 5)
        await stream.append(incoming(offset, 5))  # waits in A
        again = await b.open(epoch=stream.epoch)
        assert again.opened.next_offset == 5
        await stream.settle()  # A commits it after all
        await again.append(incoming(5, 5))
        with pytest.raises(errors.OffsetOverlap) as overlap:
            await again.settle()
        assert overlap.value.metadata["next_offset"] == "10"
        third = await b.open(epoch=stream.epoch)
        assert third.opened.next_offset == 10
        await send(third, 10, 5)
        assert ids(await b.table()) == list(range(15))


async def test_one_that_slept_longer_than_the_log_is_kept_starts_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_log, "LOOK_FOR_GAPS_S", 0.0)  # an hour's sleep is longer
    async with two(place) as (a, b):
        sleeper = await b.table()
        stream = await a.open()
        offset = 0
        table = await a.table()
        while table.oldest <= sleeper.head and offset < 500:
            offset = await send(stream, offset, 1)
            await a.upkeep.tend(table)
            place.clock.ahead_us += 1_000
        assert table.oldest > sleeper.head
        await sleeper.refresh()
        assert sleeper.head == table.head
        assert ids(sleeper) == list(range(offset))


async def test_definitions_and_deletions_of_others_rule_open_tables(place: Place) -> None:
    async with two(place) as (a, b):
        there = await b.table()
        state = await a.tables.get(NAME)
        changed = state.definition.__class__(schema=state.definition.schema, description="new")
        await a.tables.update(NAME, changed, schema=None, etag=state.row.etag, request=RequestMark("u", "tester", "u"))
        assert (await b.table()).definition.description == "new"
        waiting = asyncio.create_task(there.wait_beyond(there.head))
        await a.tables.delete(NAME, etag="", request=RequestMark("d", "tester", "d"))
        await b.opened.check_rows()
        with pytest.raises(errors.TableNotFound):
            await waiting


async def test_two_compactors_and_an_appender_keep_the_keys(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FAN_IN", 4)
    async with two(place) as (a, b):

        async def append() -> None:
            stream = await a.open()
            offset = 0
            for _ in range(60):
                offset = await send(stream, offset, 2)

        async def compact(at: Replica) -> None:
            while not appending.done():
                await at.upkeep.compact(await at.table())
                await asyncio.sleep(0)

        appending = asyncio.create_task(append())
        await asyncio.gather(appending, compact(a), compact(b))
        for at in (a, b):
            table = await at.table()
            await table.refresh()
            assert ids(table) == list(range(120))
            assert len(table.versions.head.files) < 30
