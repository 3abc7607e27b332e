"""One Cassandra node or several on loopback addresses, as processes: started, killed, started again, stopped by pid.

For tests and `make up SERVERS=1`; a cluster in production is not ours to run. Everything here blocks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from millrace.laptop.failure import UpFailed
from millrace.laptop.servers import cassandra_files as files
from millrace.laptop.servers.cassandra_files import Options

DATACENTER = "datacenter1"
"""What SimpleSnitch calls it."""
START_LIMIT_S = 240.0
STOP_LIMIT_S = 60.0
_OPTIONS_FRAME = bytes.fromhex("040000000500000000")
_SUPPORTED = 0x06
# The node ends with the process that started it, however that ends.
_DIE_WITH_US = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os._exit(1) if os.getppid() != int(sys.argv[1]) else os.execvp(sys.argv[2], sys.argv[2:])"
)


class Node:
    """One process. `folder` is its own and survives it."""

    def __init__(self, folder: Path, address: str, jars: Path, cql_port: int, options: Options) -> None:
        self.folder, self.address, self.cql_port = folder, address, cql_port
        self._jars, self._options = jars, options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """0 when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    @property
    def log(self) -> Path:
        """Its own; what Java says before there is one goes to `console.log`."""
        return self.folder / "system.log"

    def start(self) -> None:
        """Returns at once; `wait` tells when it serves."""
        if self.pid:
            return
        command = files.java_command(self._jars, self.folder, self._options.heap)
        with (self.folder / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _DIE_WITH_US, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                process_group=0, cwd=self.folder,
            )  # fmt: skip

    def wait(self, limit_s: float = START_LIMIT_S) -> None:
        """Until it answers CQL. Raises UpFailed when it ends before, or after `limit_s`."""
        until = time.monotonic() + limit_s
        while not self.answers():
            if not self.pid:
                where = self.log if self.log.exists() else self.folder / "console.log"
                raise UpFailed(f"Cassandra on {self.address} ended: {self._last_words()}", log=str(where))
            if time.monotonic() > until:
                raise UpFailed(f"Cassandra on {self.address} does not answer after {limit_s:.0f} s", log=str(self.log))
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it takes clients; with TLS only whether it listens."""
        try:
            with socket.create_connection((self.address, self.cql_port), 2) as client:
                if self._options.tls:
                    return True
                client.sendall(_OPTIONS_FRAME)
                return client.recv(9)[4:5] == bytes([_SUPPORTED])
        except OSError:
            return False

    def signal(self, number: int) -> None:
        """To a running node: SIGSTOP, SIGCONT."""
        if self.pid:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9: what it had not written is lost."""
        if self._process is not None and self.pid:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """As its operator would; a node takes seconds."""
        if self._process is not None and self.pid:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_LIMIT_S)
        self.kill()

    def _last_words(self) -> str:
        for path in (self.log, self.folder / "console.log"):
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
            if found := [
                at for at, line in enumerate(lines) if line.startswith(("ERROR", "FATAL", "Exception", "Error"))
            ]:
                return " ".join(lines[found[-1] : found[-1] + 2])[:400]  # the second says which exception
        return "without a word"


class Cassandra:
    """A cluster of `count` nodes at 127.0.0.<first>, …, all with one CQL port. Made by `start`; ends with `stop` or this process."""

    datacenter = DATACENTER

    def __init__(self, nodes: Sequence[Node], cql_port: int, certificate: Path | None) -> None:
        self.nodes, self.cql_port, self.certificate = nodes, cql_port, certificate

    @classmethod
    def start(
        cls,
        folder: Path,
        count: int = 1,
        options: Options | None = None,
        *,
        first: int = 1,
        say: Callable[[str], None] = lambda text: None,
    ) -> Cassandra:
        """One node after another, until all answer: 10 s for one, about a minute for three. Raises UpFailed; then nothing runs."""
        options = options or Options()
        addresses = [f"127.0.0.{first + number}" for number in range(count)]
        files.check_java()
        jars = files.fetch_jars(say)
        storage_port, cql_port = free_ports(addresses, 2)
        certificate: Path | None = None
        nodes = []
        for address in addresses:
            own = folder / f"node-{address}"
            if options.tls:
                certificate = _certificate(folder, own, addresses)
            files.write_configuration(
                own, address=address, seed=addresses[0], storage_port=storage_port, cql_port=cql_port, options=options
            )
            nodes.append(Node(own, address, jars, cql_port, options))
        made = cls(nodes, cql_port, certificate)
        try:
            for node in nodes:
                say(f"starting Cassandra on {node.address}:{cql_port}")
                node.start()
                node.wait()
        except BaseException:
            made.kill()
            raise
        return made

    @property
    def contact_points(self) -> tuple[str, ...]:
        """`address:port` of each node."""
        return tuple(f"{node.address}:{self.cql_port}" for node in self.nodes)

    def stop(self) -> None:
        for node in self.nodes:
            node.signal(signal.SIGTERM)
        for node in self.nodes:
            node.stop()

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def warnings(self, about: str) -> list[str]:
        """Lines of the nodes' logs above INFO that hold a word, any case."""
        return [
            line
            for node in self.nodes
            if node.log.exists()
            for line in node.log.read_text(errors="replace").splitlines()
            if line.startswith(("WARN", "ERROR")) and about.lower() in line.lower()
        ]


def free_ports(addresses: Sequence[str], count: int) -> list[int]:
    """Ports that are free on every address now."""
    found: list[int] = []
    while len(found) < count:
        with contextlib.ExitStack() as held:
            try:
                first = held.enter_context(socket.socket())
                first.bind((addresses[0], 0))
                port = int(first.getsockname()[1])
                for address in addresses[1:]:
                    held.enter_context(socket.socket()).bind((address, port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def _certificate(folder: Path, own: Path, addresses: Sequence[str]) -> Path:
    """One key pair for all nodes, in each node's folder."""
    pem = folder / "tls" / "node.pem"
    if not pem.exists():
        files.make_certificate(folder / "tls", addresses)
    own.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copy(folder / "tls" / "node.p12", own / "node.p12")
    return pem
