"""`millrace down`: tells the supervisor to drain, and waits."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from millrace.laptop.home import Home
from millrace.laptop.pidfile import running

DRAIN_LIMIT_S = 60.0
KILL_LIMIT_S = 10.0


def running_pid(home: Path) -> int:
    """The pid of the supervisor of `home`; 0 when nothing runs there."""
    return running(Home(home.expanduser().absolute()).pid)


def down(home: Path) -> int:
    """The pid that was stopped; 0 when nothing ran. Waits for the drain; a supervisor that hangs is killed, and its services with it."""
    pid = running_pid(home)
    if pid <= 0:
        return 0
    for number, limit_s in ((signal.SIGTERM, DRAIN_LIMIT_S), (signal.SIGKILL, KILL_LIMIT_S)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return pid
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            if running_pid(home) != pid:
                return pid
            time.sleep(0.05)
    return pid
