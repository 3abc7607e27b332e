"""The catalog's log through kill -9 around every durable step, and its leases through SIGSTOP and clocks hours apart."""

from __future__ import annotations

import asyncio
import ctypes.util
import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from millrace.errors import OutcomeUnknown, StoreUnavailable
from millrace.laptop.servers.weed import Weed
from svc_storage.adapters.clock import SystemClock
from svc_storage.adapters.control_log.store import LogControl
from svc_storage.adapters.s3.entries import S3Entries
from svc_storage.domain.control.leases import Leases
from svc_storage.domain.control.resource_names import Selection
from svc_storage.domain.control.resources import Resources, ResourceWish
from svc_storage.ports import Packed, RequestMark
from tests.chaos import control_child
from tests.chaos.nursery import ROOT, Nursery
from tests.chaos.plan import OF_THE_CONTROL_LOG
from tests.servers import weed

POINTS = ("storage.before_catalog_commit", "storage.after_catalog_commit", *OF_THE_CONTROL_LOG)
LAST = 79
FAKETIME = os.environ.get("TEST_FAKETIME", "") or ctypes.util.find_library("faketime") or ""
"""Path of libfaketime, where it is installed. It moves the whole process, driver and all, by minutes; S3 refuses whoever signs a request
a quarter of an hour off. The hours on top are the domain's alone, by a clock of its own."""


@pytest.fixture
def env() -> dict[str, str]:
    """Of children that share one empty log."""
    server, prefix = weed.shared_weed(), f"t/{uuid.uuid4().hex[:12]}"
    keys = server.keys[0]
    where = {"TEST_BUCKET": f"{server.bucket} {prefix} {server.endpoint}"}
    return {**os.environ, **where, "KEY": keys.access_key, "SECRET": keys.secret_key}


async def replica(env: dict[str, str]) -> LogControl:
    prefix = env["TEST_BUCKET"].split(" ")[1]
    objects = weed.objects(weed.shared_weed(), prefix).below("control")
    return await LogControl.open(S3Entries(objects), policy=control_child.SMALL)


