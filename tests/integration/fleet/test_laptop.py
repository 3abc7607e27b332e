"""Two replicas under the supervisor: one is killed, calls go on, it comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from millrace.admin.v1 import admin_pb2, admin_pb2_grpc
from millrace.client.channel import Connection, call, open_channel
from millrace.laptop.down import down
from millrace.laptop.home import read_endpoints

ROOT = Path(__file__).parents[3]
UP = """
import sys
from pathlib import Path
from millrace.laptop.up import UpOptions, up
sys.exit(up(UpOptions(
    home=Path(sys.argv[1]), port_base=0, detach=True, replicas=2, backend="s3",
    modules=dict.fromkeys(("storage", "viz"), "tests.integration.tiny_service"),
)))
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    found = tmp_path / "home"
    up = subprocess.run([sys.executable, "-c", UP, str(found)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert up.returncode == 0, up.stderr
    yield found
    down(found)


async def test_a_killed_replica_is_covered_and_comes_back(home: Path) -> None:
    endpoints = read_endpoints(home)
    assert len(endpoints.replicas["storage"]) == 2
    channel = open_channel(endpoints.services["storage"])
    connection = Connection(channel, endpoints.token)
    stub = admin_pb2_grpc.AdminServiceStub(channel)

    async def pid() -> int:
        said = await call(connection, stub.GetStatus, admin_pb2.GetStatusRequest(), answer=admin_pb2.GetStatusResponse)
        return said.pid

    both: set[int] = set()
    async with asyncio.timeout(30):
        while len(both) < 2:  # in turn
            both.add(await pid())
    victim, other = both
    os.kill(victim, signal.SIGKILL)
    until, answered = time.monotonic() + 60, set()
    while not answered - both and time.monotonic() < until:
        answered.add(await pid())  # never fails
        await asyncio.sleep(0.05)
    assert other in answered
    assert answered - both, "the killed one was started again"
    await channel.close(None)
