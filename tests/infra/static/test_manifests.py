"""Every overlay: restricted pods by digest, probed under their own names, drained in time, spread, budgeted and scaled."""

from __future__ import annotations

import re

import pytest

from millrace.server import health
from millrace.server.bootstrap import HANG_LIMIT_S
from millrace.server.settings import Env
from tests.codebase.tree import SERVICES
from tests.infra.rendered import NAME, OVERLAYS, Object, Pod, of_kind, overlay, pods, selects

pytestmark = pytest.mark.parametrize("name", OVERLAYS)

USER = 10001
PORTS = {"extract": 7401, "storage": 7402, "transform": 7403, "analysis": 7404, "viz": 7405}


def seconds(pod: Pod, setting: str) -> float:
    return Env(pod.env, "MILLRACE_").duration_ms(setting, 0) / 1000


def gib(quantity: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) / (1024 if unit == "Mi" else 1)


def test_there_are_five_services_and_nothing_that_is_not_namespaced(name: str) -> None:
    objects = overlay(name)
    assert set(of_kind(objects, "Deployment")) == set(SERVICES)
    for one in objects:
        if one["kind"] not in ("Namespace", "PriorityClass"):
            assert one["metadata"]["namespace"] == "millrace", one["metadata"]
    (namespace,) = of_kind(objects, "Namespace").values()
    labels = namespace["metadata"]["labels"]
    assert labels["istio-injection"] == "enabled"
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_pods_are_restricted(name: str) -> None:
    for pod in pods(overlay(name)):
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == USER
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        own = pod.app["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert pod.spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.spec)
        account = of_kind(overlay(name), "ServiceAccount")[pod.spec["serviceAccountName"]]
        assert account["metadata"]["name"] == pod.service
        assert account["automountServiceAccountToken"] is False


def test_the_image_is_named_by_digest(name: str) -> None:
    for pod in pods(overlay(name)):
        assert re.fullmatch(r"[^@:]+@sha256:[0-9a-f]{64}", pod.app["image"]), pod.app["image"]
        assert pod.app["args"] == [f"svc_{pod.service}"]


def test_every_scratch_volume_is_limited(name: str) -> None:
    for pod in pods(overlay(name)):
        scratch = [one["emptyDir"] for one in pod.spec["volumes"] if "emptyDir" in one]
        assert len(scratch) == 2
        limit = gib(pod.app["resources"]["limits"]["ephemeral-storage"])
        assert sum(gib(one["sizeLimit"]) for one in scratch) <= limit, pod.service


def test_what_may_be_spilled_fits(name: str) -> None:
    for pod in pods(overlay(name)):
        wanted = sum(
            int(value) for setting, value in pod.env.items() if setting.endswith(("SPILL_MB", "STREAM_MB", "CACHE_MB"))
        )
        home = pod.volume_at("/var/lib/millrace")
        assert home is not None
        assert wanted / 1024 < gib(home["emptyDir"]["sizeLimit"]), pod.service
        memory = [int(value) for setting, value in pod.env.items() if setting.endswith("MEMORY_MB")]
        assert all(part / 1024 <= 0.6 * gib(pod.app["resources"]["limits"]["memory"]) for part in memory), pod.service


def test_probes_ask_under_names_that_the_services_serve(name: str) -> None:
    names = {"startupProbe": health.STARTUP, "readinessProbe": health.READINESS, "livenessProbe": health.LIVENESS}
    assert len(set(names.values())) == 3
    for pod in pods(overlay(name)):
        assert pod.ports["grpc"] == PORTS[pod.service]
        for probe, service in names.items():
            assert pod.app[probe]["grpc"] == {"port": pod.ports["grpc"], "service": service}
        startup = pod.app["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 120


def test_a_drain_fits_into_the_grace_period(name: str) -> None:
    for pod in pods(overlay(name)):
        before = pod.app["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert before == 10
        assert (seconds(pod, "DRAIN_LEAD"), seconds(pod, "DRAIN_GRACE")) == (5, 30)
        limit = before + seconds(pod, "DRAIN_LEAD") + seconds(pod, "DRAIN_GRACE") + HANG_LIMIT_S
        assert limit < pod.spec["terminationGracePeriodSeconds"] == 75
        assert pod.env["MILLRACE_MAX_CONNECTION_AGE"] == "0"


def test_replicas_are_spread_and_replaced_one_by_one(name: str) -> None:
    for pod in pods(overlay(name)):
        zone, host = pod.spec["topologySpreadConstraints"]
        assert (zone["topologyKey"], host["topologyKey"]) == ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        assert all(selects(one["labelSelector"], pod.labels) and one["maxSkew"] == 1 for one in (zone, host))
        assert zone["labelSelector"]["matchLabels"][NAME] == pod.service
        if name != "dev":
            assert zone["whenUnsatisfiable"] == "DoNotSchedule"
            rolling = pod.deployment["spec"]["strategy"]
            assert rolling == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def matching(objects: list[Object], kind: str, pod: Pod) -> list[Object]:
    found = of_kind(objects, kind).values()
    return [one for one in found if selects(one["spec"]["selector"], pod.labels)]


def test_disruptions_are_bounded(name: str) -> None:
    for pod in pods(overlay(name)):
        (budget,) = matching(overlay(name), "PodDisruptionBudget", pod)
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_autoscaler_owns_the_replicas(name: str) -> None:
    for pod in pods(overlay(name)):
        assert "replicas" not in pod.deployment["spec"]
        scaler = of_kind(overlay(name), "HorizontalPodAutoscaler")[pod.service]["spec"]
        assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": pod.service}
        cpu = scaler["metrics"][0]["containerResource"]
        assert (cpu["container"], cpu["target"]["averageUtilization"]) == ("app", 70)
        assert "cpu" in pod.app["resources"]["requests"]
        assert (scaler["minReplicas"], scaler["maxReplicas"]) == ((1, 1) if name == "dev" else (3, 20))
        lag = [one["external"]["target"]["value"] for one in scaler["metrics"][1:]]
        assert lag == (["30"] if name != "dev" and pod.service in ("extract", "transform") else [])


def test_services_say_that_they_speak_grpc(name: str) -> None:
    services = of_kind(overlay(name), "Service")
    assert set(services) == {*SERVICES, "viz-page", "storage-replicas"}
    for pod in pods(overlay(name)):
        (port,) = services[pod.service]["spec"]["ports"]
        assert port == {"name": "grpc", "port": PORTS[pod.service], "targetPort": "grpc", "appProtocol": "grpc"}
        assert selects({"matchLabels": services[pod.service]["spec"]["selector"]}, pod.labels)
    assert services["storage-replicas"]["spec"]["clusterIP"] == "None"
    assert services["viz-page"]["spec"]["selector"][NAME] == "viz"
