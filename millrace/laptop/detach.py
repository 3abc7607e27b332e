"""Runs something in a process of its own that outlives this one, and waits for its verdict."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from millrace.laptop.pidfile import PidFile

Report = Callable[[], None]


def detached(pid_file: PidFile, log: Path, work: Callable[[Report], int]) -> int:
    """Forks; `work(report)` runs in the child, in a session of its own. The parent gets 0 once the child reported, else its exit code.

    Until its report the child writes to this terminal (progress, what is wrong); afterwards to `log`.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _as_child(pid_file, log, work, writing)
    os.close(writing)
    pid_file.close()
    try:
        said = os.read(reading, 1)
        if said:
            return 0
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status) or 1
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        return 130


def _as_child(pid_file: PidFile, log: Path, work: Callable[[Report], int], writing: int) -> None:
    code = 1
    try:
        os.setsid()
        pid_file.write()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)

        def report() -> None:
            sys.stdout.flush()
            sys.stderr.flush()
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.write(writing, b"+")
            os.close(writing)

        code = work(report)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
