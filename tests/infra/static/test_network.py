"""Network policies: nothing but the edges of the call graph, the store, and what every pod needs."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import yaml

from tests.codebase.tree import ROOT
from tests.infra.rendered import OVERLAYS, Object, of_kind, overlay, pods, selects

pytestmark = pytest.mark.parametrize("name", OVERLAYS)

DEBUG = {"podSelector": {"matchLabels": {"run": "debug"}}}
"""A person's pod; not one of the overlay's."""
Edge = tuple[str, str, int]
"""Who calls whom, at which port."""


def rules(objects: list[Object], service: str, direction: str) -> Iterable[Object]:
    """The rules for the pods of one service: `ingress` or `egress`."""
    (labels,) = [pod.labels for pod in pods(objects) if pod.service == service]
    for policy in of_kind(objects, "NetworkPolicy").values():
        if selects(policy["spec"]["podSelector"], labels):
            yield from policy["spec"].get(direction) or ()


def edges(objects: list[Object], direction: str) -> set[Edge]:
    """Between the services, as one side's policies have them."""
    found = set()
    side = "from" if direction == "ingress" else "to"
    labels = {pod.service: pod.labels for pod in pods(objects)}
    for service in labels:
        for rule in rules(objects, service, direction):
            for peer in rule[side]:
                if set(peer) == {"podSelector"}:
                    others = [other for other in labels if selects(peer["podSelector"], labels[other])]
                    assert others or peer == DEBUG, peer
                    ends = [(other, service) if direction == "ingress" else (service, other) for other in others]
                    found |= {(*end, port["port"]) for end in ends for port in rule["ports"]}
    return found


def test_both_sides_have_the_edges_of_the_call_graph(name: str) -> None:
    objects = overlay(name)
    ports = {pod.service: pod.ports["grpc"] for pod in pods(objects)}
    incoming, outgoing = edges(objects, "ingress"), edges(objects, "egress")
    assert incoming == outgoing
    assert len(incoming) == 6
    assert all(port == ports[callee] for _, callee, port in incoming)
    graph = ROOT / "istio" / "callgraph.yaml"
    wanted = {
        (caller, callee)
        for caller, callees in yaml.safe_load(graph.read_text())["callers"].items()
        if caller in ports
        for callee in callees
        if callee in ports
    }
    assert {(caller, callee) for caller, callee, _ in incoming} == wanted


def test_settings_and_policies_name_the_same_peers(name: str) -> None:
    objects = overlay(name)
    targets = {
        (pod.service, value.split(".")[0])
        for pod in pods(objects)
        for setting, value in pod.env.items()
        if setting.endswith("_TARGET")
    }
    assert targets | {("storage", "storage")} == {(caller, callee) for caller, callee, _ in edges(objects, "egress")}


def test_everything_else_is_denied(name: str) -> None:
    denied = of_kind(overlay(name), "NetworkPolicy")["deny-all"]["spec"]
    assert denied == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in of_kind(overlay(name), "NetworkPolicy").values():
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction) or ():
                assert all((rule.get("ports"), rule.get(side))), policy["metadata"]["name"]


def test_what_every_pod_reaches(name: str) -> None:
    common = of_kind(overlay(name), "NetworkPolicy")["every-pod"]["spec"]
    assert common["podSelector"] == {}
    assert [port["port"] for rule in common["egress"] for port in rule["ports"]] == [53, 53, 15012, 4317]
    assert [port["port"] for rule in common["ingress"] for port in rule["ports"]] == [15020]


STORES = {
    "dev": {},
    "prod-s3": {"to-s3": {"storage", "transform", "analysis"}},
    "prod-cassandra": {"to-cassandra": {"storage"}},
}
"""Which policy lets which services out to a store."""


def test_who_reaches_a_store(name: str) -> None:
    objects = overlay(name)
    found = {
        policy: {pod.service for pod in pods(objects) if selects(one["spec"]["podSelector"], pod.labels)}
        for policy, one in of_kind(objects, "NetworkPolicy").items()
        if policy.startswith("to-")
    }
    assert found == {**STORES[name], "to-issuer": {pod.service for pod in pods(objects)}}


def test_the_world_is_reached_at_one_port_and_without_a_nodes_metadata(name: str) -> None:
    open_rules = [
        rule
        for pod in pods(overlay(name))
        for rule in rules(overlay(name), pod.service, "egress")
        if any("ipBlock" in peer for peer in rule["to"])
    ]
    assert open_rules
    for rule in open_rules:
        assert [port["port"] for port in rule["ports"]] == [443]
        assert all("169.254.0.0/16" in peer["ipBlock"]["except"] for peer in rule["to"])


def test_only_the_gateway_comes_in_from_elsewhere(name: str) -> None:
    spaces = {
        (peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], port["port"])
        for pod in pods(overlay(name))
        for rule in rules(overlay(name), pod.service, "ingress")
        for peer in rule["from"]
        if "namespaceSelector" in peer
        for port in rule["ports"]
    }
    assert spaces == {("millrace-telemetry", 15020), ("istio-ingress", "grpc"), ("istio-ingress", "http-page")}
