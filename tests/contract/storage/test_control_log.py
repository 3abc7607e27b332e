"""Several replicas on one log: one order for all, nothing lost, nothing twice, whoever dies, lags or hears no answer."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from millrace.errors import (
    ChecksumMismatch,
    EtagMismatch,
    LeaseHeld,
    LeaseLost,
    OutcomeUnknown,
    RequestIdReused,
    StoreUnavailable,
)
from svc_storage.adapters.control_log import replica as replica_module
from svc_storage.adapters.control_log.codec import decode_snapshot, encode_snapshot
from svc_storage.adapters.control_log.entries import Entries, MemoryEntries
from svc_storage.adapters.control_log.keeping import KeepingPolicy
from svc_storage.adapters.control_log.store import LogControl
from svc_storage.domain.control.changes import ResourceChange, RevisionBookmark, follow
from svc_storage.domain.control.leases import Leases
from svc_storage.domain.control.resource_names import Selection
from svc_storage.domain.control.resources import Resources, ResourceWish, StatusUpdate
from svc_storage.ports import Answer, ControlTransaction, LeaseRow, Packed, RequestMark
from tests.contract.storage.control_stores import CHOSEN_LOGS, LOGS, HandClock

NAME = "namespaces/default/sources/orders"
SPEC = Packed("t", b"spec")
Opened = Callable[..., Awaitable[LogControl]]
ids = itertools.count()


def ask(request_id: str = "", fingerprint: str = "f") -> RequestMark:
    return RequestMark(request_id or f"q{next(ids)}", "local", fingerprint)


@pytest.fixture(params=CHOSEN_LOGS)
async def replica(request: pytest.FixtureRequest) -> AsyncIterator[Opened]:
    """Opens one more replica on the test's log."""
    way, opened = LOGS[request.param](), []

    async def open_one() -> LogControl:
        opened.append(await LogControl.open(way()))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def memory() -> AsyncIterator[Callable[[Entries], Awaitable[LogControl]]]:
    opened: list[LogControl] = []

    async def open_one(entries: Entries, **how: object) -> LogControl:
        opened.append(await LogControl.open(entries, **how))  # type: ignore[arg-type]
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


def count(tx: ControlTransaction) -> int:
    row = tx.lease("counter") or LeaseRow("counter")
    tx.put_lease(LeaseRow("counter", row.holder, row.epoch + 1))
    return row.epoch + 1


async def test_racing_replicas_count_to_the_sum(replica: Opened) -> None:
    stores = [await replica() for _ in range(4)]

    async def push(store: LogControl) -> list[int]:
        return [await store.run(count) for _ in range(25)]

    seen = await asyncio.gather(*(push(store) for store in stores for _ in range(2)))
    assert sorted(itertools.chain(*seen)) == list(range(1, 201))
    for store in stores:
        assert await store.run(lambda tx: tx.lease("counter").epoch) == 200  # type: ignore[union-attr]


async def test_what_one_was_answered_the_others_see_at_once(replica: Opened) -> None:
    a, b = await replica(), await replica()
    for number in range(20):
        writer, reader = (a, b) if number % 2 else (b, a)
        await writer.run(lambda tx, number=number: tx.put_lease(LeaseRow("x", "", number)))  # type: ignore[misc]
        assert (await reader.run(lambda tx: tx.lease("x"))).epoch == number  # type: ignore[union-attr]


async def test_one_of_many_with_the_same_etag_wins(replica: Opened) -> None:
    every = [Resources(await replica(), HandClock()) for _ in range(3)]
    first, _ = await every[0].put(ResourceWish(name=NAME, spec=SPEC), ask())
    wishes = [ResourceWish(name=NAME, spec=Packed("t", bytes([i])), etag=first.etag) for i in range(9)]
    done = await asyncio.gather(
        *(every[i % 3].put(wish, ask()) for i, wish in enumerate(wishes)), return_exceptions=True
    )
    assert [type(one) for one in done if isinstance(one, Exception)] == [EtagMismatch] * 8
    assert {(await one.get(NAME))[0] for one in every} == {one[0] for one in done if isinstance(one, tuple)}


