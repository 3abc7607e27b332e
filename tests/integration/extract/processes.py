"""Storage and extract as real processes that tests kill, stop and start again, on ports and a home of their own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from millrace.client.channel import Connection, open_channel
from millrace.extract.v1 import extract_pb2 as pb
from millrace.extract.v1 import extract_pb2_grpc

ROOT = Path(__file__).resolve().parents[3]
WHO = {"local": ("person", ["admin"]), "storage": ("service", []), "extract": ("service", [])}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def token_of(principal: str) -> str:
    return f"{principal}-token"


class Process:
    """`python -m svc_<area>`. Its port stays over its lives."""

    def __init__(self, home: Path, area: str, **env: str) -> None:
        self.home, self.area, self.port = home, area, free_port()
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        principals = {
            hashlib.sha256(token_of(name).encode()).hexdigest(): {"principal": name, "kind": kind, "roles": roles}
            for name, (kind, roles) in WHO.items()
        }
        (home / "principals.json").write_text(json.dumps(principals))
        (home / f"{area}.token").write_text(token_of(area))

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.home / f"{self.area}-{self.port}.log").read_text(errors="replace")

    def connection(self) -> Connection:
        """As `local`; the caller closes its channel."""
        return Connection(open_channel(self.target), lambda: token_of("local"))

    def start(self, **env: str) -> None:
        whole = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
        whole |= {
            "MILLRACE_HOME": str(self.home),
            f"MILLRACE_{self.area.upper()}_PORT": str(self.port),
            "MILLRACE_TOKEN_FILE": str(self.home / f"{self.area}.token"),
            "MILLRACE_PRINCIPALS_FILE": str(self.home / "principals.json"),
            **self._env,
            **env,
        }
        with (self.home / f"{self.area}-{self.port}.log").open("ab") as log:
            command = [sys.executable, "-m", f"svc_{self.area}"]
            self._process = subprocess.Popen(command, cwd=ROOT, env=whole, stdout=log, stderr=log)

    async def ready(self, limit_s: float = 60.0) -> None:
        ends = time.monotonic() + limit_s
        async with grpc.aio.insecure_channel(self.target) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while True:
                try:
                    answer = await stub.Check(health_pb2.HealthCheckRequest(service="readiness"), timeout=1.0)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                except grpc.aio.AioRpcError:
                    pass
                if time.monotonic() > ends:
                    raise TimeoutError(f"{self.area} is not ready\n{self.log[-3000:]}")
                await asyncio.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()


def both(home: Path, **extract_env: str) -> tuple[Process, Process]:
    """Storage and extract, not started; file sources read below `home/files`."""
    (home / "files").mkdir()
    storage = Process(home, "storage")
    return storage, another_extract(home, storage, **extract_env)


def another_extract(home: Path, storage: Process, **env: str) -> Process:
    return Process(
        home,
        "extract",
        MILLRACE_STORAGE_TARGET=storage.target,
        MILLRACE_EXTRACT_FILE_ROOTS=str(home / "files"),
        MILLRACE_EXTRACT_LEASE_TTL="5s",
        **env,
    )


async def put_source(extract: Process, name: str, spec: pb.SourceSpec) -> None:
    connection = extract.connection()
    stub: Any = extract_pb2_grpc.ExtractServiceStub(connection.channel)
    source = pb.Source(name=name, spec=spec)
    request = pb.PutSourceRequest(request_id=f"put {name}", source=source)
    await stub.PutSource(request, metadata=connection.metadata(), timeout=60)
    await connection.channel.close()


async def until(true: Callable[[], Awaitable[bool]], limit_s: float, what: str) -> None:
    ends = time.monotonic() + limit_s
    while not await true():
        if time.monotonic() > ends:
            raise TimeoutError(f"not within {limit_s:g} s: {what}")
        await asyncio.sleep(0.1)
