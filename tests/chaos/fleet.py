"""The services of an episode as real processes: started, killed, started again on the same port, by nobody but this harness."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from millrace.client.channel import CHANNEL_OPTIONS, Connection
from millrace.laptop.home import Home
from tests.chaos.lost_answers import VARIABLE as LOST
from tests.chaos.nursery import Forked, Nursery
from tests.chaos.plan import Fate
from tests.chaos.power import lose_power
from tests.chaos.proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
READY_LIMIT_S = 150.0
POLL_S = 0.02


class EpisodeFailed(AssertionError):
    """Something that must never happen did."""


@dataclass(frozen=True, slots=True)
class Death:
    """`how`: the failpoint's name, or "at random". `lost`: files that the power loss took or damaged; None: the power stayed."""

    area: str
    how: str
    lost: int | None = None


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@dataclass
class Service:
    """One service. `env` is what it needs beyond the shared part."""

    fleet: Fleet
    area: str
    name: str
    env: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | Forked | None = None
    lives: int = 0

    def __post_init__(self) -> None:
        self.fleet.made.append(self)

    @property
    def log(self) -> Path:
        return self.fleet.home.root / f"{self.name}.log"

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> subprocess.Popen[bytes] | Forked:
        assert self.process is not None
        return self.process

    def spawn(self, fate: Fate = Fate()) -> None:  # noqa: B008
        """Starts a life. Does not wait."""
        self.lives += 1
        home = self.fleet.home
        env = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
        env |= {
            "MILLRACE_HOME": str(home.root),
            "MILLRACE_TOKEN_FILE": str(home.token(self.area)),
            "MILLRACE_PRINCIPALS_FILE": str(home.principals),
            f"MILLRACE_{self.area.upper()}_PORT": str(self.port),
            "MILLRACE_FAILPOINTS": fate.failpoints,
            "MILLRACE_SUPERVISOR_PID": str(os.getpid()),  # nothing outlives a harness that is killed itself
            LOST: fate.lost,
            **self.env,
        }
        with self.log.open("ab") as log:
            log.write(f'{{"harness": "life {self.lives}: {fate}"}}\n'.encode())
            log.flush()
            if self.fleet.nursery is not None:
                self.process = self.fleet.nursery.start(self.area, env, self.log)
            else:
                command = [sys.executable, "-m", f"svc_{self.area}"]
                self.process = subprocess.Popen(
                    command, cwd=ROOT, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
                )

    async def ready(self, limit_s: float = READY_LIMIT_S) -> bool:
        """True once it serves; False when it died before. Raises EpisodeFailed after `limit_s`."""
        ends = time.monotonic() + limit_s
        async with grpc.aio.insecure_channel(self.target, options=CHANNEL_OPTIONS) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="readiness")
            while self.running.poll() is None:
                try:
                    answer = await stub.Check(request, timeout=1.0)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return True
                except grpc.aio.AioRpcError:
                    pass
                if time.monotonic() > ends:
                    raise EpisodeFailed(f"{self.name} is not ready after {limit_s:g} s\n{self.tail()}")
                await asyncio.sleep(0.05)
        return False

    async def wait(self, limit_s: float | None = None) -> bool:
        """True once it has ended; False after `limit_s`."""
        ends = None if limit_s is None else time.monotonic() + limit_s
        while self.running.poll() is None:
            if ends is not None and time.monotonic() > ends:
                return False
            await asyncio.sleep(POLL_S)
        return True

    def kill(self) -> None:
        self.running.send_signal(signal.SIGKILL)
        self.running.wait()

    async def stop(self, limit_s: float = 30.0) -> None:
        """By SIGTERM, as an operator would. Raises EpisodeFailed when that does not end it with 0."""
        self.running.terminate()
        if not await self.wait(limit_s) or self.running.returncode != 0:
            raise EpisodeFailed(f"{self.name} did not drain: {self.running.poll()}\n{self.tail()}")

    def tail(self, size: int = 3000) -> str:
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""