async def test_a_request_is_answered_again_by_another_replica(replica: Opened) -> None:
    a, b = Resources(await replica(), HandClock()), Resources(await replica(), HandClock(ahead_s=-3 * 3600))
    first = await a.put(ResourceWish(name=NAME, spec=SPEC), ask("once"))
    assert await b.put(ResourceWish(name=NAME, spec=SPEC), ask("once")) == first
    with pytest.raises(RequestIdReused):
        await b.put(ResourceWish(name=NAME, spec=SPEC), ask("once", "another"))
    again = await asyncio.gather(*(one.put(ResourceWish(name=f"{NAME}_2", spec=SPEC), ask("both")) for one in (a, b)))
    assert again[0] == again[1]


async def test_a_replica_that_starts_later_has_everything(replica: Opened) -> None:
    a = Resources(await replica(), HandClock())
    for number in range(30):
        await a.put(ResourceWish(name=f"{NAME}_{number}", spec=SPEC), ask())
    await a.delete(f"{NAME}_7", etag="", request=ask())
    b = Resources(await replica(), HandClock())
    assert await a.page(Selection("sources"), after_name="", limit=99) == await b.page(
        Selection("sources"), after_name="", limit=99
    )


async def test_a_large_entry_arrives_whole(replica: Opened) -> None:
    a, b = Resources(await replica(), HandClock()), Resources(await replica(), HandClock())
    spec = Packed("t", random.Random(1).randbytes(1 << 20))
    await a.put(ResourceWish(name=NAME, spec=spec, status=spec), ask())
    found, _ = await b.get(NAME)
    assert (found.spec, found.status) == (spec, spec)


# -- watching
async def test_each_change_elsewhere_is_told_once_in_order(replica: Opened) -> None:
    writers, watcher = [Resources(await replica(), HandClock()) for _ in range(2)], await replica()
    total = 2_000
    news = follow(Resources(watcher, HandClock()), [Selection("runs")], after=0, initial=False, heartbeat_s=15)
    assert isinstance(await anext(news), RevisionBookmark)

    async def write(which: int) -> None:
        for number in range(which, total, 32):
            name = f"namespaces/default/runs/r{number}"
            await writers[which % 2].put(ResourceWish(name=name, spec=SPEC), ask())

    writing = asyncio.gather(*(write(which) for which in range(32)))
    told: list[ResourceChange] = []
    async with asyncio.timeout(60):
        while len(told) < total:
            if isinstance(one := await anext(news), ResourceChange):
                told.append(one)
    await writing
    assert [change.resource.revision for change in told] == list(range(1, total + 1))
    assert len({change.resource.name for change in told}) == total
    await news.aclose()


async def test_a_change_elsewhere_is_told_within_a_second(replica: Opened) -> None:
    a, b = Resources(await replica(), HandClock()), Resources(await replica(), HandClock())
    news = follow(b, [Selection("sources")], after=0, initial=False, heartbeat_s=15)
    assert isinstance(await anext(news), RevisionBookmark)
    waiting = asyncio.ensure_future(anext(news))
    await asyncio.sleep(0.3)  # it waits by now
    await a.put(ResourceWish(name=NAME, spec=SPEC), ask())
    told = await asyncio.wait_for(waiting, 1)
    assert isinstance(told, ResourceChange)
    await news.aclose()


# -- leases
async def acquire(leases: Leases, holder: str, request_id: str = "") -> LeaseRow:
    return await leases.acquire("sources/a", holder=holder, ttl_ms=5_000, request=ask(request_id))


