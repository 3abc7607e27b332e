"""A service ends when its supervisor does, however that died (design.md "On a laptop")."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def end_with(supervisor_pid: int, pipe_fd: int = -1) -> None:
    """Call first thing in the main thread. Does nothing for 0: a service started by hand.

    Linux: the kernel kills this process with its parent; a parent that died before the call is noticed here. Elsewhere a thread watches
    `pipe_fd`, whose other end only the supervisor holds.
    """
    if supervisor_pid == 0:
        return
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != supervisor_pid:
            os._exit(1)
    elif pipe_fd >= 0:
        threading.Thread(target=_watch, args=(pipe_fd,), name="supervisor-watch", daemon=True).start()


def _watch(pipe_fd: int) -> None:
    while os.read(pipe_fd, 1):
        pass
    os._exit(1)


def resident_bytes() -> int:
    """Resident memory; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
