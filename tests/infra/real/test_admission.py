"""The real API server takes every overlay without a warning, and the pods of its Deployments under `restricted`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.codebase.tree import SERVICES
from tests.infra.real.ground import Ground
from tests.infra.rendered import OVERLAYS, Object, Pod, overlay, pods

DRY = ("--dry-run=server", "--warnings-as-errors", "-f", "-")


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_is_taken_without_a_warning(ground: Ground, name: str) -> None:
    objects = overlay(name)
    answer = ground.kubectl("apply", "--server-side", "--validate=strict", *DRY, objects=objects)
    assert answer.returncode == 0, answer.stderr
    assert not answer.stderr
    assert len(answer.stdout.splitlines()) == len(objects)


def test_an_unknown_field_is_refused(ground: Ground) -> None:
    (deployment,) = [copy.deepcopy(pod.deployment) for pod in pods(overlay("dev")) if pod.service == "viz"]
    deployment["spec"]["template"]["spec"]["restartPolice"] = "Always"
    answer = ground.kubectl("apply", "--server-side", "--validate=strict", *DRY, objects=[deployment])
    assert answer.returncode != 0
    assert "restartPolice" in answer.stderr


def pod_of(pod: Pod) -> dict[str, Any]:
    """The Pod that the Deployment's controllers would make: only its own admission enforces the standard."""
    template = copy.deepcopy(dict(pod.template))
    metadata = {**template["metadata"], "name": f"{pod.service}-tried", "namespace": "millrace"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def tried(ground: Ground, one: Object) -> str:
    """Empty when it is admitted."""
    answer = ground.kubectl("create", *DRY, objects=[one])
    return answer.stderr if answer.returncode else ""


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_are_admitted_under_restricted(ground: Ground, name: str) -> None:
    for pod in pods(overlay(name)):
        assert not (said := tried(ground, pod_of(pod))), said


def as_root(spec: dict[str, Any]) -> None:
    spec["securityContext"]["runAsNonRoot"] = False


def with_capability(spec: dict[str, Any]) -> None:
    spec["containers"][0]["securityContext"]["capabilities"]["add"] = ["NET_ADMIN"]


def without_seccomp(spec: dict[str, Any]) -> None:
    del spec["securityContext"]["seccompProfile"]


@pytest.mark.parametrize("plant", [as_root, with_capability, without_seccomp])
@pytest.mark.parametrize("service", SERVICES)
def test_less_is_refused(ground: Ground, service: str, plant: Callable[[dict[str, Any]], None]) -> None:
    (pod,) = [pod for pod in pods(overlay("prod-s3")) if pod.service == service]
    wanted = pod_of(pod)
    plant(wanted["spec"])
    assert 'violates PodSecurity "restricted:latest"' in tried(ground, wanted)
