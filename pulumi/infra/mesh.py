"""Istio: its control plane, the CNI node agent (pods stay restricted), and the gateway's pods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi_kubernetes as k8s
import yaml
from infra import charts

import pulumi

SYSTEM, INGRESS = "istio-system", "istio-ingress"
_REPLICAS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshArgs:
    """`values`: the file istio/base/meshconfig.yaml, the same that the tests' istiod runs with."""

    provider: k8s.Provider
    values: Path
    gateway_cidrs: Sequence[str]
    small: bool
    """One pod of each instead of three."""


class Mesh(pulumi.ComponentResource):
    ready: list[pulumi.Resource]
    """What must be there before an object of Istio's kinds."""

    def __init__(self, name: str, args: MeshArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("millrace:infra:Mesh", name, None, opts)
        self._provider = args.provider
        self._values = yaml.safe_load(args.values.read_text())
        self._scale = 1 if args.small else _REPLICAS
        # CNI changes nodes, so its namespace is privileged; the gateway's pods are as restricted as ours.
        system, ingress = self._namespace(SYSTEM, "privileged"), self._namespace(INGRESS, "restricted")
        base = self._chart("base", SYSTEM, {"defaultRevision": "default"}, [system])
        control = self._chart("istiod", SYSTEM, self._control(), [base])
        node = self._chart("cni", SYSTEM, {}, [base])
        gateway = self._chart(
            "gateway", INGRESS, self._gateway(args.gateway_cidrs), [control, node, ingress], "istio-ingress"
        )
        self.ready = [control, node, gateway]
        self.register_outputs({})

    def _namespace(self, name: str, level: str) -> k8s.core.v1.Namespace:
        return k8s.core.v1.Namespace(
            name,
            metadata={"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}},
            opts=self._child([]),
        )

    def _chart(
        self, chart: str, namespace: str, values: Mapping[str, Any], after: list[pulumi.Resource], release: str = ""
    ) -> k8s.helm.v3.Release:
        args = charts.ChartArgs(chart=chart, namespace=namespace, values=values, release=release)
        return charts.install(f"istio-{chart}", args, self._child(after))

    def _control(self) -> Mapping[str, Any]:
        pilot = {**self._values.get("pilot", {}), "autoscaleMin": self._scale, "autoscaleMax": self._scale + 2}
        return {**self._values, "pilot": pilot}

    def _gateway(self, cidrs: Sequence[str]) -> Mapping[str, Any]:
        return {
            "service": {
                "type": "LoadBalancer",
                "annotations": {
                    "service.beta.kubernetes.io/aws-load-balancer-type": "nlb",
                    "service.beta.kubernetes.io/aws-load-balancer-cross-zone-load-balancing-enabled": "true",
                },
                "externalTrafficPolicy": "Local",
                "loadBalancerSourceRanges": list(cidrs),
                "ports": [{"name": "https", "port": 443, "targetPort": 443}],
            },
            "autoscaling": {"minReplicas": self._scale, "maxReplicas": self._scale + 7},
            "podDisruptionBudget": {"maxUnavailable": 1},
        }

    def _child(self, after: list[pulumi.Resource]) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self, provider=self._provider, depends_on=after)
