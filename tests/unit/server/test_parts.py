"""The small parts: request streams that survive a cancelled read, watched background work, principals."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

from millrace import errors
from millrace.server.identity import Principals, caller_or_none, require_admin_or_service, set_caller
from millrace.server.interceptors.call import CallContext, Outcome, RequestStream, Tally
from millrace.server.interceptors.deadline import default_deadline_s
from millrace.server.lifecycle import StreamLife, Streams, stream_life
from millrace.server.supervision import Background


class Wire:
    """gRPC's side: one read and one write at a time, like the real one."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[bytes] = []
        self.room = asyncio.Event()
        self._reading = self._writing = False

    async def read(self) -> Any:
        assert not self._reading, "a second read while one is pending"
        self._reading = True
        try:
            return await self.incoming.get()
        finally:
            self._reading = False

    async def write(self, payload: bytes) -> None:
        assert not self._writing, "a second write while one is pending"
        self._writing = True
        try:
            await self.room.wait()
            self.sent.append(payload)
        finally:
            self._writing = False

    def cancelled(self) -> bool:
        return False

    done = cancelled


async def test_a_cancelled_read_loses_no_request() -> None:
    wire, tally = Wire(), Tally()
    stream = RequestStream(wire.read, lambda raw: raw, tally)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.01)
    await wire.incoming.put(b"one")
    await wire.incoming.put(b"two")
    await wire.incoming.put(grpc.aio.EOF)
    assert [message async for message in stream] == [b"one", b"two"]
    assert (tally.messages_in, tally.bytes_in) == (2, 6)


async def test_a_cancelled_write_is_finished_before_the_next() -> None:
    wire = Wire()
    context = CallContext(wire, bytes, Tally(), Outcome())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(context.write(b"one"), 0.01)
    last = asyncio.gather(context.write(b"two"), context.write(b"three"))
    await asyncio.sleep(0)
    wire.room.set()
    await last
    assert wire.sent == [b"one", b"two", b"three"]


async def test_streams_are_counted_limited_and_drained() -> None:
    streams = Streams(age_s=0, limit=2)
    one, two = streams.open("/a"), streams.open("/b")
    with pytest.raises(errors.TooManyStreams):
        streams.open("/a")
    assert streams.counts() == {"/a": 1, "/b": 1}
    streams.close("/b", two)
    streams.close("/b", two)
    assert streams.total() == 1
    assert streams.drain() == 1
    assert one.ending
    with pytest.raises(errors.StreamDraining):
        one.check()
    with pytest.raises(errors.StreamDraining):
        streams.open("/a")
    assert not two.ending


async def test_a_life_ages_once_and_a_foreign_context_lives_for_ever() -> None:
    life = StreamLife(0.02)
    await asyncio.wait_for(life.wait(), 1)
    life.drain()
    assert isinstance(life.error(), errors.StreamAgedOut)
    assert not stream_life(object()).ending


async def test_background_work_that_dies_is_seen_and_started_again() -> None:
    background, starts = Background(), []

    async def work() -> None:
        starts.append(caller_or_none())
        if len(starts) < 3:
            raise RuntimeError("no")
        await asyncio.Event().wait()

    set_caller(_principals().authenticate("Bearer secret"))
    background.start("work", work)
    async with asyncio.timeout(5):
        while len(starts) < 2:
            await asyncio.sleep(0.01)
        assert background.failing() == ("work: RuntimeError",)
        while len(starts) < 3:
            await asyncio.sleep(0.01)
    assert starts == [None] * 3  # never in the name of whoever started it
    with pytest.raises(KeyError):
        background.start("work", work)
    await background.stop()
    assert background.running() == ()


def _principals(path: Path | None = None) -> Principals:
    entry = {"principal": "p", "roles": [], "kind": "person"}
    return Principals(path, {hashlib.sha256(b"secret").hexdigest(): entry})


@pytest.mark.parametrize("header", ["", "secret", "Basic secret", "Bearer ", "Bearer wrong"])
def test_other_headers_are_refused(header: str) -> None:
    with pytest.raises(errors.TokenInvalid):
        _principals().authenticate(header)


async def test_a_person_without_a_role_is_no_service() -> None:
    set_caller(_principals().authenticate("Bearer secret"))
    with pytest.raises(errors.NotAllowed):
        require_admin_or_service()


def test_the_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "principals.json"
    path.write_text("{}")
    principals = Principals(path)
    digest = hashlib.sha256(b"new").hexdigest()
    path.write_text(json.dumps({digest: {"principal": "n", "roles": ["admin"], "kind": "service"}}))
    os.utime(path, ns=(1, 1))
    found = principals.authenticate("Bearer new")
    assert (found.principal, found.is_admin, found.is_service, repr(found.token)) == ("n", True, True, "***")


def test_default_deadlines_are_those_of_the_contract() -> None:
    storage, analysis = "millrace.storage.v1.StorageService", "millrace.analysis.v1.AnalysisService"
    assert default_deadline_s(storage, "GetTable", stream=False) == 10
    assert default_deadline_s("millrace.storage.v1.LeaseService", "RenewLease", stream=False) == 3
    assert default_deadline_s(storage, "PlanRead", stream=False) == 30
    assert default_deadline_s(analysis, "FitRegression", stream=False) == 60
    assert default_deadline_s(analysis, "Query", stream=True) == 300
    assert default_deadline_s(storage, "WatchTable", stream=True) is None