def put_all(nursery: Nursery, env: dict[str, str], folder: Path, dice: random.Random, first: int, last: int) -> int:
    """How often it was killed on the way."""
    kills = 0
    while first <= last:
        points = f"{dice.choice(POINTS)}=kill:{dice.randint(1, 3)}" if kills < 8 else ""
        arguments = ["put", str(first), str(last)]
        code, said, _ = nursery.run(control_child.__name__, arguments, {**env, "MILLRACE_FAILPOINTS": points}, folder)
        kills += code == -signal.SIGKILL
        first = max(map(int, said.split()), default=first - 1) + 1
    return kills


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_request_is_done_once_by_two_replicas(
    tmp_path: Path, seed: int, nursery: Nursery, env: dict[str, str]
) -> None:
    halves = ((0, LAST // 2), (LAST // 2 + 1, LAST))
    with ThreadPoolExecutor(2) as both:
        running = [
            both.submit(put_all, nursery, env, _folder(tmp_path, first), random.Random(seed + first), first, last)
            for first, last in halves
        ]
        kills = sum(await asyncio.gather(*map(asyncio.wrap_future, running)))
    assert kills >= 4
    store = await replica(env)
    found, revision = await Resources(store, SystemClock()).page(Selection("runs"), after_name="", limit=1_000)
    assert revision == LAST + 1
    assert [(one.generation, one.last_event) for one in found] == [(1, 1)] * ((LAST + 1) // 2)
    assert store.head == LAST + 1
    await store.close()


async def test_a_store_that_was_away_is_met_again(tmp_path: Path) -> None:
    server = Weed(tmp_path)
    server.start()
    try:
        objects = weed.objects(server).below("control")
        store = await LogControl.open(S3Entries(objects))
        resources = Resources(store, SystemClock())
        wishes = [ResourceWish(name=f"namespaces/default/runs/r{i}", spec=Packed("t", b"x")) for i in range(20)]
        for number in range(10):
            await resources.put(wishes[number], RequestMark(f"q{number}", "me", "f"))
        server.kill()
        with pytest.raises((StoreUnavailable, OutcomeUnknown)) as away:
            await resources.put(wishes[10], RequestMark("q10", "me", "f"))
        assert away.value.reason in ("STORE_UNAVAILABLE", "COMMIT_UNKNOWN")
        with pytest.raises(StoreUnavailable):
            await resources.get(wishes[0].name)
        server.start()
        for number in range(20):  # half of them again
            stored, _ = await resources.put(wishes[number], RequestMark(f"q{number}", "me", "f"))
            assert stored.revision == number + 1
        await store.close()
    finally:
        server.kill()


def _folder(path: Path, number: int) -> Path:
    made = path / str(number)
    made.mkdir()
    return made


class Talking:
    """A child whose lines can be waited for."""

    def __init__(self, env: dict[str, str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", control_child.__name__, *arguments],
            cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                with self._changed:
                    self.lines.append(line.strip())
                    self._changed.notify_all()

    def wait_for(self, word: str, timeout_s: float = 30.0) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: self._has(word), timeout_s), self.lines[-20:]
        return next(line for line in self.lines if line.startswith(word))

    def end(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)

    def _has(self, word: str) -> bool:
        return any(line.startswith(word) for line in self.lines)


@contextmanager
def talking(env: dict[str, str], *arguments: str) -> Iterator[Talking]:
    child = Talking(env, *arguments)
    try:
        yield child
    finally:
        child.end()


@pytest.mark.parametrize("hours", [7, -7])
async def test_a_holder_that_was_stopped_is_refused_when_it_wakes(env: dict[str, str], hours: int) -> None:
    """`hours`: the taker's wall clock, before the holder's."""
    store = await replica(env)
    wish = ResourceWish(name=control_child.RUN, spec=Packed("t", b"x"))
    await Resources(store, SystemClock()).put(wish, RequestMark("run", "me", "f"))
    skewed = {**env, "TEST_CLOCK_AHEAD_S": str(hours * 3600)}
    if FAKETIME and hours:
        skewed |= {"LD_PRELOAD": FAKETIME, "FAKETIME": f"{hours:+d}m", "DONT_FAKE_MONOTONIC": "1"}
    with ExitStack() as children:
        holder = children.enter_context(talking(env, "hold", "holder"))
        holder.wait_for("did 3")
        taker = children.enter_context(talking(skewed, "take", "taker"))
        taker.wait_for("waits")
        await asyncio.sleep(control_child.TTL_MS / 1_000 + 0.5)  # renewed meanwhile: nothing may be taken
        assert not any(line.startswith("took") for line in taker.lines)
        assert holder.process.poll() is None
        holder.process.send_signal(signal.SIGSTOP)
        taker.wait_for("took 2", 8.0)
        assert await asyncio.to_thread(taker.process.wait, 10) == 0
        holder.process.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(holder.process.wait, 10) != 0
    _, events = await Resources(store, SystemClock()).get(control_child.RUN, events_after=0)
    epochs = [int(event.event.value.split()[1]) for event in events]
    assert epochs == sorted(epochs)
    assert epochs.count(2) == 5
    assert await Leases(store, SystemClock()).current_epoch(control_child.LEASE) == 2
    await store.close()


async def test_only_the_epoch_stops_who_does_not_look_at_the_time(env: dict[str, str]) -> None:
    store = await replica(env)
    wish = ResourceWish(name=control_child.RUN, spec=Packed("t", b"x"))
    await Resources(store, SystemClock()).put(wish, RequestMark("run", "me", "f"))
    with ExitStack() as children:
        holder = children.enter_context(talking(env, "hold", "stubborn"))
        holder.wait_for("did 3")
        taker = children.enter_context(talking(env, "take", "taker"))
        taker.wait_for("took 2", 15.0)
        holder.wait_for("refused 1")
        assert await asyncio.to_thread(holder.process.wait, 10) == 3
    _, events = await Resources(store, SystemClock()).get(control_child.RUN, events_after=0)
    epochs = [int(event.event.value.split()[1]) for event in events]
    assert epochs == sorted(epochs)
    await store.close()
