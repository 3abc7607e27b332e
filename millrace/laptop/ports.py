"""The six ports, bound before any service starts and kept bound: targets are known, and no stranger gets a port between restarts.

With several replicas each further one of a service has the next port but nine: storage 7402, 7412, 7422.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Mapping
from types import MappingProxyType

from millrace.laptop.failure import UpFailed

HOST = "127.0.0.1"
PORT_BASE = 7400
NAMES = ("page", "extract", "storage", "transform", "analysis", "viz")
RETRY_S = 5.0
REPLICA_STEP = 10
MAX_REPLICAS = 9


def instance(area: str, number: int) -> str:
    """What the replica of that number, from 1, is called: `storage`, `storage-2`."""
    return area if number == 1 else f"{area}-{number}"


class Ports:
    """Bound, never listening sockets by name. Closing them gives the ports up."""

    def __init__(self, sockets: Mapping[str, socket.socket]) -> None:
        self._sockets = sockets
        self.numbers: Mapping[str, int] = MappingProxyType(
            {name: int(held.getsockname()[1]) for name, held in sockets.items()}
        )

    def target(self, name: str) -> str:
        """Of one process."""
        return f"{HOST}:{self.numbers[name]}"

    def addresses(self, area: str) -> tuple[str, ...]:
        """Of all replicas of a service."""
        names = (instance(area, number) for number in range(1, MAX_REPLICAS + 1))
        return tuple(self.target(name) for name in names if name in self.numbers)

    def service(self, area: str) -> str:
        """What reaches a service, whichever of its replicas: `host:port`, or gRPC's `ipv4:` form for several."""
        found = self.addresses(area)
        return found[0] if len(found) == 1 else f"ipv4:{','.join(found)}"

    def close(self) -> None:
        for held in self._sockets.values():
            held.close()


def bind(base: int, replicas: int = 1) -> Ports:
    """`base`: of the page, the services follow; 0: any free ones. Raises UpFailed naming the port that is taken, after 5 s of trying."""
    held: dict[str, socket.socket] = {}
    until = time.monotonic() + RETRY_S
    try:
        for number in range(1, replicas + 1):
            for index, area in enumerate(NAMES):
                if number > 1 and area == "page":
                    continue  # the browser's door is the first replica's
                name = instance(area, number)
                port = base + (number - 1) * REPLICA_STEP + index
                held[name] = _bind(name, port if base else 0, until)
    except UpFailed:
        Ports(held).close()
        raise
    return Ports(held)


def _bind(name: str, port: int, until: float) -> socket.socket:
    while True:
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # Connections of the last run in TIME_WAIT do not count as taken, a listening socket does.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((HOST, port))
        except OSError as error:
            found.close()
            if error.errno != errno.EADDRINUSE:
                raise UpFailed(f"port {port} ({name}) cannot be bound: {error.strerror}") from error
            if time.monotonic() > until:
                raise UpFailed(
                    f"port {port} ({name}) is taken by another program",
                    hint="end that program, or move all ports: `make up PORT_BASE=7500`",
                ) from error
            time.sleep(0.1)
            continue
        # From here on nobody but who also says SO_REUSEPORT (our services, of the same user) may bind it too.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return found
