"""What the manifests set is what the services read, with values that they accept."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from millrace.server.config import ServerSettings
from millrace.server.settings import SettingsError
from tests.codebase.tree import SERVICES
from tests.infra.rendered import OVERLAYS, Pod, overlay, pods

OTHERS = {"TMPDIR"}
"""Read by Python's own library."""
NAMES_FILES = ("_FILE", "_CA", "_CERT", "_KEY")


class Watched(dict[str, str]):
    """An environment that remembers which names it was asked for; copying it asks for none."""

    def __init__(self, env: Mapping[str, str]) -> None:
        super().__init__(env)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.asked.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def faults(service: str, env: Mapping[str, str]) -> list[str]:
    """What the service says about this environment at its start, and the names that it never looks at."""
    watched = Watched(env)
    said: dict[str, None] = {}
    for read in (
        lambda: ServerSettings.from_env(service, watched),
        lambda: importlib.import_module(f"svc_{service}.config").Settings.from_env(watched),
    ):
        try:
            read()
        except SettingsError as error:
            said.update(dict.fromkeys(error.faults))
    said.update({f"{name} is read by nobody": None for name in env if name not in watched.asked | OTHERS})
    return list(said)


def on_this_machine(pod: Pod, folder: Path) -> dict[str, str]:
    """The pod's environment, with the files that it names made below `folder`."""
    env = dict(pod.env)
    for name, value in env.items():
        if name.endswith(NAMES_FILES) and value.startswith("/"):
            assert pod.volume_at(value) is not None, f"{name} names {value}, where nothing is mounted"
            path = folder / value.removeprefix("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
            env[name] = str(path)
    return env


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_setting_is_one_that_the_service_reads(name: str, tmp_path: Path) -> None:
    seen = 0
    for pod in pods(overlay(name)):
        env = on_this_machine(pod, tmp_path)
        assert not (found := faults(pod.service, env)), found
        seen += len(env)
    assert seen > 40, seen


@pytest.mark.parametrize("service", SERVICES)
def test_a_wrong_setting_is_found(service: str, tmp_path: Path) -> None:
    (pod,) = [pod for pod in pods(overlay("prod-s3")) if pod.service == service]
    env = on_this_machine(pod, tmp_path)
    own = f"MILLRACE_{service.upper()}_WINDOW"
    assert any(own in fault for fault in faults(service, {**env, own: "1"}))
    assert faults(service, {**env, "MILLRACE_DRAIN_LAED": "5s"}) == ["MILLRACE_DRAIN_LAED is read by nobody"]
    assert any("DRAIN_GRACE" in fault for fault in faults(service, {**env, "MILLRACE_DRAIN_GRACE": "soon"}))


@pytest.mark.parametrize("name", OVERLAYS)
def test_targets_are_services_that_exist(name: str) -> None:
    objects = overlay(name)
    offered = {
        f"{one['metadata']['name']}.{one['metadata']['namespace']}:{port['port']}"
        for one in objects
        if one["kind"] == "Service"
        for port in one["spec"]["ports"]
    }
    named = {
        value
        for pod in pods(objects)
        for setting, value in pod.env.items()
        if setting.endswith(("_TARGET", "_AUTHORITY"))
    }
    assert named
    assert named <= offered, named - offered


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_processes_write_is_a_volume_of_theirs(name: str) -> None:
    """The root is read-only, so every folder that a setting names is mounted."""
    for pod in pods(overlay(name)):
        for setting, value in pod.env.items():
            if setting.endswith(("_HOME", "_DIR", "TMPDIR", "_ROOTS")) and not setting.endswith("FILE_ROOTS"):
                assert pod.volume_at(value) is not None, f"{pod.service}: {setting}={value}"


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_secret_is_in_the_environment(name: str) -> None:
    for pod in pods(overlay(name)):
        assert not pod.app.get("envFrom")
        for entry in pod.app["env"]:
            assert "valueFrom" not in entry, entry
            if "PASSWORD" in entry["name"] or "SECRET_KEY" in entry["name"]:
                assert entry["value"].startswith("file:/"), entry["name"]
