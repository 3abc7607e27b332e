"""Every rule catches its planted violation, by name, and nothing else is wrong with the plant; then the pack itself answers over gRPC."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pulumi_policy
import pytest

from tests.infra.pulumi import program
from tests.infra.pulumi.program import Recorded


def statement(**over: Any) -> str:
    said = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b/*", **over}
    return json.dumps({"Version": "2012-10-17", "Statement": [said]})


def trust(equal: Mapping[str, Any], condition: str = "StringEquals") -> str:
    return statement(
        Action="sts:AssumeRoleWithWebIdentity",
        Resource=None,
        Principal={"Federated": "arn:p"},
        Condition={condition: dict(equal)},
    )


def service(**over: Any) -> dict[str, Any]:
    return {"spec": {"type": "LoadBalancer", **over}}


TAGS = {"project": "millrace", "stack": "x", "owner": "a@b.example", "managed-by": "pulumi"}
PINNED = {"o:sub": "system:serviceaccount:a:b", "o:aud": "sts.amazonaws.com"}
POD = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "millrace:latest"}]}}}}
PLANTED: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "no-public-bucket": [
        ("a block that is off", "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock", {"blockPublicAcls": False}),
        ("a public ACL", "aws:s3/bucketAcl:BucketAcl", {"acl": "public-read"}),
        ("everybody", "aws:s3/bucketPolicy:BucketPolicy", {"policy": statement(Principal="*")}),
        ("everybody in AWS", "aws:s3/bucketPolicy:BucketPolicy", {"policy": statement(Principal={"AWS": ["*"]})}),
    ],
    "encrypted": [
        (
            "by S3's own key",
            "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
            {"rules": [{"applyServerSideEncryptionByDefault": {"sseAlgorithm": "AES256"}}]},
        ),
        ("images", "aws:ecr/repository:Repository", {"tags": TAGS, "encryptionConfigurations": [{"encryptionType": "AES256"}]}),
        ("Secrets", "aws:eks/cluster:Cluster", {"tags": TAGS, "vpcConfig": {"publicAccessCidrs": ["10.0.0.0/8"]}}),
        ("a node's disk", "aws:ec2/launchTemplate:LaunchTemplate", {"tags": TAGS, "blockDeviceMappings": [{"ebs": {}}]}),
        ("a volume", "aws:ebs/volume:Volume", {"tags": TAGS}),
        ("a class of volumes", "kubernetes:storage.k8s.io/v1:StorageClass", {"parameters": {"type": "gp3"}}),
    ],
    "no-star": [
        ("any action", "aws:iam/rolePolicy:RolePolicy", {"policy": statement(Action="*")}),
        ("any of a service", "aws:iam/rolePolicy:RolePolicy", {"policy": statement(Action=["s3:GetObject", "s3:*"])}),
        ("any that begins so", "aws:iam/policy:Policy", {"tags": TAGS, "policy": statement(Action="s3:Get*")}),
        ("any resource", "aws:iam/rolePolicy:RolePolicy", {"policy": statement(Resource="*")}),
        ("all but", "aws:iam/rolePolicy:RolePolicy", {"policy": statement(Action=None, NotAction="iam:PassRole")}),
    ],
    "trust-pinned": [
        ("no audience", "aws:iam/role:Role", {"tags": TAGS, "assumeRolePolicy": trust({"o:sub": PINNED["o:sub"]})}),
        ("two accounts", "aws:iam/role:Role", {"tags": TAGS, "assumeRolePolicy": trust({**PINNED, "o:sub": ["a", "b"]})}),
        ("a pattern", "aws:iam/role:Role", {"tags": TAGS, "assumeRolePolicy": trust(PINNED, "StringLike")}),
        ("everybody", "aws:iam/role:Role", {"tags": TAGS, "assumeRolePolicy": statement(Resource=None, Principal="*")}),
    ],
    "not-open": [
        ("the API", "aws:eks/cluster:Cluster", {
            "tags": TAGS, "encryptionConfig": {"resources": ["secrets"]}, "vpcConfig": {"publicAccessCidrs": ["0.0.0.0/0"]}}),
        ("the API by default", "aws:eks/cluster:Cluster", {"tags": TAGS, "encryptionConfig": {"resources": ["secrets"]}, "vpcConfig": {}}),
        ("a group", "aws:ec2/securityGroup:SecurityGroup", {"tags": TAGS, "ingress": [{"cidrBlocks": ["0.0.0.0/0"]}]}),
        ("a rule", "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule", {"tags": TAGS, "cidrIpv6": "::/0"}),
        ("a Service", "kubernetes:core/v1:Service", service()),
        ("a Service, said", "kubernetes:core/v1:Service", service(loadBalancerSourceRanges=["0.0.0.0/0"])),
        ("another chart", "kubernetes:helm.sh/v3:Release", {
            "chart": "grafana", "version": "1.2.3", "values": {"service": {"type": "LoadBalancer"}}}),
    ],
    "tagged": [("no tags", "aws:ec2/vpc:Vpc", {}), ("no owner", "aws:ec2/eip:Eip", {"tags": {**TAGS, "owner": ""} | {}})],
    "protected": [
        ("a bucket", "aws:s3/bucket:Bucket", {"tags": TAGS}),
        ("a key", "aws:kms/key:Key", {"tags": TAGS}),
        ("a database", "kubernetes:k8ssandra.io/v1alpha1:K8ssandraCluster", {}),
    ],
    "pinned-charts": [
        ("none", "kubernetes:helm.sh/v3:Release", {"chart": "istiod"}),
        ("a range", "kubernetes:helm.sh/v3:Release", {"chart": "istiod", "version": "~1.31"}),
        ("the other kind", "kubernetes:helm.sh/v4:Chart", {"chart": "istiod", "version": "1.31"}),
    ],
    "images-by-digest": [("a tag", "kubernetes:apps/v1:Deployment", POD)],
}  # fmt: skip
PLANTED["tagged"][1][2]["tags"].pop("owner")


def test_every_rule_has_a_plant() -> None:
    assert {*PLANTED} == {*program.rules().RULES}


@pytest.mark.parametrize(
    ("rule", "kind", "props"),
    [
        pytest.param(rule, kind, props, id=f"{rule}: {what}")
        for rule, plants in PLANTED.items()
        for what, kind, props in plants
    ],
)
def test_a_planted_violation_is_caught_by_its_rule_alone(rule: str, kind: str, props: dict[str, Any]) -> None:
    protect = rule != "protected"
    said = program.checked(Recorded(kind, "planted", copy.deepcopy(props), protect=protect))
    assert said
    assert {line.partition(":")[0] for line in said} == {rule}


@pytest.mark.parametrize("companion", range(3))
def test_a_bucket_without_a_companion_is_caught(companion: int) -> None:
    pack = program.rules()
    told = [("aws:s3/bucket:Bucket", "b", {}), *((kind, "b", {}) for kind in pack._COMPANIONS)]
    assert not list(pack.bare_buckets(told))
    del told[1 + companion]
    assert len(list(pack.bare_buckets(told))) == 1


def test_a_deny_may_be_wide_and_the_gateway_open() -> None:
    deny = Recorded(
        "aws:s3/bucketPolicy:BucketPolicy", "b", {"policy": statement(Effect="Deny", Principal="*", Action="s3:*")}
    )
    values = {"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["0.0.0.0/0"]}}
    gateway = Recorded(
        "kubernetes:helm.sh/v3:Release", "g", {"chart": "gateway", "version": "1.31.4", "values": values}
    )
    pinned = Recorded("aws:iam/role:Role", "r", {"tags": TAGS, "assumeRolePolicy": trust(PINNED)})
    assert [program.checked(one) for one in (deny, gateway, pinned)] == [[], [], []]


def test_what_pulumi_runs_says_the_same() -> None:
    """Each rule through Pulumi's own types, and mandatory."""
    pack = program.rules()
    by_name = {policy.name: policy for policy in pack.POLICIES}
    assert {*by_name} == {*pack.RULES, pack.WHOLE}
    assert all(policy.enforcement_level is pulumi_policy.EnforcementLevel.MANDATORY for policy in pack.POLICIES)
    for rule, plants in PLANTED.items():
        _, kind, props = plants[0]
        options = pulumi_policy.PolicyResourceOptions(
            rule != "protected", [], False, [], [], pulumi_policy.PolicyCustomTimeouts(0, 0, 0), ""
        )
        told = pulumi_policy.ResourceValidationArgs(kind, props, "urn", "planted", options, None)
        said: list[str] = []
        by_name[rule].validate(told, lambda text, urn=None, said=said: said.append(text))
        assert said
        assert said[0].startswith(f"{rule}: planted")


def test_a_whole_stack_is_asked_about_its_buckets() -> None:
    pack = program.rules()
    options = pulumi_policy.PolicyResourceOptions(
        True, [], False, [], [], pulumi_policy.PolicyCustomTimeouts(0, 0, 0), ""
    )
    bucket = pulumi_policy.PolicyResource("aws:s3/bucket:Bucket", {}, "urn:b", "b", options, None, None, [], {})
    said: list[tuple[str, str | None]] = []
    (whole,) = [policy for policy in pack.POLICIES if policy.name == pack.WHOLE]
    whole.validate(pulumi_policy.StackValidationArgs([bucket]), lambda text, urn=None: said.append((text, urn)))
    assert len(said) == 3
    assert {urn for _, urn in said} == {"urn:b"}