@pytest.mark.parametrize("ahead_s", [0.0, 5 * 3600.0, -5 * 3600.0])
async def test_only_silence_by_the_takers_clock_frees_a_lease(replica: Opened, ahead_s: float) -> None:
    clocks = HandClock(), HandClock(ahead_s=ahead_s)
    a, b = [Leases(await replica(), clock) for clock in clocks]
    clocks[1].seconds += 77_777  # monotonic clocks of two machines have nothing to do with each other
    held = await acquire(a, "a")
    with pytest.raises(LeaseHeld):
        await acquire(b, "b")
    for _ in range(3):
        clocks[1].forward(4)
        await a.renew("sources/a", held.epoch)
        with pytest.raises(LeaseHeld):
            await acquire(b, "b")
    clocks[0].forward(10_000)  # the holder's own clock frees nothing
    with pytest.raises(LeaseHeld):
        await acquire(b, "b")
    clocks[1].forward(5)
    assert (await acquire(b, "b")).epoch == held.epoch + 1
    with pytest.raises(LeaseLost):
        await a.renew("sources/a", held.epoch)
    assert await a.current_epoch("sources/a") == held.epoch + 1


async def test_renewals_that_a_replica_met_count_from_then(replica: Opened) -> None:
    a, clock = Leases(await replica(), HandClock()), HandClock()
    store = await replica()
    b = Leases(store, clock)
    held = await acquire(a, "a")
    await a.renew("sources/a", held.epoch)
    await store.run(lambda tx: None)  # what the tail does; nobody asked for the lease
    clock.forward(5)
    assert (await acquire(b, "b")).epoch == 2


async def test_one_of_many_takes_a_lease(replica: Opened) -> None:
    every = [Leases(await replica(), HandClock()) for _ in range(3)]
    done = await asyncio.gather(*(acquire(one, str(i)) for i, one in enumerate(every)), return_exceptions=True)
    assert [type(one) for one in done if not isinstance(one, LeaseRow)] == [LeaseHeld, LeaseHeld]


async def test_a_status_under_a_lease_that_moved_elsewhere_is_refused(replica: Opened) -> None:
    clock = HandClock()
    stores = [await replica() for _ in range(2)]
    resources, (a, b) = Resources(stores[0], clock), (Leases(store, clock) for store in stores)
    await resources.put(ResourceWish(name=NAME, spec=SPEC), ask())
    held = await acquire(a, "a")
    await b.start()
    clock.forward(5)
    await acquire(b, "b")
    with pytest.raises(LeaseLost):
        await resources.update_status(
            StatusUpdate(name=NAME, status=SPEC, lease="sources/a", lease_epoch=held.epoch), ask()
        )


