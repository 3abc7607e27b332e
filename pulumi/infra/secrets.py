"""The Secrets that manifests/ refers to: each service's token, who may call, and the page's key. Made once, kept encrypted in the state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi_kubernetes as k8s
import pulumi_random as random

import pulumi

SERVICES = ("extract", "storage", "transform", "analysis", "viz")
_LENGTH = 43
"""Letters and digits, 256 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsArgs:
    provider: k8s.Provider
    namespace: pulumi.Input[str]


class Secrets(pulumi.ComponentResource):
    """People come with tokens of the issuer; only the five services have tokens of this kind."""

    made: list[pulumi.Resource]

    def __init__(self, name: str, args: SecretsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("millrace:infra:Secrets", name, None, opts)
        self._args = args
        tokens = {service: self._random(service) for service in SERVICES}
        principals = pulumi.Output.all(**tokens).apply(principals_file)
        self.made = [self._secret(f"millrace-{service}", {"token": token}) for service, token in tokens.items()]
        self.made += [
            self._secret("millrace-principals", {"principals.json": principals}),
            self._secret("millrace-page", {"page.key": self._random("page")}),
        ]
        self.register_outputs({})

    def _random(self, what: str) -> pulumi.Output[str]:
        made = random.RandomPassword(
            f"token-{what}", length=_LENGTH, special=False, opts=pulumi.ResourceOptions(parent=self)
        )
        token: pulumi.Output[str] = made.result
        return token

    def _secret(self, name: str, content: Mapping[str, pulumi.Input[str]]) -> k8s.core.v1.Secret:
        return k8s.core.v1.Secret(
            name,
            metadata={"name": name, "namespace": self._args.namespace},
            string_data=dict(content),
            opts=pulumi.ResourceOptions(parent=self, provider=self._args.provider),
        )


def principals_file(tokens: Mapping[str, str]) -> str:
    """What MILLRACE_PRINCIPALS_FILE holds: SHA-256 of a token → who that is."""
    return json.dumps(
        {
            hashlib.sha256(token.encode()).hexdigest(): {"principal": service, "roles": [], "kind": "service"}
            for service, token in sorted(tokens.items())
        }
    )
