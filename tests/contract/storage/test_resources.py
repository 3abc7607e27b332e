from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from millrace.errors import (
    EtagMismatch,
    FieldInvalid,
    LeaseLost,
    RequestIdReused,
    ResourceExists,
    RevisionExpired,
    SourceNotFound,
)
from svc_storage.domain.control import resources as module
from svc_storage.domain.control.changes import (
    Initial,
    InitialEnd,
    ResourceChange,
    ResourceNews,
    RevisionBookmark,
    follow,
)
from svc_storage.domain.control.expiry import Expiry
from svc_storage.domain.control.leases import Leases
from svc_storage.domain.control.resource_names import Selection
from svc_storage.domain.control.resources import Resources, ResourceWish, StatusUpdate
from svc_storage.ports import ControlStore, Packed, RequestMark
from tests.contract.storage.control_stores import CHOSEN, CONTROL_STORES, HandClock

NAME = "namespaces/default/sources/orders"
SPEC = Packed("type.googleapis.com/x.Spec", b"spec")
STATUS = Packed("type.googleapis.com/x.Status", b"status")
ALL = Selection("sources")
ids = itertools.count()


def ask(fingerprint: str = "f", request_id: str = "") -> RequestMark:
    return RequestMark(request_id or f"r{next(ids)}", "local", fingerprint)


@pytest.fixture(params=CHOSEN)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ControlStore]:
    store = await CONTROL_STORES[request.param](tmp_path)
    yield store
    await store.close()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def resources(store: ControlStore, clock: HandClock) -> Resources:
    return Resources(store, clock)


async def create(resources: Resources, name: str = NAME) -> None:
    await resources.put(ResourceWish(name=name, spec=SPEC, owner="ada"), ask())


async def test_put_creates_then_changes_by_etag(resources: Resources) -> None:
    first, created = await resources.put(ResourceWish(name=NAME, spec=SPEC, status=STATUS, owner="ada"), ask())
    assert (created, first.generation, first.revision, first.owner, first.status) == (True, 1, 1, "ada", STATUS)
    second, created = await resources.put(
        ResourceWish(name=NAME, spec=Packed("t", b"2"), etag=first.etag, owner="bob"), ask()
    )
    assert (created, second.generation, second.uid, second.owner, second.status) == (False, 2, first.uid, "ada", STATUS)
    with pytest.raises(EtagMismatch):
        await resources.put(ResourceWish(name=NAME, spec=SPEC, etag=first.etag), ask())
    with pytest.raises(ResourceExists):
        await resources.put(ResourceWish(name=NAME, spec=SPEC), ask())
    third, _ = await resources.put(ResourceWish(name=NAME, spec=SPEC, overwrite=True), ask())
    assert third.generation == 3


async def test_an_etag_for_what_does_not_exist_is_not_found(resources: Resources) -> None:
    with pytest.raises(SourceNotFound):
        await resources.put(ResourceWish(name=NAME, spec=SPEC, etag="x"), ask())


async def test_the_etag_follows_the_spec_and_not_the_status(resources: Resources) -> None:
    await create(resources)
    before, _ = await resources.get(NAME)
    after = await resources.update_status(StatusUpdate(name=NAME, status=STATUS), ask())
    assert after.etag == before.etag
    assert after.revision == before.revision + 1


async def test_a_repeated_request_gets_the_first_answer(resources: Resources) -> None:
    wish = ResourceWish(name=NAME, spec=SPEC)
    first = await resources.put(wish, ask(request_id="same"))
    await resources.update_status(StatusUpdate(name=NAME, status=STATUS), ask())
    assert await resources.put(wish, ask(request_id="same")) == first
    deletion = ask(request_id="gone")
    await resources.delete(NAME, etag="", request=deletion)
    await resources.delete(NAME, etag="", request=deletion)
    with pytest.raises(RequestIdReused):
        await resources.put(wish, ask("another", request_id="same"))


async def test_an_answer_is_forgotten_after_a_day(resources: Resources, clock: HandClock) -> None:
    await resources.put(ResourceWish(name=NAME, spec=SPEC), ask(request_id="same"))
    clock.forward(24 * 3600 + 1)
    with pytest.raises(ResourceExists):
        await resources.put(ResourceWish(name=NAME, spec=SPEC), ask(request_id="same"))


async def test_a_refused_change_leaves_nothing(resources: Resources) -> None:
    await create(resources)
    with pytest.raises(EtagMismatch):
        await resources.delete(NAME, etag="other", request=ask(request_id="x"))
    found, revision = await resources.page(ALL, after_name="", limit=10)
    assert ([r.name for r in found], revision) == ([NAME], 1)
    await resources.delete(NAME, etag=found[0].etag, request=ask("now right", request_id="x"))