# -- the log itself, in memory
class LostAnswers(MemoryEntries):
    """Some puts happen and are not answered, some are lost on the way, some happen a while later."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice, self.late = dice, []  # type: ignore[var-annotated]

    async def put_if_absent(self, n: int, data: bytes) -> bytes | None:
        for number, body in self.late:
            self.entries.setdefault(number, body)
        self.late.clear()
        match self.dice.randrange(6):
            case 0:
                await super().put_if_absent(n, data)
                raise OutcomeUnknown("happened")
            case 1:
                raise OutcomeUnknown("did not happen")
            case 2:
                self.late.append((n, data))
                raise OutcomeUnknown("happens later")
            case 3 if self.dice.random() < 0.3:
                raise StoreUnavailable("away")
        return await super().put_if_absent(n, data)


@pytest.mark.parametrize("seed", range(6))
async def test_lost_answers_neither_lose_nor_double(memory: Opened, seed: int) -> None:
    entries = LostAnswers(random.Random(seed))
    every = [Resources(await memory(entries), HandClock()) for _ in range(3)]

    async def create(number: int) -> int:
        for attempt in itertools.count():
            try:
                wish = ResourceWish(name=f"namespaces/default/runs/r{number}", spec=SPEC)
                return (await every[(number + attempt) % 3].put(wish, ask(f"r{number}")))[0].revision
            except (OutcomeUnknown, StoreUnavailable):
                continue
        raise AssertionError

    revisions = await asyncio.gather(*(create(number) for number in range(40)))
    assert sorted(revisions) == list(range(1, 41))
    found = [await one.page(Selection("runs"), after_name="", limit=99) for one in every]
    assert found[0] == found[1] == found[2]
    assert found[0][1] == 40


async def test_what_waits_goes_into_one_entry(memory: Opened) -> None:
    entries = MemoryEntries(delay_s=0.01)
    store = await memory(entries)
    assert sorted(await asyncio.gather(*(store.run(count) for _ in range(100)))) == list(range(1, 101))
    assert len(entries.entries) <= 3
    calls = entries.calls
    await asyncio.gather(*(store.run(lambda tx: tx.lease("counter")) for _ in range(100)))
    assert entries.calls - calls <= 4


async def test_a_refusal_in_a_group_leaves_the_others_alone(memory: Opened) -> None:
    store = await memory(MemoryEntries(delay_s=0.01))

    def refused(tx: ControlTransaction) -> None:
        count(tx)
        raise KeyError("no")

    done = await asyncio.gather(
        *(store.run(refused if i % 3 == 0 else count) for i in range(9)), return_exceptions=True
    )
    assert [one for one in done if isinstance(one, int)] == [1, 2, 3, 4, 5, 6]
    assert await store.run(lambda tx: tx.lease("counter").epoch) == 6  # type: ignore[union-attr]


async def test_begun_work_is_finished_though_its_caller_is_gone(memory: Opened) -> None:
    store = await memory(MemoryEntries(delay_s=0.02))
    caller = asyncio.ensure_future(store.run(count))
    await asyncio.sleep(0.005)
    caller.cancel()
    assert await store.run(lambda tx: tx.lease("counter")) is not None
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.run(count)


async def test_a_damaged_entry_is_named(memory: Opened) -> None:
    entries = MemoryEntries()
    a, b = await memory(entries), await memory(entries)
    for _ in range(3):
        await a.run(count)
    whole = entries.entries[2]
    entries.entries[2] = whole[:-1] + bytes([whole[-1] ^ 1])
    with pytest.raises(ChecksumMismatch, match="entry 2"):
        await b.run(count)
    with pytest.raises(ChecksumMismatch, match="entry 2"):
        await memory(entries)
    entries.entries[2] = b"\x02" + whole[1:]
    with pytest.raises(StoreUnavailable, match="form 2"):
        await b.run(count)
    entries.entries[2] = whole
    assert await b.run(count) == 4


SMALL = KeepingPolicy(entries=16, at_most=16, trim_after_s=3_600.0)


async def settled(store: LogControl) -> None:
    await store._keeping.close()


async def fill(store: LogControl, changes: int) -> None:
    for _ in range(changes):
        await store.run(count)
        await settled(store)


async def test_the_log_is_shortened_and_a_lagging_replica_is_not_stranded(memory: Opened) -> None:
    entries = MemoryEntries()
    a, lagging = await memory(entries, policy=SMALL), await memory(entries, policy=SMALL)
    await fill(lagging, 1)
    for _ in range(10):
        a._replica.ages.append((-1e9, a.head))
        await fill(a, 20)
    assert len(entries.entries) < 80
    assert len(entries.held) == 2
    fresh = await memory(entries)
    assert await fresh.run(lambda tx: tx.lease("counter").epoch) == 201  # type: ignore[union-attr]
    # The lagging one finds a free number where all was trimmed; its clock says that it was silent.
    wall = replica_module.now()
    lagging._replica._clock = lambda: (wall[0] + 4_000, wall[1])
    assert await lagging.run(count) == 202
    assert lagging.head == a.head + 1


class Slept(MemoryEntries):
    """Stops the replica between its put and the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asleep: Callable[[], None] | None = None
        self.doing: Callable[[], Awaitable[None]] | None = None

    async def put_if_absent(self, n: int, data: bytes) -> bytes | None:
        if self.doing is not None:
            meanwhile, self.doing = self.doing, None
            await meanwhile()
        return await super().put_if_absent(n, data)


