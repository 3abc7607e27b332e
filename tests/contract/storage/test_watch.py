"""WatchTable on every backend, without the network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from millrace.errors import FieldInvalid, VersionInFuture
from svc_storage.domain.reading.watch import Covered, Deleted, Landed, TableNews, WatchWish, watch
from tests.contract.storage.backends import NAME, Rig, incoming


async def take(news: AsyncIterator[TableNews], count: int) -> list[object]:
    async with asyncio.timeout(5):
        return [short(await anext(news)) for _ in range(count)]


def short(news: TableNews) -> object:
    match news:
        case Landed(event, _, _):
            return (event.first, event.number, str(event.kind), event.rows_added)
        case Covered(version, _):
            return version
        case Deleted(_):
            return "deleted"


async def append(rig: Rig, *counts: int) -> None:
    stream = await rig.open()
    offset = stream.opened.next_offset
    for count in counts:
        await stream.append(incoming(offset, count))
        await stream.settle()
        offset += count
    await stream.finish()


async def test_every_version_is_told_once_in_order(rig: Rig) -> None:
    table = await rig.create()
    news = watch(table, WatchWish(after=0))
    assert await take(news, 1) == [0]
    await append(rig, 3, 4)
    assert await take(news, 3) == [(1, 1, "FENCE", 0), (2, 2, "APPEND", 3), (3, 3, "APPEND", 4)]
    waiting = asyncio.ensure_future(take(news, 2))
    await append(rig, 5)
    assert await waiting == [(4, 4, "FENCE", 0), (5, 5, "APPEND", 5)]
    await news.aclose()


async def test_data_changes_only_covers_the_rest_by_bookmarks(rig: Rig) -> None:
    table = await rig.create()
    await append(rig, 3, 4)
    await append(rig, 5)
    news = watch(table, WatchWish(after=0, data_changes_only=True))
    assert await take(news, 6) == [0, 1, (2, 2, "APPEND", 3), (3, 3, "APPEND", 4), 4, (5, 5, "APPEND", 5)]
    together = watch(table, WatchWish(after=0, data_changes_only=True, coalesce=True))
    assert await take(together, 2) == [0, (1, 5, "APPEND", 12)]
    await news.aclose()
    await together.aclose()


async def test_unset_means_the_current_one_first(rig: Rig) -> None:
    table = await rig.create()
    await append(rig, 3)
    news = watch(table, WatchWish())
    assert await take(news, 2) == [1, (2, 2, "APPEND", 3)]
    await news.aclose()


async def test_the_schema_comes_first_and_positions_with_their_writer(rig: Rig) -> None:
    table = await rig.create()
    stream = await rig.open("loader")
    await stream.append(incoming(0, 3, positions={"p": "1"}))
    await stream.finish()
    news = watch(table, WatchWish(after=1))
    await anext(news)
    landed = await anext(news)
    assert isinstance(landed, Landed)
    assert landed.schema is not None
    assert landed.schema.names[:2] == ["id", "at"]
    assert dict(landed.event.positions["loader"].positions) == {"p": "1"}
    await append(rig, 1)
    later = await anext(news)
    assert isinstance(later, Landed)
    assert later.schema is None
    await news.aclose()


async def test_bookmarks_while_nothing_happens(rig: Rig) -> None:
    table = await rig.create()
    news = watch(table, WatchWish(after=0, heartbeat_s=0.02))
    assert await take(news, 3) == [0, 0, 0]
    await news.aclose()


async def test_a_version_that_does_not_exist_yet(rig: Rig) -> None:
    table = await rig.create()
    with pytest.raises(VersionInFuture):
        await anext(watch(table, WatchWish(after=1)))
    with pytest.raises(FieldInvalid):
        await anext(watch(table, WatchWish(after=-1)))


async def test_deletion_ends_it(rig: Rig) -> None:
    table = await rig.create()
    news = watch(table, WatchWish(after=0))
    assert await take(news, 1) == [0]
    waiting = asyncio.ensure_future(take(news, 1))
    await asyncio.sleep(0)
    await rig.tables.delete(NAME, etag="", request=rig.request())
    assert await waiting == ["deleted"]
    with pytest.raises(StopAsyncIteration):
        await anext(news)


async def test_two_hundred_watchers_hear_of_one_commit(rig: Rig) -> None:
    table = await rig.create()
    watchers = [watch(table, WatchWish(after=0, data_changes_only=True)) for _ in range(200)]
    for one in watchers:
        await anext(one)
    waiting = [asyncio.ensure_future(take(one, 2)) for one in watchers]
    await asyncio.sleep(0)
    await append(rig, 7)
    assert {str(found) for found in await asyncio.gather(*waiting)} == {str([1, (2, 2, "APPEND", 7)])}
    for one in watchers:
        await one.aclose()