async def test_a_new_resource_of_the_same_name_has_another_uid(resources: Resources) -> None:
    await create(resources)
    old, _ = await resources.get(NAME)
    await resources.delete(NAME, etag="", request=ask())
    with pytest.raises(SourceNotFound):
        await resources.get(NAME)
    await create(resources)
    new, _ = await resources.get(NAME)
    assert new.uid != old.uid
    with pytest.raises(SourceNotFound):
        await resources.update_status(StatusUpdate(name=NAME, uid=old.uid), ask())


async def test_only_the_newest_thousand_events_are_kept(resources: Resources) -> None:
    await create(resources)
    for start in (0, 600):
        events = tuple(Packed("e", str(start + i).encode()) for i in range(600))
        await resources.update_status(StatusUpdate(name=NAME, events=events), ask())
    found, events = await resources.get(NAME, events_after=0)
    assert found.last_event == 1_200
    assert [e.sequence for e in events] == list(range(201, 1_201))
    assert events[-1].event.value == b"1199"
    _, tail = await resources.get(NAME, events_after=1_198)
    assert [e.sequence for e in tail] == [1_199, 1_200]
    assert (await resources.get(NAME))[1] == ()


async def test_a_status_under_a_lost_lease_is_refused(
    resources: Resources, store: ControlStore, clock: HandClock
) -> None:
    await create(resources)
    leases = Leases(store, clock)
    held = await leases.acquire("sources/orders", holder="a", ttl_ms=5_000, request=ask())
    update = StatusUpdate(name=NAME, status=STATUS, lease="sources/orders", lease_epoch=held.epoch)
    await resources.update_status(update, ask())
    clock.forward(6)
    await leases.acquire("sources/orders", holder="b", ttl_ms=5_000, request=ask())
    with pytest.raises(LeaseLost):
        await resources.update_status(update, ask())


async def test_pages_are_by_name(resources: Resources) -> None:
    for name in ("c", "a", "b"):
        await create(resources, f"namespaces/default/sources/{name}")
    await create(resources, "namespaces/other/sources/a")
    await create(resources, "namespaces/default/transforms/a")
    mine = Selection("sources", "default")
    found, _ = await resources.page(mine, after_name="", limit=2)
    assert [r.name[-1] for r in found] == ["a", "b"]
    rest, revision = await resources.page(mine, after_name=found[-1].name, limit=2)
    assert [r.name[-1] for r in rest] == ["c"]
    assert revision == 5
    assert len((await resources.page(ALL, after_name="", limit=9))[0]) == 4


@pytest.mark.parametrize(
    "name", ["orders", "namespaces/default/sources/", "namespaces/default/things/x", "namespaces/Default/sources/x",
             "namespaces/default/sources/X", "namespaces/default/runs/a//b", "namespaces/default/runs/.."]
)  # fmt: skip
async def test_a_bad_name_is_refused(resources: Resources, name: str) -> None:
    with pytest.raises(FieldInvalid):
        await create(resources, name)


async def test_too_large_a_spec_is_refused(resources: Resources) -> None:
    with pytest.raises(FieldInvalid):
        await resources.put(ResourceWish(name=NAME, spec=Packed("t", b"x" * (1 << 20) + b"x")), ask())


# -- watching
async def take(news: AsyncIterator[ResourceNews], count: int) -> list[ResourceNews]:
    async with asyncio.timeout(5):
        return [await anext(news) for _ in range(count)]


def told(news: list[ResourceNews]) -> list[tuple[str, int]]:
    """What kind, at which revision."""
    found = []
    for one in news:
        match one:
            case Initial(resource):
                found.append((f"initial {resource.name[-1]}", 0))
            case ResourceChange(there, resource):
                found.append((f"{'put' if there else 'deleted'} {resource.name[-1]}", resource.revision))
            case InitialEnd(revision) | RevisionBookmark(revision):
                found.append((type(one).__name__, revision))
    return found


async def test_watch_tells_what_there_is_then_what_changes(resources: Resources) -> None:
    for name in ("a", "b"):
        await create(resources, f"namespaces/default/sources/{name}")
    news = follow(resources, [ALL], after=None, initial=True, heartbeat_s=15)
    assert told(await take(news, 3)) == [("initial a", 0), ("initial b", 0), ("InitialEnd", 2)]
    waiting = asyncio.ensure_future(take(news, 2))
    await asyncio.sleep(0)
    await create(resources, "namespaces/default/runs/x")
    await resources.update_status(StatusUpdate(name="namespaces/default/sources/a", status=STATUS), ask())
    await resources.delete("namespaces/default/sources/b", etag="", request=ask())
    assert told(await waiting) == [("put a", 4), ("deleted b", 5)]
    await news.aclose()


