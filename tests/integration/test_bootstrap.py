"""A service as a process: it starts, says in one line why it cannot, drains on SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def service(home: Path) -> Iterator[Any]:
    started: list[subprocess.Popen[str]] = []

    def start(**env: str) -> subprocess.Popen[str]:
        settings = {"MILLRACE_HOME": str(home), "MILLRACE_STORAGE_PORT": "0", **env}
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.tiny_service"],
            cwd=ROOT, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def fatal(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The one line of a process that could not start."""
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    (line,) = [json.loads(line) for line in errors.splitlines() if '"FATAL"' in line]
    return dict(line)


def port_of(process: subprocess.Popen[str]) -> int:
    for line in process.stderr:
        if "listening on" in line:
            return int(json.loads(line)["message"].rpartition(":")[2])
    raise AssertionError("it never listened")


def test_every_wrong_setting_is_in_the_line(service: Any) -> None:
    line = fatal(service(MILLRACE_STORAGE_PORT="high", MILLRACE_LOG_LEVEL="LOUD", MILLRACE_TOKEN_FILE="/nowhere"))
    assert line["level"] == "FATAL"
    for name in ("MILLRACE_STORAGE_PORT", "MILLRACE_LOG_LEVEL", "MILLRACE_TOKEN_FILE"):
        assert name in line["message"]


def test_a_taken_port_is_in_the_line(service: Any) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        assert fatal(service(MILLRACE_STORAGE_PORT=str(port)))["message"] == f"port {port} on 127.0.0.1 is taken"


def test_our_own_errors_are_told_with_their_reason(service: Any) -> None:
    line = fatal(service(TINY_FATAL="storage"))
    assert (line["message"], line["reason"]) == (
        "the folder is used by another process, pid 4711",
        "STORE_UNAVAILABLE",
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_0(service: Any, number: signal.Signals) -> None:
    process = service()
    port = port_of(process)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)
        assert next(watch) == b"\x08\x01"
        process.send_signal(number)
        began = time.monotonic()
        assert next(watch) == b"\x08\x02"  # NOT_SERVING is told before anything ends
        assert process.wait(15) == 0
        assert time.monotonic() - began < 8


def test_one_that_was_left_by_its_supervisor_ends(service: Any) -> None:
    process = service(MILLRACE_SUPERVISOR_PID="1" if os.getpid() != 1 else "2")
    assert process.wait(30) == 1
