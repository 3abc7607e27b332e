"""The exactly-once writer, against a storage that breaks in every way the contract allows."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from google.rpc import code_pb2

from millrace import errors
from millrace.client.append import Appender, AppendOptions, Reread
from millrace.client.channel import Connection, open_channel
from millrace.client.status import Unreachable
from millrace.storage.v1 import frames_pb2
from millrace.types.v1 import types_pb2
from tests.unit.client import scripted
from tests.unit.client.scripted import TABLE, Cutter, Ending, Faults, Storage, numbered, rich, storage_at


@pytest.fixture(autouse=True)
def _quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.client.resume.FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr("millrace.client.resume.LONGEST_PAUSE_S", 0.02)


@asynccontextmanager
async def connected(storage: Storage) -> AsyncIterator[Connection]:
    async with storage_at(storage) as target, open_channel(target) as channel:
        yield Connection(channel)


def options(**changes: object) -> AppendOptions:
    return AppendOptions(**{"table": TABLE, "writer_id": "w", "tries": 1000, **changes})  # type: ignore[arg-type]


async def push(writer: Appender, start: int) -> None:
    """Rows, committed one by one until something ends it."""
    for _ in range(100):
        await writer.append(numbered(start, 1))
        await writer.flush()


def numbers(storage: Storage) -> list[int]:
    return [int(n) for n in storage.table().column("n").to_pylist()]


async def test_rows_arrive_in_order_with_positions_and_dead_letters() -> None:
    storage, seen = Storage(), []
    async with connected(storage) as connection:
        async with Appender(connection, options(dead_letter=True), on_commit=seen.append) as writer:
            assert writer.opened.epoch == 1
            assert writer.opened.schema.equals(scripted.SCHEMA)
            await writer.append(numbered(0, 5))
            letter = frames_pb2.DeadLetter(row_index=2, reason="UNPARSEABLE", raw=b"bad")
            end = await writer.append(
                numbered(5, 5), position=types_pb2.Position(positions={"f": "100"}), dead_letters=[letter]
            )
            assert end == 11
            await writer.flush()
            assert writer.acked_offset == 11
            await writer.append(numbered(0, 0), position=types_pb2.Position(positions={"f": "200"}))
        totals = writer.totals
    assert numbers(storage) == list(range(10))
    assert storage.dead == [b"bad"]
    assert storage.writers["w"].position == types_pb2.Position(positions={"f": "200"})
    assert totals.rows_written == 10
    assert [commit.next_offset for commit in seen] == [11, 11]


@pytest.mark.parametrize("seed", range(30))
async def test_nothing_is_lost_or_doubled_whatever_breaks(seed: int) -> None:
    storage = Storage(Faults(seed, rate=0.12), every=random.Random(seed).randint(1, 6))
    async with connected(storage) as connection, Appender(connection, options()) as writer:
        at = 0
        for size in random.Random(seed).choices(range(1, 20), k=60):
            await writer.append(numbered(at, size), position=types_pb2.Position(positions={"n": str(at + size)}))
            at += size
            if size == 7:
                await writer.flush()
    assert numbers(storage) == list(range(at))
    assert storage.writers["w"].position == types_pb2.Position(positions={"n": str(at)})
    assert len(storage.faults.kinds) >= 3, storage.faults.kinds


@pytest.mark.parametrize("seed", range(5))
async def test_nothing_is_lost_or_doubled_when_connections_are_cut(seed: int) -> None:
    storage, dice = Storage(Faults(seed, rate=0.02)), random.Random(seed)
    async with (
        storage_at(storage) as target,
        Cutter(int(target.rpartition(":")[2])) as cutter,
        open_channel(f"127.0.0.1:{cutter.port}") as channel,
        Appender(Connection(channel), options()) as writer,
    ):
        for at in range(0, 4000, 100):
            await writer.append(numbered(at, 100, width=2000))
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() * 0.02)
                await cutter.cut_through()
    assert numbers(storage) == list(range(4000))
    assert cutter.cuts >= 5


async def test_an_own_stream_that_arrives_late_does_not_end_the_writer() -> None:
    class Late(Storage):
        """The open of a cut stream is served after that of the stream which replaced it."""

        said = 0

        def _judge(self, writer: object, pending: object, batch: object) -> bool:
            if len(self.opens) == 2 and self.said < 1:
                self.said += 1
                raise Ending(status=rich(code_pb2.ABORTED, "WRITER_SUPERSEDED"))
            return super()._judge(writer, pending, batch)  # type: ignore[arg-type]

    storage = Late()
    async with (
        storage_at(storage) as target,
        Cutter(int(target.rpartition(":")[2])) as cutter,
        open_channel(f"127.0.0.1:{cutter.port}") as channel,
        Appender(Connection(channel), options()) as writer,
    ):
        await cutter.cut_through()
        for at in range(0, 100, 10):
            await writer.append(numbered(at, 10))
        await writer.finish()
    assert storage.said == 1
    assert numbers(storage) == list(range(100))


async def test_a_writer_that_never_broke_stops_when_superseded() -> None:
    storage = Storage()
    async with connected(storage) as connection:
        writer = Appender(connection, options())
        await writer.open()
        storage.live["w"] = object()
        with pytest.raises(errors.WriterSuperseded):
            await push(writer, 0)
        await writer.aclose()


async def test_a_silent_storage_is_left_after_the_ack_timeout() -> None:
    storage = Storage(Faults(3, silent_rate=0.3), ack_timeout_s=0.2)
    async with connected(storage) as connection, Appender(connection, options()) as writer:
        for at in range(0, 200, 10):
            await writer.append(numbered(at, 10))
    assert numbers(storage) == list(range(200))
    assert storage.faults.kinds["silent"] >= 2


async def test_memory_is_bounded_while_storage_does_not_acknowledge() -> None:
    storage = Storage(every=10**9, ack_timeout_s=30, credit_batches=4)
    async with connected(storage) as connection:
        writer = Appender(connection, options(max_held_bytes=1_000_000))
        await writer.open()
        taken = 0

        async def push() -> None:
            nonlocal taken
            for at in range(100):
                await writer.append(numbered(at, 1, width=100_000))
                taken += 1

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(push(), 0.5)
        assert taken == 9
        assert storage.most_unacked <= 4
        await writer.aclose()


async def test_large_batches_are_cut_to_messages() -> None:
    storage = Storage()
    async with connected(storage) as connection, Appender(connection, options()) as writer:
        await writer.append(numbered(0, 50_000, width=200))
    assert numbers(storage) == list(range(50_000))
    assert len(storage.rows) >= 8


async def test_a_batch_with_a_position_is_never_cut() -> None:
    async with connected(Storage()) as connection, Appender(connection, options()) as writer:
        with pytest.raises(errors.RowTooLarge):
            await writer.append(numbered(0, 50_000, width=200), position=types_pb2.Position())
        await writer.append(numbered(0, 10))


async def test_a_newer_process_fences_the_older_one_which_stops() -> None:
    storage = Storage(every=1)
    async with connected(storage) as connection:
        old = Appender(connection, options())
        await old.open()
        await old.append(numbered(0, 5))
        await old.wait_acked(5)
        async with Appender(connection, options()) as new:
            assert new.opened.epoch == 2
            assert new.opened.next_offset == 5
            with pytest.raises(errors.WriterFenced):
                await push(old, 100)
            await new.append(numbered(5, 5))
        await old.aclose()
    assert [opening.epoch for opening in storage.opens] == [0, 0]
    assert numbers(storage) == list(range(10))


async def test_it_opens_again_under_its_own_epoch_never_a_new_one() -> None:
    storage = Storage(Faults(7, rate=0.1))
    async with connected(storage) as connection, Appender(connection, options()) as writer:
        for at in range(0, 300, 10):
            await writer.append(numbered(at, 10))
        epoch = writer.opened.epoch
    first = next(at for at, opening in enumerate(storage.opens) if opening.epoch)
    assert {opening.epoch for opening in storage.opens[first:]} == {epoch}
    assert {opening.table_uid for opening in storage.opens[first:]} == {"u1"}


async def test_what_is_no_longer_held_is_asked_from_the_source() -> None:
    storage = Storage(every=1)
    async with connected(storage) as connection:
        writer = Appender(connection, options())
        await writer.open()
        await writer.append(numbered(0, 5), position=types_pb2.Position(positions={"n": "5"}))
        await writer.wait_acked(5)
        state = storage.writers["w"]
        state.next_offset, state.position = 3, types_pb2.Position(positions={"n": "3"})
        with pytest.raises(Reread) as wanted:
            await push(writer, 5)
        await writer.aclose()
    assert wanted.value.next_offset == 3
    assert wanted.value.position == types_pb2.Position(positions={"n": "3"})


async def test_a_writer_whose_bytes_differ_has_to_reread() -> None:
    class Picky(Storage):
        def _judge(self, writer: object, pending: object, batch: object) -> bool:
            raise Ending(status=rich(code_pb2.ABORTED, "OFFSET_CONTENT_MISMATCH"))

    async with connected(Picky()) as connection:
        writer = Appender(connection, options())
        await writer.open()
        with pytest.raises(Reread):
            await push(writer, 0)
        await writer.aclose()


async def test_a_refused_row_surfaces_with_its_offset() -> None:
    class Strict(Storage):
        def _judge(self, writer: object, pending: object, batch: object) -> bool:
            raise Ending(status=rich(code_pb2.INVALID_ARGUMENT, "ROW_INVALID", next_offset="0"))

    async with connected(Strict()) as connection:
        with pytest.raises(errors.RowInvalid) as refused:
            async with Appender(connection, options()) as writer:
                await writer.append(numbered(0, 1))
    assert refused.value.metadata["next_offset"] == "0"


async def test_leaving_by_an_exception_commits_nothing_more() -> None:
    storage = Storage(every=100)
    async with connected(storage) as connection:
        writer = Appender(connection, options())

        async def fail() -> None:
            async with writer:
                await writer.append(numbered(0, 5))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        with pytest.raises(RuntimeError, match="closed"):
            await writer.append(numbered(0, 5))
    assert numbers(storage) == []


async def test_an_unreachable_storage_is_given_up_after_the_tries() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(Unreachable) as gone:
            await Appender(Connection(channel), options(tries=4)).open()
    assert gone.value.metadata["grpc_code"] == "UNAVAILABLE"


async def test_cancelling_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    async with connected(Storage(Faults(1, silent_rate=1.0), every=1, ack_timeout_s=30)) as connection:

        async def stuck() -> None:
            async with Appender(connection, options()) as writer:
                await writer.append(numbered(0, 5))
                await writer.flush()

        task = asyncio.create_task(stuck())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        left = [one for one in asyncio.all_tasks() - before if one.get_name().startswith(("append", "send"))]
        assert left == []
    gc.collect()


async def test_a_forwarded_token_goes_with_every_open() -> None:
    storage = Storage(Faults(5, rate=0.1))
    async with connected(storage) as connection, Appender(connection.acting_as("callers"), options()) as writer:
        for at in range(0, 100, 10):
            await writer.append(numbered(at, 10))
    assert set(storage.tokens) == {"Bearer callers"}
    assert len(storage.tokens) > 1
