"""Storage in this process, with the memory backend, in a thread of its own: commands run their own event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from millrace.cli.app import run
from millrace.laptop.home import Endpoints
from millrace.server.runtime import ServiceSpec
from millrace.server.testing import running


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    out: str
    err: str


Cli = Callable[..., Answer]


def serve(specs: list[ServiceSpec], home: Path, env: dict[str, str]) -> Iterator[Path]:
    """Runs services until the fixture ends; writes endpoints.json as `millrace up` does."""
    ready, stop = threading.Event(), []
    failures: list[BaseException] = []

    async def main() -> None:
        end = asyncio.Event()
        stop.append((asyncio.get_running_loop(), end))
        (spec,) = specs
        async with running(spec, env, home=home) as served:
            (home / "token").write_text("local-token\n")
            Endpoints({spec.name: served.target}, "http://127.0.0.1:1/?key=k", home / "token", 1, home, {}).write()
            ready.set()
            await end.wait()

    def thread() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)
            ready.set()

    worker = threading.Thread(target=thread)
    worker.start()
    ready.wait(20)
    assert not failures, failures
    yield home
    loop, end = stop[0]
    loop.call_soon_threadsafe(end.set)
    worker.join(20)
    assert not failures, failures


@pytest.fixture(scope="module")
def storage_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder in which storage alone runs."""
    from svc_storage.__main__ import compose
    from svc_storage.config import Settings

    home = tmp_path_factory.mktemp("home")
    env = {
        "MILLRACE_HOME": str(home),
        "MILLRACE_STORAGE_BACKEND": "memory",
        "MILLRACE_STORAGE_ARCHIVE": (home / "archive").as_uri(),
    }
    spec = ServiceSpec(name="storage", settings=Settings.from_env, compose=compose)
    yield from serve([spec], home, env)


@pytest.fixture
def cli(storage_home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs one command line in this process."""
    monkeypatch.setenv("MILLRACE_HOME", str(storage_home))

    def call(*arguments: str) -> Answer:
        capsys.readouterr()
        code = run(arguments)
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return call
