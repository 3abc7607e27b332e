"""`up` and `down` with real processes: five tiny services behind the real bootstrap."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from millrace.admin.v1 import admin_pb2, admin_pb2_grpc
from millrace.laptop.down import down, running_pid
from millrace.laptop.home import AREAS, read_endpoints

ROOT = Path(__file__).parents[2]
UP = """
import sys
from pathlib import Path
from millrace.laptop.up import UpOptions, up
home, base, detach = sys.argv[1:]
sys.exit(up(UpOptions(
    home=Path(home), port_base=int(base), detach=detach == "detach",
    modules=dict.fromkeys(("extract", "storage", "transform", "analysis", "viz"), "tests.integration.tiny_service"),
    on_serving=lambda endpoints: print("serving", endpoints.url, flush=True),
)))
"""


def wait_for(condition: Callable[[], Any], what: str, limit_s: float = 60.0) -> Any:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {limit_s} s")


@pytest.fixture
def up_process(home: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(base: int = 0, *, detach: bool = False, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", UP, str(home), str(base), "detach" if detach else "stay"],
            cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    down(home)
    for process in started:
        process.kill()
        process.communicate()


def admin(home: Path, area: str) -> Any:
    """GetStatus of a service, None while it does not answer."""
    endpoints = read_endpoints(home)
    with grpc.insecure_channel(endpoints.services[area]) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        try:
            return stub.GetStatus(
                admin_pb2.GetStatusRequest(),
                timeout=2,
                metadata=(("authorization", f"Bearer {endpoints.token()}"),),
            )
        except grpc.RpcError:
            return None


def serving(home: Path, area: str, *, not_pid: int = 0) -> Any:
    said = admin(home, area)
    return said if said and said.pid != not_pid and said.state == admin_pb2.SERVING_STATE_SERVING else None


def is_alive(pid: int) -> bool:
    """A zombie is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_detached_it_returns_serves_restarts_what_dies_and_goes_down(home: Path, up_process: Any) -> None:
    process = up_process(detach=True)
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert output.startswith("serving http://127.0.0.1:")
    said = json.loads((home / "endpoints.json").read_text())
    assert set(said["services"]) == set(AREAS)
    for private in (
        "endpoints.json",
        "tokens/local.token",
        "tokens/storage.token",
        "tokens/principals.json",
        "page.key",
    ):
        assert (home / private).stat().st_mode & 0o777 == 0o600, private
    pids = {area: serving(home, area).pid for area in AREAS}

    again = up_process(detach=True)
    assert again.communicate(timeout=60)[1] == f"already running, pid {said['pid']}: `millrace open` shows its page\n"
    assert again.returncode == 0

    # A death is restarted, on the same port.
    os.kill(pids["storage"], signal.SIGKILL)
    wait_for(lambda: serving(home, "storage", not_pid=pids["storage"]), "storage is started again")
    assert read_endpoints(home).services == said["services"]
    # The ports stay ours while a service is down: a stranger cannot bind one.
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", int(said["services"]["viz"].rpartition(":")[2])))

    assert down(home) == said["pid"]
    assert running_pid(home) == 0
    assert not any(map(is_alive, pids.values()))
    assert not (home / "endpoints.json").exists()
    assert down(home) == 0


def test_ctrl_c_drains_and_ends_0(home: Path, up_process: Any) -> None:
    process = up_process()
    assert process.stdout.readline().startswith("serving")
    pids = [serving(home, area).pid for area in AREAS]
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 0
    assert not any(map(is_alive, pids))
    for area in AREAS:
        lines = [json.loads(line) for line in (home / "logs" / f"{area}.log").read_text().splitlines()]
        assert lines[-1]["message"] == "ended", area


def test_services_die_with_a_killed_supervisor(home: Path, up_process: Any) -> None:
    process = up_process()
    process.stdout.readline()
    pids = [serving(home, area).pid for area in AREAS]
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(is_alive, pids)), "the services end", 5)
    # And what it left behind does not stop the next one.
    again = up_process(detach=True)
    assert again.wait(90) == 0


@pytest.mark.parametrize("detach", [True, False])
def test_a_service_that_cannot_start_is_one_line_and_nothing_is_left(home: Path, up_process: Any, detach: bool) -> None:
    process = up_process(detach=detach, TINY_FATAL="storage")
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    first, log = errors.splitlines()
    assert first == "error: storage: the folder is used by another process, pid 4711"
    assert log == f"log: {home}/logs/storage.log"
    assert running_pid(home) == 0
    assert not (home / "endpoints.json").exists()


def test_a_taken_port_is_named(home: Path, up_process: Any) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        process = up_process(port - 2)  # storage's
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith(f"error: port {port} (storage) is taken by another program\nhint: ")


def test_what_never_gets_ready_stays_down_and_the_others_run(home: Path, up_process: Any, tmp_path: Path) -> None:
    flag = tmp_path / "die"
    process = up_process(TINY_DIES="viz", TINY_DIES_IF=str(flag))
    process.stdout.readline()
    flag.touch()
    os.kill(serving(home, "viz").pid, signal.SIGKILL)
    down_now = wait_for(lambda: read_endpoints(home).down, "viz is given up")
    assert down_now == {"viz": "ended with code 3 5 times before it was ready"}
    assert serving(home, "storage")
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 0
    assert "viz stays down" in process.stderr.read()
    assert "viz stays down" in (home / "logs/supervisor.log").read_text()
