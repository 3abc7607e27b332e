"""What the Dockerfile does, by other means: its wheel in a bare environment, each service as its user, with a read-only root."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.codebase.tree import PRODUCT, ROOT, SERVICES
from tests.infra.image import USER, Container, bare_environment, context, run, stages

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SHIPPED = (".md",)


@dataclass(frozen=True, slots=True)
class Image:
    folder: Path
    installed: Path
    wheel: Path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    folder = tmp_path_factory.mktemp("image")
    source = folder / "src"
    build, _ = stages()
    context(build, source)
    installed = bare_environment(folder, build, source)
    (wheel,) = (folder / "dist").glob("*.whl")
    yield Image(folder, installed, wheel)
    shutil.rmtree(folder, ignore_errors=True)


def test_the_wheel_holds_every_file_of_the_product(image: Image) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--", *PRODUCT], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    wanted = {name for name in tracked if not name.endswith(NOT_SHIPPED) and (ROOT / name).exists()}
    held = {name for name in zipfile.ZipFile(image.wheel).namelist() if ".dist-info/" not in name}
    assert held == wanted
    assert {".py", ".pyi", ".cql", ".css", ".js"} <= {Path(name).suffix for name in held}


def test_the_image_is_what_the_manifests_run() -> None:
    _, made = stages()
    said = {one.word: one.rest for one in made}
    assert said["USER"] == f"{USER}:{USER}"
    assert json.loads(said["ENTRYPOINT"]) == ["/opt/millrace/bin/python", "-m"]
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert not [one for one in made if one.word in ("ADD", "VOLUME")]
    assert [one.rest for one in made if one.word == "COPY"] == ["--from=build /opt/millrace /opt/millrace"]


def environment() -> dict[str, str]:
    _, made = stages()
    return dict(word.split("=", 1) for one in made if one.word == "ENV" for word in shlex.split(one.rest))


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


async def answer(container: Container, port: int, name: str, until: float) -> None:
    """Waits until health says SERVING under this name."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub, said = health_pb2_grpc.HealthStub(channel), "nothing"
        while time.monotonic() < until and container.outer.poll() is None:
            try:
                found = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=2)
            except grpc.aio.AioRpcError as error:
                said = str(error.details())
            else:
                if found.status == SERVING:
                    return
                said = str(found.status)
            await asyncio.sleep(0.05)
    raise AssertionError(f"port {port} said {said} under the name {name}")


@pytest.fixture
def started(image: Image, tmp_path: Path) -> Iterator[dict[str, tuple[Container, int, Path]]]:
    """The five, each with a home of its own, as the pods of a cluster have them: by service, with port and log."""
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "principals.json").write_text("{}")
    (settings / "token").write_text("a-token\n")
    *ports, page = free_ports(len(SERVICES) + 1)
    shared = {
        **environment(),
        "MILLRACE_PRINCIPALS_FILE": "/etc/millrace/principals.json",
        "MILLRACE_TOKEN_FILE": "/etc/millrace/token",
        "MILLRACE_STORAGE_TARGET": f"127.0.0.1:{ports[SERVICES.index('storage')]}",
        "MILLRACE_ANALYSIS_TARGET": f"127.0.0.1:{ports[SERVICES.index('analysis')]}",
        "MILLRACE_DRAIN_GRACE": "2s",
        "TMPDIR": "/tmp",
    }
    running: dict[str, tuple[Container, int, Path]] = {}
    for service, port in zip(SERVICES, ports, strict=True):
        home = tmp_path / "homes" / service
        home.mkdir(parents=True)
        os.chown(home, USER, USER)
        env = {**shared, f"MILLRACE_{service.upper()}_PORT": str(port)}
        if service == "viz":
            env["MILLRACE_VIZ_PAGE_PORT"] = str(page)
        _, made = stages()
        (entry,) = [json.loads(one.rest) for one in made if one.word == "ENTRYPOINT"]
        log = tmp_path / f"{service}.log"
        (tmp_path / f"roots-{service}").mkdir()
        container = run(
            tmp_path / f"roots-{service}", image.installed, settings, home, [*entry, f"svc_{service}"], env, log
        )
        running[service] = (container, port, log)
    yield running
    for container, _, _ in running.values():
        container.outer.kill()
        container.outer.wait()


@pytest.mark.needs("namespaces")
@pytest.mark.timeout(180)
async def test_the_five_serve_with_a_read_only_root_and_end_on_sigterm(
    started: dict[str, tuple[Container, int, Path]],
) -> None:
    until = time.monotonic() + 120
    for service, (container, port, log) in started.items():
        try:
            for name in ("startup", "liveness", "readiness", ""):
                await answer(container, port, name, until)
        except AssertionError as error:
            raise AssertionError(f"{service}: {error}\n{log.read_text()[-3000:]}") from error
        status = Path(f"/proc/{container.pid}/status").read_text()
        said = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert set(said["Uid"].split()) == set(said["Gid"].split()) == {str(USER)}
        assert (said["CapEff"], said["CapBnd"], said["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
        assert said["NSpid"].split()[-1] == "1"
        assert not any_writable(container.pid)
    for container, _, _ in started.values():
        os.kill(container.pid, signal.SIGTERM)
    for service, (container, _, log) in started.items():
        assert container.outer.wait(30) == 0, f"{service}: {log.read_text()[-3000:]}"


def any_writable(pid: int) -> list[str]:
    """Mounts that the process could write to, besides its volumes and the kernel's own."""
    mounts = [line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines()]
    return [
        where
        for _, where, kind, options, *_ in mounts
        if "rw" in options.split(",") and where not in ("/var/lib/millrace", "/tmp") and kind != "proc"
    ]