@pytest.mark.parametrize("remembered", [True, False])
async def test_watch_goes_on_after_a_revision(
    store: ControlStore, clock: HandClock, resources: Resources, remembered: bool
) -> None:
    for name in ("a", "b", "c"):
        await create(resources, f"namespaces/default/sources/{name}")
    await resources.delete("namespaces/default/sources/c", etag="", request=ask())
    if not remembered:  # another process, or this one after a restart
        resources = Resources(store, clock)
    news = follow(resources, [ALL], after=1, initial=False, heartbeat_s=15)
    head, *rest = told(await take(news, 3))
    assert head == ("RevisionBookmark", 1)
    assert rest[0] == ("put b", 2)
    assert rest[-1] in (("deleted c", 4), ("put c", 3))
    await news.aclose()


async def test_a_bookmark_carries_what_did_not_concern_the_watcher(resources: Resources) -> None:
    news = follow(resources, [Selection("dashboards")], after=None, initial=False, heartbeat_s=0.05)
    assert told(await take(news, 1)) == [("RevisionBookmark", 0)]
    await create(resources)
    assert told(await take(news, 1)) == [("RevisionBookmark", 1)]
    await news.aclose()


async def test_a_forgotten_revision_is_said(
    store: ControlStore, clock: HandClock, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_DELETIONS", 2)
    for name in ("a", "b", "c", "d"):
        await create(resources, f"namespaces/default/sources/{name}")
        await resources.delete(f"namespaces/default/sources/{name}", etag="", request=ask())
    restarted = Resources(store, clock)
    for revision in (3, 99):
        with pytest.raises(RevisionExpired):
            await anext(follow(restarted, [ALL], after=revision, initial=False, heartbeat_s=15))
    news = follow(restarted, [ALL], after=4, initial=False, heartbeat_s=15)
    assert told(await take(news, 3))[1:] == [("deleted c", 6), ("deleted d", 8)]


async def test_many_changes_under_many_watchers_leave_no_gap(resources: Resources) -> None:
    async def watch() -> dict[str, int]:
        state: dict[str, int] = {}
        news = follow(resources, [ALL], after=0, initial=False, heartbeat_s=15)
        async for one in news:
            if isinstance(one, ResourceChange):
                if one.there:
                    state[one.resource.name] = one.resource.revision
                else:
                    state.pop(one.resource.name, None)
                if one.resource.revision == 120:
                    break
        await news.aclose()
        return state

    watchers = [asyncio.ensure_future(watch()) for _ in range(20)]
    await asyncio.sleep(0)
    names = [f"namespaces/default/sources/s{i}" for i in range(30)]
    await asyncio.gather(*(create(resources, name) for name in names))
    for name in names:
        await resources.update_status(StatusUpdate(name=name, status=STATUS), ask())
        await resources.delete(name, etag="", request=ask())
        await create(resources, name)
    found, _ = await resources.page(ALL, after_name="", limit=100)
    assert await asyncio.wait_for(watchers[0], 5) == {r.name: r.revision for r in found}
    assert {str(sorted(state.items())) for state in await asyncio.gather(*watchers)} == {
        str(sorted({r.name: r.revision for r in found}.items()))
    }


async def test_runs_and_readers_end_by_themselves(resources: Resources, clock: HandClock) -> None:
    for name in ("runs/old", "readers/old", "sources/old", "readers/moved"):
        await create(resources, f"namespaces/default/{name}")
    expiry = Expiry(resources, clock)
    clock.forward(23 * 3600)
    await resources.update_status(StatusUpdate(name="namespaces/default/readers/moved", status=STATUS), ask())
    clock.forward(2 * 3600)
    assert await expiry.sweep() == 1
    clock.forward(30 * 24 * 3600)
    await create(resources, "namespaces/default/runs/new")
    assert await expiry.sweep() == 2
    left = [Selection(collection) for collection in ("runs", "readers", "sources")]
    found = [one.name for what in left for one in (await resources.page(what, after_name="", limit=9))[0]]
    assert found == ["namespaces/default/runs/new", "namespaces/default/sources/old"]
    news = follow(resources, [Selection("runs")], after=5, initial=False, heartbeat_s=15)
    assert ("deleted d", 8) in told(await take(news, 3))
    await news.aclose()
