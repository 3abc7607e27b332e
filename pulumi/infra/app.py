"""Millrace itself: the overlay of manifests/ and istio/ that the stack's store chooses, with this installation's names in it.

The overlays name an example (host, issuer, bucket, region, image); what is rendered gets the stack's names by one transform, so that no
overlay has to be written for each installation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pulumi_kubernetes as k8s
import yaml
from infra.settings import Settings

import pulumi

NAMESPACE = "millrace"
NO_DIGEST = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class AppArgs:
    settings: Settings
    provider: k8s.Provider
    folder: Path
    """app/<overlay>/kustomization.yaml"""
    namespace: pulumi.Resource
    role_arn: str
    """Of storage; empty where its tables are on a volume."""


class App(pulumi.ComponentResource):
    def __init__(self, name: str, args: AppArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("millrace:infra:App", name, None, opts)
        k8s.kustomize.v2.Directory(
            name,
            directory=str(args.folder),
            opts=pulumi.ResourceOptions(
                parent=self,
                provider=args.provider,
                depends_on=[args.namespace],
                transforms=[Localised(args.settings, args.role_arn)],
            ),
        )
        self.register_outputs({})


def namespace(base: Path, provider: k8s.Provider) -> k8s.core.v1.Namespace:
    """Of manifests/base, made before the rest: the Secrets lie in it, and no Deployment gets ready without them."""
    said = yaml.safe_load((base / "namespace.yaml").read_text())
    return k8s.core.v1.Namespace(NAMESPACE, metadata=said["metadata"], opts=pulumi.ResourceOptions(provider=provider))


class Localised:
    """The transform. Every text of every object, then the role of storage's account."""

    def __init__(self, settings: Settings, role_arn: str) -> None:
        self._role_arn = role_arn
        self._texts = {
            f"registry.example/millrace@{NO_DIGEST}": settings.image,
            "millrace.example.org": settings.host,
            "localhost:8443": f"{settings.host},{settings.host}:443",
            "issuer.example.org": urlsplit(settings.issuer).netloc,
            "millrace-example": settings.bucket("tables"),
            "millrace-example-archive": settings.bucket("archive"),
            "eu-central-1": settings.region,
        }
        longest_first = sorted(self._texts, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, longest_first)))

    def __call__(self, args: pulumi.ResourceTransformArgs) -> pulumi.ResourceTransformResult | None:
        if not args.type_.startswith("kubernetes:") or ":kustomize" in args.type_:
            return None
        props = self.text(dict(args.props))
        if self._role_arn and args.type_ == "kubernetes:core/v1:ServiceAccount" and _named(props, "storage"):
            annotations = {**props["metadata"].get("annotations", {}), "eks.amazonaws.com/role-arn": self._role_arn}
            props["metadata"] = {**props["metadata"], "annotations": annotations}
        return pulumi.ResourceTransformResult(props=props, opts=args.opts)

    def text(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._any.sub(lambda found: self._texts[found[0]], value)
        if isinstance(value, Mapping):
            return {key: self.text(one) for key, one in value.items()}
        if isinstance(value, Sequence):
            return [self.text(one) for one in value]
        return value


def _named(props: Mapping[str, Any], name: str) -> bool:
    return bool(props.get("metadata", {}).get("name") == name)
