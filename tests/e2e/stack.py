"""A real stack: `millrace up` in a home of its own on free ports, driven by the command line as a person would."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millrace.cli.app import run
from millrace.laptop.home import Endpoints, read_endpoints

ROOT = Path(__file__).resolve().parents[2]
MILLRACE = (sys.executable, "-c", "from millrace.cli import main; main()")


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Stack:
    """One home folder. `run` may be used before `up` and after `down`."""

    home: Path

    @property
    def endpoints(self) -> Endpoints:
        return read_endpoints(self.home)

    @property
    def token(self) -> str:
        return self.endpoints.token()

    def run(self, *arguments: str, stdin: str = "") -> Answer:
        """One command line, whatever its exit code: in this process, which saves importing everything anew each time."""
        out, err, before = io.StringIO(), io.StringIO(), sys.stdin
        sys.stdin = io.StringIO(stdin)
        try:
            with redirect_stdout(out), redirect_stderr(err):
                code = run([*arguments, "--home", str(self.home)])
        finally:
            sys.stdin = before
        return Answer(code, out.getvalue(), err.getvalue())

    def process(self, *arguments: str, timeout_s: float = 60) -> Answer:
        """The same as a process of its own, as a shell has it."""
        done = subprocess.run(
            [*MILLRACE, *arguments], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Answer(done.returncode, done.stdout, done.stderr)

    @property
    def env(self) -> dict[str, str]:
        """For processes that find this stack by the environment."""
        return {**os.environ, "MILLRACE_HOME": str(self.home)}

    def ok(self, *arguments: str, stdin: str = "") -> Answer:
        """One command line that has to end 0."""
        answer = self.run(*arguments, stdin=stdin)
        assert answer.code == 0, f"{arguments}: {answer}"
        return answer

    def rows(self, sql: str, *arguments: str) -> list[dict[str, Any]]:
        """What a SELECT gives."""
        found: list[dict[str, Any]] = json.loads(self.ok("query", sql, "-o", "json", *arguments).out)
        return found

    def one(self, sql: str) -> Any:
        """The one value of a SELECT."""
        ((value,),) = (tuple(row.values()) for row in self.rows(sql))
        return value

    def logs(self) -> str:
        """The end of each log, for a failure's message."""
        files = sorted((self.home / "logs").glob("*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-2000:]}" for file in files)


@contextmanager
def started(home: Path, *arguments: str, timeout_s: float = 240) -> Iterator[Stack]:
    """`millrace up --detach` on free ports with further `arguments`; stopped at the end."""
    stack = Stack(home)
    up = stack.process("up", "--detach", "--port-base", "0", *arguments, timeout_s=timeout_s)
    try:
        assert up.code == 0, f"{up}\n{stack.logs()}"
        yield stack
    finally:
        stack.run("down")


def until(condition: Callable[[], object], *, limit_s: float = 30.0, what: str = "") -> None:
    """Waits for a condition, looking often; fails after `limit_s`."""
    ends = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends, f"not within {limit_s} s: {what}"
        time.sleep(0.1)