class Fleet:
    """Storage, extract and transform in one home. Storage is reached through proxies, one per peer. Without a `nursery` the services are
    started as a user starts them, without the small intervals and planted faults of child.py."""

    def __init__(
        self,
        root: Path,
        dice: random.Random,
        *,
        nursery: Nursery | None = None,
        env: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.nursery = nursery
        self.home = Home(root)
        self.home.prepare()
        self.files = root / "files"
        self.files.mkdir()
        self.journal = root / "journal"
        self._dice = dice
        self.deaths: list[Death] = []
        self.made: list[Service] = []
        self._storage_kills = 0
        extra = env or {}
        self.storage = Service(self, "storage", "storage", {
            "MILLRACE_FSYNC_JOURNAL": str(self.journal),
            "MILLRACE_STORAGE_UPKEEP_INTERVAL": "100ms",
            "MILLRACE_STORAGE_DIRECT_FILES": "1",
            **extra.get("storage", {}),
        })  # fmt: skip
        self.ways = {name: Proxy(lambda: self.storage.port) for name in ("pusher", "extract", "transform")}
        self._extra = extra
        self.extract: Service
        self.transform: Service
        self._channels: list[grpc.aio.Channel] = []

    async def start_proxies(self) -> None:
        for way in self.ways.values():
            await way.start()
        self.extract = self.another_extract("extract")
        self.transform = Service(self, "transform", "transform", {
            "MILLRACE_STORAGE_TARGET": f"127.0.0.1:{self.ways['transform'].port}",
            "MILLRACE_TRANSFORM_LEASE_TTL": "5s",
            **self._extra.get("transform", {}),
        })  # fmt: skip

    def another_extract(self, name: str) -> Service:
        """Not started. A second one uses the same home, on a port of its own."""
        return Service(self, "extract", name, {
            "MILLRACE_STORAGE_TARGET": f"127.0.0.1:{self.ways['extract'].port}",
            "MILLRACE_EXTRACT_FILE_ROOTS": str(self.files),
            "MILLRACE_EXTRACT_LEASE_TTL": "5s",
            **self._extra.get("extract", {}),
        })  # fmt: skip

    @property
    def services(self) -> tuple[Service, ...]:
        return (self.storage, self.extract, self.transform)

    def connect(self, target: str) -> Connection:
        """As the person, `local`."""
        channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._channels.append(channel)
        token = self.home.token("local").read_text().strip()
        return Connection(channel, lambda: token)

    async def live(self, service: Service, fates: Sequence[Fate]) -> None:
        """Lives of a service, one after another, each until its fate; then one that lasts, ready."""
        for fate in fates:
            service.spawn(fate)
            self.died(service, await self._until_dead(service, fate))
        service.spawn()
        if not await service.ready():
            raise EpisodeFailed(f"{service.name} ended by itself: {service.running.returncode}\n{service.tail()}")

    async def _until_dead(self, service: Service, fate: Fate) -> str:
        """How it died. Raises EpisodeFailed when it ended in a way that nobody asked for."""
        how = fate.point
        if await service.ready() and not await service.wait(fate.kill_after_s):
            service.kill()
            how = "at random"
        if service.running.returncode != -signal.SIGKILL or not how:
            raise EpisodeFailed(f"{service.name} ended by itself: {service.running.returncode}\n{service.tail()}")
        return how

    def died(self, service: Service, how: str) -> None:
        """Notes a death; every second one of storage takes the power with it."""
        lost: int | None = None
        if service.area == "storage":
            self._storage_kills += 1
            if self._storage_kills % 2 == 0:
                lost = len(lose_power(self.home.root / "data", self.journal, self._dice))
        self.deaths.append(Death(service.area, how, lost))

    async def close(self) -> None:
        """Kills what still runs."""
        for service in self.made:
            if service.process is not None and service.process.poll() is None:
                service.process.send_signal(signal.SIGCONT)
                service.kill()
        for channel in self._channels:
            await channel.close()
        for way in self.ways.values():
            await way.stop()
