"""The answer to a conditional put is lost, or a copy of the keys is old: what happened is found by reading, and happened once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from millrace import errors
from svc_storage.adapters.delta.place import create_table
from svc_storage.adapters.s3 import place
from svc_storage.adapters.s3.backend import S3Backend
from svc_storage.adapters.s3.cache import FileCache
from svc_storage.adapters.s3.objects import Objects
from svc_storage.ports import Commit, CommitKind, WriterState
from tests.chaos.proxy import Dropping
from tests.contract.storage.backends import SCHEMA, rows
from tests.servers.weed import address, credentials, shared_weed

UID = "0123456789abcdef"


@pytest.fixture
async def way() -> AsyncIterator[Dropping]:
    """In front of the store; drops answers to conditional puts when it is told."""
    port = int(shared_weed().endpoint.rpartition(":")[2])
    proxy = Dropping(lambda: port, re.compile(rb"(?i)if-none-match"))
    await proxy.start()
    yield proxy
    await proxy.stop()


def through(way: Dropping, prefix: str) -> Objects:
    weed = shared_weed()
    place = replace(address(weed, prefix), endpoint=f"http://127.0.0.1:{way.port}")
    return Objects(place, credentials(weed.keys[0]))


def backend_through(way: Dropping, folder: Path) -> S3Backend:
    cache = FileCache.claim(folder / "cache", 1 << 26)
    return S3Backend(through(way, folder.name).below("tables"), cache, ThreadPoolExecutor(4))


async def test_a_commit_whose_answer_was_lost_is_one_commit(way: Dropping, tmp_path: Path) -> None:
    backend = backend_through(way, tmp_path)
    await backend.create(UID, SCHEMA, time_us=1)
    log, files = backend.open(UID)
    await log.recover()
    head = 0
    for number in range(6):
        file = await files.write(f"l0-{number}.parquet", [rows(2, number)], SCHEMA)
        writers = {"w": WriterState(1, 2 * (number + 1))}
        commit = Commit(id=f"c{number}", kind=CommitKind.APPEND, time_us=number, adds=(file,), writers=writers)
        if number % 2:
            way.arm()
        head = await log.append(commit, after=head)
        assert head == number + 1
    assert way.dropped == 3
    assert [found.commit.id for found in (await log.recover()).commits] == [f"c{number}" for number in range(6)]


async def test_an_object_whose_answer_was_lost_is_ours(way: Dropping, tmp_path: Path) -> None:
    objects = through(way, tmp_path.name)
    way.arm()
    assert await asyncio.to_thread(objects.put_if_absent, "1", b"ours")
    assert way.dropped == 1
    assert await asyncio.to_thread(objects.put_if_absent, "1", b"ours"), "an earlier try of the same"
    assert not await asyncio.to_thread(objects.put_if_absent, "1", b"another's")


def _taken_and_lost(*_: Any) -> None:
    """The store says yes, and has nothing."""


def _made_and_refused(*made: Any) -> None:
    create_table(*made)
    raise OSError("Generic S3 error: 500 Internal Server Error")


@pytest.mark.parametrize("store", [_taken_and_lost, _made_and_refused])
async def test_a_table_that_is_not_known_to_be_made_is_made_again(
    store: Any, way: Dropping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_through(way, tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(place, "create_table", store)
        with pytest.raises(errors.StoreUnavailable):
            await backend.create(UID, SCHEMA, time_us=1)
    await backend.create(UID, SCHEMA, time_us=1)
    assert (await backend.open(UID)[0].recover()).base.schema == SCHEMA


async def test_a_log_that_is_there_and_not_listed_is_not_called_damaged(
    way: Dropping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_through(way, tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(place.S3Place, "names", lambda *_: [])
        with pytest.raises(errors.StoreUnavailable):
            await backend.create(UID, SCHEMA, time_us=1)
        with pytest.raises(errors.StoreUnavailable):
            await backend.open(UID)[0].recover()
    with pytest.raises(errors.ChecksumMismatch, match="empty"):
        await backend.open("of-no-table")[0].recover()
