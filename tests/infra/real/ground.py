"""A Kubernetes API on loopback, without nodes: etcd and kube-apiserver as child processes, ready in seconds, ended by their pids.

    with Ground.start(folder) as ground:
        ground.kubectl("get", "namespaces")

Admission, validation, defaults and warnings are the real ones; nothing runs.
"""

from __future__ import annotations

import json
import secrets
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from millrace.laptop.servers.cassandra import free_ports
from millrace.laptop.servers.process import Process
from tools import infra_tools

START_LIMIT_S = 90.0
HERE = "127.0.0.1"


def program(name: str) -> Path:
    """Of the tool `name`, which is made when it is missing. Raises infra_tools.Refused."""
    wanted = infra_tools.tool(name)
    infra_tools.make(wanted)
    return wanted.folder / wanted.programs[0]


@dataclass(slots=True)
class Ground:
    """`url` of the API, `kubeconfig` of its administrator."""

    folder: Path
    url: str
    kubeconfig: Path
    processes: Sequence[Process]

    @classmethod
    def start(cls, folder: Path) -> Self:
        """Returns when the API is ready. Raises AssertionError with the log's end where it does not get so far."""
        clients, peers, api = free_ports([HERE], 3)
        token, key = secrets.token_hex(16), folder / "accounts.key"
        key.write_bytes(_key())
        (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
        etcd = Process(_etcd(folder, clients, peers), folder=folder, console=folder / "etcd.log")
        server = Process(_apiserver(folder, clients, api, key), folder=folder, console=folder / "kube-apiserver.log")
        made = cls(folder, f"https://{HERE}:{api}", _kubeconfig(folder, api, token), (server, etcd))
        try:
            etcd.start()
            server.start()
            made._wait()
        except BaseException:
            made.stop()
            raise
        return made

    def kubectl(
        self, *words: str, objects: Sequence[Mapping[str, Any]] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs it; `objects` go in as its standard input, so say `-f -`."""
        given = None if objects is None else json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        command = [
            str(program("kubectl")),
            f"--kubeconfig={self.kubeconfig}",
            f"--cache-dir={self.folder / 'cache'}",
            *words,
        ]
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False)

    def apply(self, objects: Sequence[Mapping[str, Any]]) -> None:
        answer = self.kubectl("apply", "--server-side", "-f", "-", objects=objects)
        assert answer.returncode == 0, answer.stderr

    def stop(self) -> None:
        for process in self.processes:
            process.stop()

    def _wait(self) -> None:
        until = time.monotonic() + START_LIMIT_S
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        while time.monotonic() < until and all(process.pid for process in self.processes):
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=2, context=unchecked):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        logs = {path.name: path.read_text()[-1500:] for path in self.folder.glob("*.log")}
        raise AssertionError(f"the API is not ready: {logs}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _key() -> bytes:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _etcd(folder: Path, clients: int, peers: int) -> list[str]:
    return [
        str(program("etcd-server")),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://{HERE}:{clients}",
        f"--advertise-client-urls=http://{HERE}:{clients}",
        f"--listen-peer-urls=http://{HERE}:{peers}",
        f"--initial-advertise-peer-urls=http://{HERE}:{peers}",
        f"--initial-cluster=default=http://{HERE}:{peers}",
        "--logger=zap",
    ]


def _apiserver(folder: Path, clients: int, port: int, key: Path) -> list[str]:
    return [
        str(program("kube-apiserver")),
        f"--etcd-servers=http://{HERE}:{clients}",
        f"--bind-address={HERE}",
        f"--advertise-address={HERE}",
        f"--secure-port={port}",
        f"--cert-dir={folder / 'certificates'}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-cluster-ip-range=10.0.0.0/16",
        "--endpoint-reconciler-type=none",  # a loopback address is no endpoint
        "--profiling=false",
    ]


def _kubeconfig(folder: Path, port: int, token: str) -> Path:
    path = folder / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": "ground",
                        "cluster": {"server": f"https://{HERE}:{port}", "insecure-skip-tls-verify": True},
                    }
                ],
                "users": [{"name": "admin", "user": {"token": token}}],
                "contexts": [{"name": "ground", "context": {"cluster": "ground", "user": "admin"}}],
                "current-context": "ground",
            }
        )
    )
    path.chmod(0o600)
    return path
