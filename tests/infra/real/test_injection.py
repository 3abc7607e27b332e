"""Pods as Istio's injector leaves them, with our values: admitted under `restricted` beside Istio's CNI, refused without it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.codebase.tree import ROOT
from tests.infra.real.ground import Ground, program
from tests.infra.real.test_admission import pod_of, tried
from tests.infra.rendered import OVERLAYS, Pod, overlay, pods

VALUES = ROOT / "istio" / "base" / "meshconfig.yaml"
GENERATE_LIMIT_S = 120


def templates(folder: Path, *, cni: bool) -> Path:
    """What Istio's chart makes of our values: the injector's template and values, and the mesh's settings, in files of `folder`."""
    values = yaml.safe_load(VALUES.read_text())
    assert values["pilot"]["cni"]["enabled"] is True
    values["pilot"]["cni"]["enabled"] = cni
    spec = {"profile": "minimal", "components": {"cni": {"enabled": cni}}, "values": values}
    operator = folder / "operator.yaml"
    operator.write_text(
        yaml.safe_dump({"apiVersion": "install.istio.io/v1alpha1", "kind": "IstioOperator", "spec": spec})
    )
    istioctl = program("istioctl")
    answer = subprocess.run(
        [istioctl, "manifest", "generate", "--manifests", istioctl.parent, "-f", operator],
        capture_output=True, text=True, check=False, timeout=GENERATE_LIMIT_S,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    maps = {
        one["metadata"]["name"]: one["data"]
        for one in yaml.load_all(answer.stdout, loader)
        if one and one["kind"] == "ConfigMap"
    }
    (folder / "config").write_text(maps["istio-sidecar-injector"]["config"])
    (folder / "values").write_text(maps["istio-sidecar-injector"]["values"])
    (folder / "mesh").write_text(maps["istio"]["mesh"])
    return folder


def injected(ground: Ground, made: Path, name: str) -> list[Pod]:
    """The pods of an overlay after the injector."""
    given = made / f"{name}.yaml"
    given.write_text(yaml.safe_dump_all([json.loads(json.dumps(pod.deployment)) for pod in pods(overlay(name))]))
    command = [
        *(str(program("istioctl")), "kube-inject", f"--kubeconfig={ground.kubeconfig}", "-f", str(given)),
        *("--injectConfigFile", str(made / "config"), "--valuesFile", str(made / "values")),
        *("--meshConfigFile", str(made / "mesh")),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0, answer.stderr
    return list(pods([one for one in yaml.safe_load_all(answer.stdout) if one]))


@pytest.fixture(scope="module")
def beside_cni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return templates(tmp_path_factory.mktemp("cni"), cni=True)


@pytest.fixture(scope="module")
def without_cni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return templates(tmp_path_factory.mktemp("none"), cni=False)


def beside(pod: Pod) -> dict[str, dict[str, Any]]:
    """What the injector added that runs before the service, by name."""
    return {one["name"]: one for one in pod.spec["initContainers"]}


@pytest.mark.parametrize("name", OVERLAYS)
def test_injected_pods_are_admitted(ground: Ground, beside_cni: Path, name: str) -> None:
    for pod in injected(ground, beside_cni, name):
        assert not (said := tried(ground, pod_of(pod))), said


def test_the_sidecar_starts_before_the_service_and_ends_after_it(ground: Ground, beside_cni: Path) -> None:
    for pod in injected(ground, beside_cni, "prod-s3"):
        assert beside(pod)["istio-proxy"]["restartPolicy"] == "Always"
        assert [one["name"] for one in pod.spec["containers"]] == ["app"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_without_the_cni_they_are_refused(ground: Ground, without_cni: Path, name: str) -> None:
    for pod in injected(ground, without_cni, name):
        said = tried(ground, pod_of(pod))
        assert 'violates PodSecurity "restricted:latest"' in said
        assert "istio-init" in said
        assert "NET_ADMIN" in said
