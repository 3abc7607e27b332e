"""The static check of the overlays: they pass, and each planted fault fails it by name."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.codebase.tree import ROOT
from tools import infra_rules, infra_static

Change = Callable[[dict[str, Any]], None]
OVERLAYS = [f"{where}/overlays/{name}" for where in ("manifests", "istio") for name in infra_static.OVERLAYS]


@cache
def built(overlay: str) -> list[infra_rules.Object]:
    return infra_static.build(ROOT / overlay)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_passes(overlay: str) -> None:
    assert len(built(overlay)) > 30
    assert infra_static.faults(built(overlay)) == []


def spec(one: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = one["spec"]["template"]["spec"]
    return found


def unknown_field(one: dict[str, Any]) -> None:
    spec(one)["containers"][0]["readOnly"] = True


def unknown_istio_field(one: dict[str, Any]) -> None:
    one["spec"]["http"][0]["retries"]["attempt"] = 1


def strictt(one: dict[str, Any]) -> None:
    one["spec"]["mtls"]["mode"] = "STRICTT"


def permissive(one: dict[str, Any]) -> None:
    one["spec"]["mtls"]["mode"] = "PERMISSIVE"


def plaintext(one: dict[str, Any]) -> None:
    one["spec"]["trafficPolicy"]["tls"]["mode"] = "DISABLE"


def writable_root(one: dict[str, Any]) -> None:
    spec(one)["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False


def as_root(one: dict[str, Any]) -> None:
    spec(one)["securityContext"]["runAsNonRoot"] = False
    spec(one)["containers"][0]["securityContext"].pop("runAsNonRoot", None)


def repeated_append(one: dict[str, Any]) -> None:
    route = next(r for r in one["spec"]["http"] if "AppendRows" in str(r))
    route["retries"] = {"attempts": 2, "retryOn": "unavailable"}


def silent_route(one: dict[str, Any]) -> None:
    one["spec"]["http"][-1].pop("retries")


def anyone(one: dict[str, Any]) -> None:
    one["spec"]["rules"][0]["from"][0]["source"]["principals"] = ["*"]


def nobody_named(one: dict[str, Any]) -> None:
    one["spec"]["rules"][0].pop("from")


@pytest.mark.parametrize(
    ("overlay", "kind", "name", "plant", "said"),
    [
        ("manifests", "Deployment", "storage", unknown_field, "'readOnly' was unexpected"),
        ("manifests", "Deployment", "storage", writable_root, "writable root"),
        ("manifests", "Deployment", "storage", as_root, "runAsNonRoot must be true"),
        pytest.param("istio", "VirtualService", "storage", unknown_istio_field, "'attempt' was unexpected"),
        pytest.param("istio", "PeerAuthentication", "default", strictt, "'STRICTT' is not one of"),
        ("istio", "PeerAuthentication", "default", permissive, "mode PERMISSIVE: only STRICT"),
        ("istio", "DestinationRule", "storage", plaintext, "tls.mode must be ISTIO_MUTUAL"),
        (
            "istio",
            "VirtualService",
            "storage",
            repeated_append,
            "retries /millrace.storage.v1.StorageService/AppendRows 2",
        ),
        ("istio", "VirtualService", "storage", silent_route, "inherits two"),
        ("istio", "AuthorizationPolicy", "storage-from-viz", anyone, "wildcard principal '*'"),
        ("istio", "AuthorizationPolicy", "storage-from-viz", nobody_named, "lets everybody in"),
    ],
)
def test_a_planted_fault_fails_by_name(overlay: str, kind: str, name: str, plant: Change, said: str) -> None:
    objects = copy.deepcopy(built(f"{overlay}/overlays/prod-s3"))
    (one,) = (found for found in objects if found["kind"] == kind and found["metadata"]["name"] == name)
    plant(one)  # type: ignore[arg-type]
    found = infra_static.faults(objects)
    assert any(line.startswith(f"{kind}/{name}: ") and said in line for line in found), found


def test_a_missing_budget_fails_by_name() -> None:
    objects = [
        one
        for one in built("manifests/overlays/prod-s3")
        if infra_rules.name_of(one) != "PodDisruptionBudget/transform"
    ]
    assert [line for line in infra_static.faults(objects) if "PDB" in line] == [
        "Deployment/transform: missing PDB: exactly one PodDisruptionBudget must select its pods"
    ]


@pytest.mark.parametrize(
    ("statement", "faults"),
    [
        ({"Action": ["s3:GetObject"], "Resource": "arn:aws:s3:::b/*"}, 0),
        ({"Action": "*", "Resource": "arn:aws:s3:::b/*"}, 1),
        ({"Action": "s3:*", "Resource": ["*"]}, 2),
        ({"NotAction": "iam:*", "Resource": "arn:aws:s3:::b"}, 1),
    ],
)
def test_a_wide_policy_of_aws_fails_by_name(statement: dict[str, Any], faults: int) -> None:
    found = list(infra_rules.iam_is_exact({"Statement": [{"Effect": "Allow", **statement}]}, "p.json"))
    assert len(found) == faults
    assert all(line.startswith("p.json: IAM ") for line in found)


def test_a_wrong_workflow_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert infra_static.workflow_faults() == []
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    (folder / "bad.yml").write_text("on: push\njobs: {a: {runs-on: x, stepz: []}}\n")
    monkeypatch.setattr(infra_static, "ROOT", tmp_path)
    assert "bad.yml" in "\n".join(infra_static.workflow_faults())


def test_the_whole_check_is_quick() -> None:
    started = time.monotonic()
    run = subprocess.run(
        [sys.executable, "tools/infra_static.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout
    assert run.stdout.count(" ok\n") == len(OVERLAYS) + 3
    assert time.monotonic() - started < 60
