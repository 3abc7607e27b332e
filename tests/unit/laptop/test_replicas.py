"""Several replicas on a laptop: ports, targets, what is said when they cannot share a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.laptop import backing, ports
from millrace.laptop.failure import UpFailed
from millrace.laptop.home import AREAS, Endpoints, Home, read_endpoints
from millrace.laptop.supervisor import Supervisor


def test_each_replica_has_ports_of_its_own() -> None:
    held = ports.bind(0, 3)
    try:
        assert len(set(held.numbers.values())) == 1 + 3 * len(AREAS)
        addresses = held.addresses("storage")
        assert addresses == tuple(held.target(name) for name in ("storage", "storage-2", "storage-3"))
        assert held.service("storage") == f"ipv4:{','.join(addresses)}"
    finally:
        held.close()


def test_one_replica_is_a_plain_target() -> None:
    held = ports.bind(0)
    try:
        assert held.service("storage") == held.target("storage")
    finally:
        held.close()


@pytest.mark.parametrize(
    ("backend", "replicas", "servers", "meant"),
    [("", 1, False, "local"), ("memory", 1, False, "memory"), ("s3", 3, True, "s3"), ("cassandra", 2, False, "cassandra")],
)  # fmt: skip
def test_what_fits_together(
    monkeypatch: pytest.MonkeyPatch, backend: str, replicas: int, servers: bool, meant: str
) -> None:
    monkeypatch.delenv("MILLRACE_STORAGE_BACKEND", raising=False)
    assert backing.check(backend, replicas, servers) == meant
    monkeypatch.setenv("MILLRACE_STORAGE_BACKEND", "s3")
    assert backing.check("", 2, False) == "s3"


@pytest.mark.parametrize(
    ("backend", "replicas", "servers"), [("local", 2, False), ("memory", 2, True), ("local", 1, True)]
)
def test_what_does_not_is_one_line(backend: str, replicas: int, servers: bool) -> None:
    with pytest.raises(UpFailed) as failed:
        backing.check(backend, replicas, servers)
    assert "\n" not in failed.value.message
    assert "BACKEND=s3" in failed.value.hint


def test_every_process_knows_all_replicas_and_its_own_port(home: Path) -> None:
    place = Home(home)
    place.prepare()
    held = ports.bind(0, 2)
    try:
        made = Supervisor(
            place, held, dict.fromkeys(AREAS, "m"), print, replicas=2, storage_env={"MILLRACE_STORAGE_BACKEND": "s3"}
        )
        recipes = {name: child.recipe for name, child in made._children.items()}
        assert len(recipes) == 2 * len(AREAS)
        second = recipes["storage-2"]
        assert second.env["MILLRACE_STORAGE_PORT"] == str(held.numbers["storage-2"])
        assert second.env["MILLRACE_STORAGE_BACKEND"] == "s3"
        assert second.log.name == "storage-2.log"
        assert recipes["extract"].env["MILLRACE_STORAGE_TARGET"] == held.service("storage")
        assert recipes["viz"].env["MILLRACE_VIZ_PAGE_PORT"] == str(held.numbers["page"])
        assert recipes["viz-2"].env["MILLRACE_VIZ_PAGE_PORT"] == "0"
        spools = [recipes[name].env.get("MILLRACE_TRANSFORM_SPOOL_DIR") for name in ("transform", "transform-2")]
        assert spools[0] != spools[1]
        said = made.endpoints()
        assert said.replicas["storage"] == held.addresses("storage")
    finally:
        held.close()


def test_replicas_come_back_as_written(home: Path) -> None:
    replicas = {"viz": ["127.0.0.1:1", "127.0.0.1:2"]}
    written = Endpoints({"viz": "ipv4:127.0.0.1:1,127.0.0.1:2"}, "u", home / "t", 7, home, {}, replicas)
    written.write()
    assert read_endpoints(home) == written
