"""The overlays as Kustomize prints them, and questions to their objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.codebase.tree import ROOT, SERVICES
from tools import infra_static

OVERLAYS = ("dev", "prod-s3", "prod-cassandra")
MANIFESTS = ROOT / "manifests"
NAME = "app.kubernetes.io/name"
Object = Mapping[str, Any]


def build(folder: Path) -> list[Object]:
    """What an overlay, or any other Kustomize folder, sends to the cluster. Raises RuntimeError where it is wrong, or deprecated."""
    return infra_static.build(folder)


@cache
def overlay(name: str) -> list[Object]:
    return build(MANIFESTS / "overlays" / name)


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """By name."""
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


@dataclass(frozen=True, slots=True)
class Pod:
    """The pod of one service's Deployment. `app`: its container."""

    service: str
    deployment: Object

    @property
    def template(self) -> Object:
        found: Object = self.deployment["spec"]["template"]
        return found

    @property
    def spec(self) -> Object:
        found: Object = self.template["spec"]
        return found

    @property
    def labels(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.template["metadata"]["labels"]
        return found

    @property
    def app(self) -> Object:
        (found,) = [one for one in self.spec["containers"] if one["name"] == "app"]
        return dict(found)

    @property
    def env(self) -> dict[str, str]:
        """Values only: a setting by reference would be a secret in the environment, and there is none."""
        return {one["name"]: one["value"] for one in self.app["env"]}

    @property
    def ports(self) -> dict[str, int]:
        return {one["name"]: one["containerPort"] for one in self.app["ports"]}

    def volume_at(self, path: str) -> Object | None:
        """The volume whose mount holds `path`."""
        volumes = {one["name"]: one for one in self.spec["volumes"]}
        mounts = sorted(self.app["volumeMounts"], key=lambda mount: -len(mount["mountPath"]))
        for mount in mounts:
            if path == mount["mountPath"] or path.startswith(mount["mountPath"] + "/"):
                found: Object = volumes[mount["name"]]
                return found
        return None


def pods(objects: list[Object]) -> Iterator[Pod]:
    deployments = of_kind(objects, "Deployment")
    for service in SERVICES:
        yield Pod(service, deployments[service])


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """A label selector of Kubernetes, as far as these manifests use them: all of matchLabels and of `In` expressions."""
    for expression in selector.get("matchExpressions") or ():
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(name) == value for name, value in (selector.get("matchLabels") or {}).items())
