"""A role for one account of the cluster (IRSA): trusted by exactly one `sub` and one `aud`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi_aws as aws

import pulumi

Statement = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRoleArgs:
    """`statements`: what it may, as IAM writes them. `managed`: names of AWS's own policies."""

    account: str
    """namespace/serviceaccount"""
    provider_arn: pulumi.Input[str]
    issuer: pulumi.Input[str]
    tags: Mapping[str, str]
    statements: pulumi.Input[Sequence[Statement]] | None = None
    managed: Sequence[str] = ()


class WorkloadRole(pulumi.ComponentResource):
    arn: pulumi.Output[str]

    def __init__(self, name: str, args: WorkloadRoleArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("millrace:infra:WorkloadRole", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        trust = pulumi.Output.all(args.provider_arn, args.issuer).apply(
            lambda told: _trust(told[0], told[1], args.account)
        )
        role = aws.iam.Role(name, name=name, assume_role_policy=trust, tags={**args.tags}, opts=child)
        if args.statements is not None:
            document = pulumi.Output.from_input(args.statements).apply(policy)
            aws.iam.RolePolicy(name, role=role.name, policy=document, opts=child)
        for policy_name in args.managed:
            aws.iam.RolePolicyAttachment(
                f"{name}-{policy_name.rpartition('/')[2]}",
                role=role.name,
                policy_arn=f"arn:aws:iam::aws:policy/{policy_name}",
                opts=child,
            )
        self.arn = role.arn
        self.register_outputs({"arn": self.arn})


def policy(statements: Sequence[Statement]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def trusts(service: str) -> str:
    """For roles of AWS's own services."""
    return policy([{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}])


def _trust(provider: str, issuer: str, account: str) -> str:
    host = issuer.removeprefix("https://")
    namespace, _, name = account.partition("/")
    only = {f"{host}:sub": f"system:serviceaccount:{namespace}:{name}", f"{host}:aud": "sts.amazonaws.com"}
    return policy(
        [
            {
                "Effect": "Allow",
                "Principal": {"Federated": provider},
                "Action": "sts:AssumeRoleWithWebIdentity",
                "Condition": {"StringEquals": only},
            }
        ]
    )
