from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millrace.errors import FieldInvalid, LeaseHeld, LeaseLost
from svc_storage.domain.control.leases import Leases
from svc_storage.ports import ControlStore, LeaseRow, RequestMark
from tests.contract.storage.control_stores import CHOSEN, CONTROL_STORES, HandClock

ids = itertools.count()


@pytest.fixture(params=CHOSEN)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ControlStore]:
    store = await CONTROL_STORES[request.param](tmp_path)
    yield store
    await store.close()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def leases(store: ControlStore, clock: HandClock) -> Leases:
    return Leases(store, clock)


async def take(leases: Leases, holder: str, *, request_id: str = "", ttl_ms: int = 10_000) -> LeaseRow:
    mark = RequestMark(request_id or f"r{next(ids)}", holder, "f")
    return await leases.acquire("sources/a", holder=holder, ttl_ms=ttl_ms, request=mark)


async def test_the_epoch_rises_with_every_acquisition(leases: Leases) -> None:
    assert (await take(leases, "a")).epoch == 1
    assert (await take(leases, "a")).epoch == 2  # a second start of the same holder fences the first
    await leases.release("sources/a", 2)
    assert (await take(leases, "b")).epoch == 3


async def test_a_held_lease_is_refused_with_the_time_it_may_take(leases: Leases, clock: HandClock) -> None:
    await take(leases, "a")
    clock.forward(4)
    with pytest.raises(LeaseHeld) as held:
        await take(leases, "b")
    assert held.value.retry_after_ms == 6_000


async def test_a_lease_nobody_renews_can_be_taken(leases: Leases, clock: HandClock) -> None:
    first = await take(leases, "a")
    clock.forward(9)
    await leases.renew("sources/a", first.epoch)
    clock.forward(9)
    with pytest.raises(LeaseHeld):
        await take(leases, "b")
    clock.forward(1)
    second = await take(leases, "b")
    assert second.epoch == 2
    with pytest.raises(LeaseLost):
        await leases.renew("sources/a", first.epoch)
    await leases.release("sources/a", first.epoch)  # long gone: nothing happens
    assert (await leases.renew("sources/a", second.epoch)).holder == "b"


async def test_a_lease_that_ran_out_and_was_not_taken_can_be_renewed(leases: Leases, clock: HandClock) -> None:
    first = await take(leases, "a")
    clock.forward(100)
    await leases.renew("sources/a", first.epoch)
    with pytest.raises(LeaseHeld):
        await take(leases, "b")


async def test_a_repeated_acquisition_gets_the_same_epoch_while_it_is_current(leases: Leases, clock: HandClock) -> None:
    first = await take(leases, "a", request_id="once")
    assert (await take(leases, "a", request_id="once")).epoch == first.epoch
    clock.forward(11)
    await take(leases, "b")
    with pytest.raises(LeaseHeld):
        await take(leases, "a", request_id="once")


async def test_after_a_restart_a_lease_has_its_ttl_again(leases: Leases, store: ControlStore, clock: HandClock) -> None:
    await take(leases, "a")
    restarted = Leases(store, clock)
    clock.forward(100)
    await restarted.start()
    with pytest.raises(LeaseHeld):
        await take(restarted, "b")
    clock.forward(10)
    assert (await take(restarted, "b")).epoch == 2


async def test_the_next_epoch_starts_above_the_highest_writer_bound_to_it(leases: Leases) -> None:
    await leases.raise_floor("sources/a", 41)
    await leases.raise_floor("sources/a", 17)
    assert await leases.current_epoch("sources/a") == 0
    assert (await take(leases, "a")).epoch == 42
    assert await leases.current_epoch("sources/a") == 42


async def test_released_is_free_and_its_epoch_survives(leases: Leases) -> None:
    first = await take(leases, "a")
    await leases.release("sources/a", first.epoch)
    with pytest.raises(LeaseLost):
        await leases.renew("sources/a", first.epoch)
    assert await leases.current_epoch("sources/a") == first.epoch


@pytest.mark.parametrize("ttl_ms", [0, 4_999, 60_001])
async def test_a_ttl_outside_its_bounds_is_refused(leases: Leases, ttl_ms: int) -> None:
    with pytest.raises(FieldInvalid):
        await take(leases, "a", ttl_ms=ttl_ms)