async def test_a_put_that_arrives_after_the_log_was_trimmed_does_not_count(memory: Opened) -> None:
    entries, passed = Slept(), [0.0]
    zombie = await memory(entries, policy=SMALL, clock=lambda: (passed[0], passed[0]))
    other = await memory(entries, policy=SMALL)
    assert await zombie.run(count) == 1

    async def hours_pass() -> None:
        for _ in range(6):
            other._replica.ages.append((-1e9, other.head))
            await fill(other, 20)
        passed[0] += 7_200

    entries.doing = hours_pass
    assert await zombie.run(count) == 122
    assert await other.run(lambda tx: tx.lease("counter").epoch) == 122  # type: ignore[union-attr]
    assert 2 in entries.entries  # the late one, where nobody looks
    assert max(await entries.snapshots()) > 2


async def test_a_late_answer_to_a_put_that_counts_is_an_answer(memory: Opened) -> None:
    entries, passed = MemoryEntries(), [0.0]
    a = await memory(entries, clock=lambda: (passed[0], passed[0]))
    put = entries.put_if_absent

    async def late(n: int, data: bytes) -> bytes | None:
        done = await put(n, data)
        passed[0] += 7_200
        return done

    entries.put_if_absent = late  # type: ignore[method-assign]
    assert await a.run(count) == 1
    assert await a.run(count) == 2
    assert len(entries.entries) == 2


async def test_a_snapshot_holds_all_and_equal_states_have_equal_bytes(memory: Opened) -> None:
    entries = MemoryEntries()
    a, clock = await memory(entries), HandClock()
    resources = Resources(a, clock)
    await resources.put(ResourceWish(name=NAME, spec=SPEC, status=SPEC, owner="ada"), ask())
    await resources.update_status(StatusUpdate(name=NAME, events=(Packed("e", b"1"), Packed("e", b"2"))), ask())
    await resources.put(ResourceWish(name=f"{NAME}_2", spec=SPEC), ask())
    await resources.delete(f"{NAME}_2", etag="", request=ask())
    await acquire(Leases(a, clock), "a")
    await a.run(lambda tx: tx.put_scan(b"\x00\xff", b"scan", now_us=5, since_us=0))
    data = encode_snapshot(a._replica.state.freeze())
    assert encode_snapshot(decode_snapshot(5, data).thaw().freeze()) == data
    assert encode_snapshot((await memory(entries))._replica.state.freeze()) == data


async def test_answers_do_not_pile_up(memory: Opened) -> None:
    store = await memory(MemoryEntries())
    for hour in range(400):
        await store.run(
            lambda tx, hour=hour: tx.put_answer(  # type: ignore[misc]
                "p", f"r{hour}", Answer("f", b""), now_us=hour * 3600, since_us=(hour - 24) * 3600
            )
        )
    state = store._replica.state
    assert len(state._answers) == len(state._answer_times) == 25


async def test_watchers_learn_that_a_replica_started_over(memory: Opened) -> None:
    entries = MemoryEntries()
    a = await memory(entries, policy=SMALL)
    passed = [0.0]
    lagging = await memory(entries, clock=lambda: (passed[0], passed[0]))
    writer, reader = Resources(a, HandClock()), Resources(lagging, HandClock())
    await writer.put(ResourceWish(name=NAME, spec=SPEC), ask())
    news = follow(reader, [Selection("sources")], after=0, initial=False, heartbeat_s=15)
    assert isinstance(await anext(news), RevisionBookmark)
    assert isinstance(await anext(news), ResourceChange)
    waiting = asyncio.ensure_future(anext(news))
    for _ in range(40):
        await writer.put(ResourceWish(name=NAME, spec=SPEC, overwrite=True), ask())
        await settled(a)
    passed[0] += 7_200
    told: Sequence[object] = [await asyncio.wait_for(waiting, 5)]
    while told[-1].resource.revision < 41:  # type: ignore[attr-defined]
        told = [*told, await asyncio.wait_for(anext(news), 5)]
    await news.aclose()
