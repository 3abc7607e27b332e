"""Storage as several processes over one store, as `millrace up --replicas` starts them, without the other four services."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from millrace.client.session import Client
from millrace.laptop.home import Home
from millrace.laptop.servers.process import free_loopback_ports

READY_S = 120.0


class Processes:
    """`env`: what names the store. Its own home, tokens and ports; everything is killed at the end."""

    def __init__(self, folder: Path, env: Mapping[str, str], count: int = 2) -> None:
        self.home = Home(folder)
        self.home.prepare()
        self._env = env
        self.ports = free_loopback_ports(count)
        self._running: list[subprocess.Popen[bytes] | None] = [None] * count

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{port}" for port in self.ports]

    def start(self, *numbers: int) -> None:
        """Those, or all; until they serve."""
        chosen = numbers or range(len(self.ports))
        for number in chosen:
            with self.home.log(f"storage-{number}").open("ab") as log:
                self._running[number] = subprocess.Popen(
                    [sys.executable, "-m", "svc_storage"], stdout=log, stderr=log, env=self._environment(number)
                )
        for number in chosen:
            self._wait(number)

    def _environment(self, number: int) -> Mapping[str, str]:
        return {
            **os.environ,
            "MILLRACE_HOME": str(self.home.root),
            "MILLRACE_TOKEN_FILE": str(self.home.token("storage")),
            "MILLRACE_PRINCIPALS_FILE": str(self.home.principals),
            "MILLRACE_STORAGE_PORT": str(self.ports[number]),
            "MILLRACE_SUPERVISOR_PID": str(os.getpid()),
            **self._env,
        }

    def _wait(self, number: int) -> None:
        with grpc.insecure_channel(self.addresses[number]) as channel:
            asked = health_pb2.HealthCheckRequest(service="readiness")
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=READY_S, wait_for_ready=True)
            except grpc.RpcError:
                raise AssertionError(f"replica {number} does not serve:\n{self.log(number)[-2000:]}") from None
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, self.log(number)[-2000:]

    def signal(self, number: int, what: signal.Signals) -> None:
        process = self._running[number]
        assert process is not None
        process.send_signal(what)

    def kill(self, number: int) -> None:
        self.signal(number, signal.SIGKILL)
        process = self._running[number]
        assert process is not None
        process.wait()

    def log(self, number: int) -> str:
        return self.home.log(f"storage-{number}").read_text(errors="replace")

    def client(self, *numbers: int) -> Client:
        """Of those replicas, in turn; all of them when none is named."""
        addresses = [self.addresses[number] for number in numbers] or self.addresses
        target = addresses[0] if len(addresses) == 1 else f"ipv4:{','.join(addresses)}"
        return Client.find(token=self.home.token("local").read_text().strip(), storage=target)

    def close(self) -> None:
        for process in self._running:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
