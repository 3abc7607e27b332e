"""What a failure means: who stops, who waits, who tries again, and that no row is doubled by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from millrace.errors import (
    CommitConflict,
    MillraceError,
    OffsetGap,
    RowInvalid,
    SourceUnavailable,
    StoreUnavailable,
    WriterFenced,
)
from svc_extract.domain import loop, reporting
from svc_extract.ports import RunState, Warned, WorkState
from tests.unit.extract.conftest import SOURCE, World, files, finished

HEADER = "id,name,price\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PACES", ((Exception, loop.Pace(0.01, 0.02)),) * 5)
    monkeypatch.setattr(reporting, "EVERY_S", 0.05)


def failing(times: int, error: Callable[[], BaseException]) -> Callable[[], None]:
    left = [times]

    def fail() -> None:
        if left[0]:
            left[0] -= 1
            raise error()

    return fail


def ids(world: World) -> list[object]:
    return [row["id"] for row in world.table.rows()]


@pytest.mark.parametrize("error", [OffsetGap("x"), StoreUnavailable("x"), CommitConflict("x")])
async def test_what_passes_by_itself_is_tried_again(world: World, error: MillraceError) -> None:
    (world.folder / "a.csv").write_text(HEADER + "1,a,1\n2,b,2\n")
    await world.put(files(world.folder, "*.csv"))
    world.tables.fail_append = failing(7, lambda: error)
    async with world.working():
        events = await world.run("r1")
    assert finished(events).state is RunState.SUCCEEDED
    assert ids(world) == [1, 2]
    assert {event.what.reason for event in events if isinstance(event.what, Warned)} == {error.reason}


async def test_a_bug_fails_a_run_and_says_so_without_details(world: World) -> None:
    (world.folder / "a.csv").write_text(HEADER + "1,a,1\n")
    await world.put(files(world.folder, "*.csv"))
    world.tables.fail_append = failing(1, lambda: KeyError("secret row value"))
    async with world.working():
        done = finished(await world.run("r1"))
        again = finished(await world.run("r2"))
    assert (done.state, done.error and done.error.reason) == (RunState.FAILED, "UNEXPECTED")
    assert "secret" not in str(done.error)
    assert again.state is RunState.SUCCEEDED


async def test_what_a_person_must_mend_pauses_a_continuous_source_until_its_spec_changes(world: World) -> None:
    (world.folder / "a.csv").write_text(HEADER + "1,a,1\n")
    spec = files(world.folder, "*.csv", continuous=True)
    await world.put(spec)
    world.tables.fail_append = failing(1, lambda: RowInvalid("a row is bad"))
    async with world.working():
        source = await world.state(WorkState.PAUSED)
        assert source.status.cause == "ROW_INVALID: a row is bad"
        assert ids(world) == []
        await world.put(spec)
        await world.until(lambda: ids(world) == [1])


async def test_an_outage_is_waited_out_with_its_reason_shown(world: World) -> None:
    (world.folder / "a.csv").write_text(HEADER + "1,a,1\n")
    await world.put(files(world.folder, "*.csv", continuous=True))
    world.tables.fail_append = failing(1_000_000, lambda: SourceUnavailable("down"))
    async with world.working():
        source = await world.state(WorkState.BACKING_OFF)
        assert source.status.cause == "SOURCE_UNAVAILABLE: down"
        assert source.status.next_attempt_us
        world.tables.fail_append = failing(0, Exception)
        await world.until(lambda: ids(world) == [1])
        await world.state(WorkState.IDLE)


async def test_who_lost_its_lease_stops_at_once_and_the_new_holder_goes_on(world: World) -> None:
    path = world.folder / "a.csv"
    path.write_text(HEADER + "1,a,1\n")
    await world.put(files(world.folder, "*.csv", continuous=True))
    async with world.working():
        await world.until(lambda: ids(world) == [1])
        other = world.leases.take("sources/default/orders", tell=False)
        with path.open("a") as file:
            file.write("2,b,2\n")
        await asyncio.sleep(0.3)
        assert ids(world) == [1], "storage refuses the old epoch"
        world.leases.release(other)
        await world.until(lambda: ids(world) == [1, 2])
        await world.until(lambda: world.status().epoch > other.epoch)


async def test_a_fenced_writer_is_silent(world: World) -> None:
    (world.folder / "a.csv").write_text(HEADER + "1,a,1\n")
    await world.put(files(world.folder, "*.csv", continuous=True))
    world.tables.fail_append = failing(1, lambda: WriterFenced("another writer took over"))
    async with world.working():
        await world.until(lambda: ids(world) == [1])
        await world.until(lambda: world.status().progress.rows_written == 1)
    assert world.status().cause == ""


async def test_two_workers_share_sources_by_lease(world: World) -> None:
    path = world.folder / "a.csv"
    path.write_text(HEADER)
    await world.put(files(world.folder, "*.csv", continuous=True))
    async with world.working(), world.working():
        for number in range(30):
            with path.open("a") as file:
                file.write(f"{number},n,1\n")
            await asyncio.sleep(0.01)
        await world.until(lambda: len(ids(world)) == 30)
    assert ids(world) == list(range(30))


async def test_a_run_that_a_dead_worker_left_is_taken_up(world: World) -> None:
    (world.folder / "a.csv").write_text(HEADER + "1,a,1\n")
    await world.put(files(world.folder, "*.csv"))
    from svc_extract.domain.runs import RunWish

    run = await world.runs.start(RunWish(source=SOURCE, request_id="r1"))
    assert run.state is RunState.PENDING
    async with world.working():
        done = finished(await world.run("r1"))
    assert (done.state, ids(world)) == (RunState.SUCCEEDED, [1])
