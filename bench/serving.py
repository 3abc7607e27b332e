"""One service of Millrace as a process of its own, for a measurement: a fresh home, a free port, gone afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "bench-token"
START_LIMIT_S = 90.0


@dataclass(frozen=True, slots=True)
class Process:
    """`target`: host:port. `token`: of an admin. `home`: the folder that holds its data."""

    target: str
    token: str
    home: Path


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def home() -> Iterator[Path]:
    """A folder on the disk that the repository is on, not in memory: what is measured includes fsync."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as folder:
        path = Path(folder)
        principal = {"principal": "bench", "roles": ["admin"], "kind": "service"}
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        (path / "principals.json").write_text(json.dumps({digest: principal}))
        (path / "token").write_text(TOKEN)
        yield path


@contextmanager
def service(area: str, folder: Path, env: Mapping[str, str] | None = None) -> Iterator[Process]:
    """`python -m svc_<area>`, ready. Raises RuntimeError with its log when it does not get there."""
    port = free_port()
    known = {
        "MILLRACE_HOME": str(folder),
        "MILLRACE_PRINCIPALS_FILE": str(folder / "principals.json"),
        "MILLRACE_TOKEN_FILE": str(folder / "token"),
        f"MILLRACE_{area.upper()}_PORT": str(port),
    }
    log = folder / f"{area}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", f"svc_{area}"],
            cwd=ROOT,
            env={**os.environ, **known, **(env or {})},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(process, log)
        yield Process(f"127.0.0.1:{port}", TOKEN, folder)
    finally:
        process.terminate()
        process.wait(START_LIMIT_S)


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + START_LIMIT_S
    while '"SERVING"' not in log.read_text():
        if process.poll() is not None or time.monotonic() > ends:
            raise RuntimeError(log.read_text()[-2000:])
        time.sleep(0.05)
