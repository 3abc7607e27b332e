"""The harness itself: its list of failpoints is that of the source, the same seed plans the same, wrapped ports lose what they should."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from millrace.errors import OutcomeUnknown
from tests.chaos.check import Verdict
from tests.chaos.lost_answers import Losses
from tests.chaos.plan import DELAYS, OF_OWN_TESTS, OF_THE_CONTROL_LOG, POINTS, THEMES, draw
from tests.chaos.proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]


def test_every_failpoint_of_the_source_is_planned() -> None:
    sources = [path for area in POINTS for path in (ROOT / f"svc_{area}").rglob("*.py")]
    found = {name for path in sources for name in re.findall(r'failpoint\("([a-z_.]+)"\)', path.read_text())}
    assert len(found) > 20
    assert found == {point for points in POINTS.values() for point in points} | {*OF_THE_CONTROL_LOG, *OF_OWN_TESTS}
    assert not [point for point, test in OF_OWN_TESTS.items() if point not in (ROOT / test).read_text()]
    assert set(DELAYS) <= found


def test_the_same_seed_plans_the_same_and_a_hundred_meet_everything() -> None:
    plans = [draw(seed) for seed in range(100)]
    assert plans == [draw(seed) for seed in range(100)]
    assert [plan.theme for plan in plans[:10]] == list(THEMES)
    met = {fate.point for plan in plans for fates in plan.fates.values() for fate in fates}
    assert {point for points in POINTS.values() for point in points} <= met


class Port:
    def __init__(self) -> None:
        self.done = 0

    async def commit(self) -> int:
        self.done += 1
        return self.done

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Port]:
        yield self


async def test_a_lost_answer_was_done_all_the_same() -> None:
    port = Port()
    wrapped = Losses.parse("Port.commit:2").wrap(port, "Port")
    assert await wrapped.commit() == 1
    with pytest.raises(OutcomeUnknown):
        await wrapped.commit()
    assert port.done == 2
    assert await wrapped.commit() == 3


async def test_ports_that_come_from_ports_lose_answers_too() -> None:
    port = Port()
    wrapped = Losses.parse("Inner.commit:1").wrap(port, "Outer", open="Inner")
    async with wrapped.open() as inner:
        with pytest.raises(OutcomeUnknown):
            await inner.commit()
    assert Losses.parse("").wrap(port, "Outer") is port


async def test_the_proxy_passes_cuts_and_swallows() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy(lambda: server.sockets[0].getsockname()[1])
    await proxy.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"one")
    assert await reader.read(100) == b"one"
    swallowing = asyncio.create_task(proxy.swallow(0.2))
    await asyncio.sleep(0.05)
    writer.write(b"two")
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read(100) == b""
    await swallowing
    writer.close()
    await proxy.stop()
    server.close()


def test_the_checker_tells_lost_doubled_and_strange_rows_apart() -> None:
    verdict = Verdict()
    verdict.compare("rows", [1, 2, 2, 9], [1, 2, 3])
    assert (verdict.lost, verdict.doubled, verdict.strangers) == (1, 1, 1)
    assert len(verdict.faults) == 1
    clean = Verdict()
    clean.compare("rows", [2, 1], [1, 2])
    assert clean == Verdict()
