"""A server of somebody else's as a child process: it ends when we do, is killed by its own pid, and finds free ports."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_LIMIT_S = 30.0
# The child ends with the process that started it, however that ends.
_DIE_WITH_US = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os._exit(1) if os.getppid() != int(sys.argv[1]) else os.execvp(sys.argv[2], sys.argv[2:])"
)


class Process:
    """`console`: where its output is appended. Everything blocks."""

    def __init__(
        self, command: Sequence[str], *, folder: Path, console: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self._command, self._folder, self._console, self._env = command, folder, console, env
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """0 when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def start(self) -> None:
        """Returns at once. Call it in the main thread: the kernel ends the child with the thread that made it."""
        with self._console.open("ab") as console:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _DIE_WITH_US, str(os.getpid()), *self._command],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                process_group=0, cwd=self._folder, env={**os.environ, **(self._env or {})},
            )  # fmt: skip

    def signal(self, number: int) -> None:
        """SIGSTOP, SIGCONT, when it runs."""
        if self.pid:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and waits for the end."""
        if self._process is not None and self.pid:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """As its operator would; after 30 s like `kill`."""
        if self._process is not None and self.pid:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_LIMIT_S)
        self.kill()

    def last_words(self) -> str:
        """The newest line of its output, for a start that failed."""
        lines = self._console.read_text(errors="replace").splitlines() if self._console.exists() else []
        return lines[-1][:300] if lines else "without a word"


def free_loopback_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now, all held at once while they are looked for."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
