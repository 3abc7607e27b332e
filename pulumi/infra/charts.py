"""Other people's charts, each by one exact version. Helm itself installs them (hooks, webhooks, waiting), and takes back what fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi_kubernetes as k8s

import pulumi

ISTIO = "https://istio-release.storage.googleapis.com/charts"
PINNED: dict[str, tuple[str, str]] = {
    "base": (ISTIO, "1.31.4"),
    "istiod": (ISTIO, "1.31.4"),
    "cni": (ISTIO, "1.31.4"),
    "gateway": (ISTIO, "1.31.4"),
    "cert-manager": ("https://charts.jetstack.io", "v1.16.2"),
    "k8ssandra-operator": ("https://helm.k8ssandra.io/stable", "1.20.2"),
    "prometheus-adapter": ("https://prometheus-community.github.io/helm-charts", "4.11.0"),
}
"""Chart → where it is, which version."""
_LIMIT_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartArgs:
    """`release`: its name in the cluster, the chart's own when empty."""

    chart: str
    namespace: pulumi.Input[str]
    values: Mapping[str, Any]
    release: str = ""


def install(name: str, args: ChartArgs, opts: pulumi.ResourceOptions) -> k8s.helm.v3.Release:
    repository, version = PINNED[args.chart]
    return k8s.helm.v3.Release(
        name,
        name=args.release or args.chart,
        chart=args.chart,
        version=version,
        repository_opts={"repo": repository},
        namespace=args.namespace,
        values=dict(args.values),
        atomic=True,
        timeout=_LIMIT_S,
        opts=opts,
    )
