"""Starts the processes of episodes from one that has imported everything: 20 ms each instead of a second of imports.

The imported one never uses what it imports (no channel, no engine, no thread), so each fork is a service that has just begun. What a
process is like from its very beginning is tested elsewhere: million.py starts `python -m svc_…`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.chaos import child

ROOT = Path(__file__).resolve().parents[2]


class Forked:
    """A process started by the nursery, as far as `subprocess.Popen` is needed here."""

    def __init__(self, nursery: Nursery, number: int, pid: int) -> None:
        self._nursery, self._number, self.pid = nursery, number, pid

    @property
    def returncode(self) -> int | None:
        return self._nursery.ended.get(self._number)

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float = 30.0) -> int:
        """Raises TimeoutError."""
        ends = time.monotonic() + timeout
        while (code := self.returncode) is None:
            if time.monotonic() > ends:
                raise TimeoutError(f"process {self.pid} lives")
            time.sleep(0.005)
        return code


class Nursery:
    """One per test run, for any thread. `with Nursery() as nursery`."""

    def __init__(self) -> None:
        self.ended: dict[int, int] = {}
        """By the number of its birth: the system gives a pid again."""
        self._born: dict[int, int] = {}
        self._changed = threading.Condition()
        self._asking = threading.Lock()
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(self, area: str, env: Mapping[str, str], log: Path) -> Forked:
        """A service with exactly this environment; what it says goes to the end of `log`."""
        return self._start({"area": area, "env": dict(env), "log": str(log)})

    def run(self, module: str, arguments: Sequence[str], env: Mapping[str, str], folder: Path) -> tuple[int, str, str]:
        """`python -m module …` to its end: code, output, errors. `folder`: where what it says is kept. Raises TimeoutError after 100 s."""
        with self._asking:
            out, err = (folder / f"said-{len(list(folder.glob('said-*')))}.{kind}" for kind in ("out", "err"))
            out.touch()
        wanted = {"module": module, "arguments": list(arguments), "env": dict(env), "log": str(out), "errors": str(err)}
        code = self._start(wanted).wait(100)
        return code, out.read_text(), err.read_text()

    def _start(self, wanted: Mapping[str, Any]) -> Forked:
        assert self._process.stdin is not None
        with self._asking:
            self._count += 1
            number = self._count
            self._process.stdin.write(json.dumps({**wanted, "number": number}) + "\n")
            self._process.stdin.flush()
        with self._changed:
            if not self._changed.wait_for(lambda: number in self._born, timeout=60):
                raise TimeoutError("the nursery does not answer")
        return Forked(self, number, self._born[number])

    def _listen(self) -> None:
        assert self._process.stdout is not None
        numbers: dict[int, int] = {}  # pid -> its newest birth
        for line in self._process.stdout:
            kind, first, second = line.split()
            with self._changed:
                if kind == "born":
                    self._born[int(first)] = int(second)
                    numbers[int(second)] = int(first)
                else:
                    self.ended[numbers[int(first)]] = int(second)
                self._changed.notify_all()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._listener.join(5)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def main() -> NoReturn:
    """Until its standard input ends."""
    for area in ("storage", "extract", "transform"):
        importlib.import_module(f"svc_{area}.__main__")
    importlib.import_module("tests.contract.storage.backends")
    signal.signal(signal.SIGCHLD, _tell)
    while line := _line():
        wanted: dict[str, Any] = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            _become(wanted)
        os.write(1, f"born {wanted['number']} {pid}\n".encode())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os._exit(0)  # what was imported may have left threads that nobody stops


def _line() -> str:
    found = bytearray()
    while (one := os.read(0, 1)) and one != b"\n":
        found += one
    return found.decode()


def _tell(number: int, frame: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            os.write(1, f"ended {ended[0]} {os.waitstatus_to_exitcode(ended[1])}\n".encode())


def _become(wanted: Mapping[str, Any]) -> None:
    """Never returns."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        log, errors = (
            os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            for path in (wanted["log"], wanted.get("errors", wanted["log"]))
        )
        nothing = os.open(os.devnull, os.O_RDONLY)
        for ours, theirs in ((nothing, 0), (log, 1), (errors, 2)):
            os.dup2(ours, theirs)
        os.environ.clear()
        os.environ.update(wanted["env"], MILLRACE_SUPERVISOR_PID=str(os.getppid()))
        random.seed()
        if "module" in wanted:
            _run_module(wanted["module"], wanted["arguments"])
        child.start(wanted["area"])
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(70)


def _run_module(name: str, arguments: Sequence[str]) -> NoReturn:
    """As `python -m name …`."""
    sys.argv = [name, *arguments]
    code = 0
    try:
        runpy.run_module(name, run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
