"""The store behind a laptop's storage: which one, and with SERVERS=1 its server, started here with its data in MILLRACE_HOME.

Everything here blocks and belongs into the main thread: the kernel ends a server with the thread that made it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Protocol

from millrace.laptop.failure import UpFailed
from millrace.laptop.home import Home

SHARED = ("s3", "cassandra")
"""Stores that several replicas of storage may use at once."""
BACKENDS = ("local", "memory", *SHARED)
_PREFIX = "MILLRACE_STORAGE_"


class Backing(Protocol):
    """A server that storage needs."""

    name: str

    def start(self) -> Mapping[str, str]:
        """Until it serves; the settings by which storage finds it. Raises UpFailed; then nothing runs."""

    def is_dead(self) -> bool: ...

    def restart(self) -> None:
        """After its death, where it was. Raises UpFailed."""

    def stop(self) -> None: ...


class WeedBacking:
    """S3: SeaweedFS, one process."""

    name = "weed"

    def __init__(self, home: Home) -> None:
        from millrace.laptop.servers.weed import Keys, Weed

        self._home = home
        keys = Keys(home.secret("s3-access-key"), home.secret("s3-secret-key"))
        self._weed = Weed(home.root / "servers" / "weed", keys)

    def start(self) -> Mapping[str, str]:
        self._weed.start()
        return {
            f"{_PREFIX}S3_URL": f"s3://{self._weed.bucket}/millrace",
            f"{_PREFIX}S3_ENDPOINT": self._weed.endpoint,
            f"{_PREFIX}S3_ALLOW_HTTP": "1",
            f"{_PREFIX}S3_ACCESS_KEY": f"file:{self._home.secret_file('s3-access-key')}",
            f"{_PREFIX}S3_SECRET_KEY": f"file:{self._home.secret_file('s3-secret-key')}",
        }

    def is_dead(self) -> bool:
        return not self._weed.pid

    def restart(self) -> None:
        self._weed.start()

    def stop(self) -> None:
        self._weed.stop()


class CassandraBacking:
    """Cassandra, one node."""

    name = "cassandra"

    def __init__(self, home: Home, say: Callable[[str], None]) -> None:
        from millrace.laptop.servers.cassandra import Cassandra

        self._start, self._folder, self._say = Cassandra.start, home.root / "servers" / "cassandra", say
        self._cluster: Cassandra | None = None

    def start(self) -> Mapping[str, str]:
        self._cluster = self._start(self._folder, say=self._say)
        return {f"{_PREFIX}CASSANDRA_CONTACT_POINTS": ",".join(self._cluster.contact_points)}

    def is_dead(self) -> bool:
        return self._cluster is not None and not all(node.pid for node in self._cluster.nodes)

    def restart(self) -> None:
        for node in self._cluster.nodes if self._cluster is not None else ():
            node.start()  # returns at once: storage waits for it

    def stop(self) -> None:
        if self._cluster is not None:
            self._cluster.stop()


def check(backend: str, replicas: int, servers: bool) -> str:
    """The backend that is meant, "" = as the environment says. Raises UpFailed, in one line, when the three do not fit together."""
    meant = backend or os.environ.get(f"{_PREFIX}BACKEND") or "local"
    if replicas > 1 and meant not in SHARED:
        raise UpFailed(
            f"{replicas} replicas need a store that they share, and the {meant} one belongs to one process",
            hint="`make up REPLICAS=2 BACKEND=s3 SERVERS=1` starts one here; BACKEND=cassandra is the other",
        )
    if servers and meant not in SHARED:
        raise UpFailed(f"the {meant} store needs no server", hint="SERVERS=1 goes with BACKEND=s3 or BACKEND=cassandra")
    return meant


def backing(backend: str, home: Home, say: Callable[[str], None]) -> Backing:
    """The server of one of `SHARED`, not started. Raises UpFailed when it is not installed."""
    (home.root / "servers").mkdir(mode=0o700, parents=True, exist_ok=True)
    return WeedBacking(home) if backend == "s3" else CassandraBacking(home, say)
