"""A real stack: `millrace up` in a home of its own on free ports, driven by the command line as a person would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    def run(self, *arguments: str, timeout_s: float = 60, stdin: str = "") -> Answer:
        """One command line, whatever its exit code."""
        env = {**os.environ, "MILLRACE_HOME": str(self.home)}
        done = subprocess.run(
            [*MILLRACE, *arguments], cwd=ROOT, env=env, input=stdin, capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip
        return Answer(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, timeout_s: float = 60, stdin: str = "") -> Answer:
        """One command line that has to end 0."""
        answer = self.run(*arguments, timeout_s=timeout_s, stdin=stdin)
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
    up = stack.run("up", "--detach", "--port-base", "0", *arguments, timeout_s=timeout_s)
    try:
        assert up.code == 0, f"{up}\n{stack.logs()}"
        yield stack
    finally:
        stack.run("down", timeout_s=90)


def until(condition: Callable[[], object], *, limit_s: float = 30.0, what: str = "") -> None:
    """Waits for a condition, looking often; fails after `limit_s`."""
    ends = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends, f"not within {limit_s} s: {what}"
        time.sleep(0.1)
