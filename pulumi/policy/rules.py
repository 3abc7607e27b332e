"""The rules. Each takes a resource and yields what is wrong with it; POLICIES is what Pulumi runs, RULES what tests walk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from statements import allowed, loosely_trusts, many, public, wide

OPEN = {"0.0.0.0/0", "::/0"}
GATEWAY = "gateway"
"""The one chart whose Service may be open to the world."""
NEEDED_TAGS = {"project", "stack", "owner", "managed-by"}
TAGLESS = re.compile(
    r"aws:(s3/bucket(?!:Bucket$).*|ec2/route:Route|ec2/routeTableAssociation:.*|iam/rolePolic.*|kms/alias:.*|ecr/lifecyclePolicy:.*"
    r"|eks/accessPolicyAssociation:.*)"
)
"""What AWS gives no tags. Everything else has them, kinds that nobody uses yet too."""
KEPT = {
    "aws:s3/bucket:Bucket",
    "aws:kms/key:Key",
    "aws:eks/cluster:Cluster",
    "kubernetes:k8ssandra.io/v1alpha1:K8ssandraCluster",
}
CHARTS = {"kubernetes:helm.sh/v3:Release", "kubernetes:helm.sh/v4:Chart"}
_EXACT = re.compile(r"v?\d+\.\d+\.\d+(-[0-9A-Za-z.]+)?")
_BLOCKS = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")


@dataclass(frozen=True, slots=True)
class Resource:
    """`props`: its inputs, as the provider spells them."""

    type: str
    props: Mapping[str, Any]
    protect: bool


def no_public_bucket(one: Resource) -> Iterator[str]:
    if one.type == "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock":
        yield from (f"{block} is not true" for block in _BLOCKS if one.props.get(block) is not True)
    if one.type.startswith("aws:s3/") and str(one.props.get("acl", "")).startswith(("public", "authenticated")):
        yield f"its ACL is {one.props['acl']}"
    if one.type == "aws:s3/bucketPolicy:BucketPolicy" and any(map(public, allowed(one.props))):
        yield "its policy allows everybody"


def encrypted(one: Resource) -> Iterator[str]:
    props = one.props
    match one.type:
        case "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration":
            rules = [rule.get("applyServerSideEncryptionByDefault") or {} for rule in props.get("rules") or ()]
            if not rules or any(
                rule.get("sseAlgorithm") != "aws:kms" or not rule.get("kmsMasterKeyId") for rule in rules
            ):
                yield "not by a KMS key of ours"
        case "aws:ecr/repository:Repository":
            if not any(how.get("encryptionType") == "KMS" for how in props.get("encryptionConfigurations") or ()):
                yield "images are not encrypted by a KMS key"
        case "aws:eks/cluster:Cluster":
            if "secrets" not in ((props.get("encryptionConfig") or {}).get("resources") or ()):
                yield "Secrets are not encrypted by a KMS key"
        case "aws:ec2/launchTemplate:LaunchTemplate":
            disks = [disk.get("ebs") or {} for disk in props.get("blockDeviceMappings") or ()]
            if not disks or any(disk.get("encrypted") not in (True, "true") for disk in disks):
                yield "a node's disk is not encrypted"
        case "aws:ebs/volume:Volume":
            if props.get("encrypted") is not True:
                yield "the volume is not encrypted"
        case "kubernetes:storage.k8s.io/v1:StorageClass":
            if (props.get("parameters") or {}).get("encrypted") != "true":
                yield "volumes of this class are not encrypted"
        case _:
            pass


def no_star(one: Resource) -> Iterator[str]:
    if one.type.startswith("aws:"):
        for statement in allowed(one.props):
            yield from (f"it allows {what}" for what in wide(statement))


def trust_pinned(one: Resource) -> Iterator[str]:
    if one.type == "aws:iam/role:Role":
        for statement in allowed(one.props):
            if public(statement):
                yield "everybody may take the role"
            if why := loosely_trusts(statement):
                yield why


def not_open(one: Resource) -> Iterator[str]:
    """To the whole internet. Routes out are not doors; what asks for a load balancer is."""
    if one.type == "aws:eks/cluster:Cluster":
        seen = (one.props.get("vpcConfig") or {}).get("publicAccessCidrs")
        if not seen or OPEN & {*seen}:
            yield "its API is open to the whole internet"
    elif one.type.startswith("aws:") and "ecurityGroup" in one.type:
        if OPEN & {*_incoming(one)}:
            yield "it lets the whole internet in"
    elif one.type == "kubernetes:core/v1:Service":
        yield from _balanced(one.props.get("spec") or {})
    elif one.type in CHARTS and one.props.get("chart") != GATEWAY:
        yield from _balanced((one.props.get("values") or {}).get("service") or {})


def _balanced(service: Mapping[str, Any]) -> Iterator[str]:
    ranges = service.get("loadBalancerSourceRanges")
    if service.get("type") == "LoadBalancer" and (not ranges or OPEN & {*ranges}):
        yield "its load balancer is open to the whole internet, and it is not the gateway"


def _incoming(one: Resource) -> Iterator[str]:
    if "egress" in one.type.lower() or one.props.get("type") == "egress":
        return
    for rule in (one.props, *(one.props.get("ingress") or ())):
        for key in ("cidrBlocks", "ipv6CidrBlocks", "cidrIpv4", "cidrIpv6"):
            yield from many(rule.get(key))


def tagged(one: Resource) -> Iterator[str]:
    taken = one.type.startswith("aws:") and not TAGLESS.fullmatch(one.type)
    if taken and (missing := NEEDED_TAGS - {*(one.props.get("tags") or {})}):
        yield f"it lacks the tags {', '.join(sorted(missing))}"


def protected(one: Resource) -> Iterator[str]:
    if one.type in KEPT and not one.protect:
        yield "what holds data, or opens it, is protected"


def pinned_charts(one: Resource) -> Iterator[str]:
    if one.type in CHARTS and not _EXACT.fullmatch(str(one.props.get("version") or "")):
        yield f"its version is `{one.props.get('version')}`: one exact version is wanted"


def images_by_digest(one: Resource) -> Iterator[str]:
    if not one.type.startswith("kubernetes:"):
        return
    template = (one.props.get("spec") or {}).get("template") or {}
    for container in (template.get("spec") or {}).get("containers") or ():
        if "@sha256:" not in str(container.get("image")):
            yield f"the image `{container.get('image')}` is not named by digest"


Rule = Callable[[Resource], Iterator[str]]
RULES: dict[str, tuple[Rule, str]] = {
    "no-public-bucket": (no_public_bucket, "No bucket is public"),
    "encrypted": (encrypted, "Everything at rest is encrypted"),
    "no-star": (no_star, "No role allows `*`, as an action or a resource"),
    "trust-pinned": (trust_pinned, "A role is trusted by one account with one audience"),
    "not-open": (not_open, "Nothing but the gateway is open to the whole internet"),
    "tagged": (tagged, "Everything says whose it is"),
    "protected": (protected, "What holds data is protected from deletion"),
    "pinned-charts": (pinned_charts, "Charts are pinned to one version"),
    "images-by-digest": (images_by_digest, "What was tested is what runs"),
}
WHOLE = "buckets-closed-and-encrypted"
_COMPANIONS = {
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": "a public access block",
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": "an encryption",
    "aws:s3/bucketVersioning:BucketVersioning": "versions",
}


def bare_buckets(resources: list[tuple[str, str, Mapping[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Of (type, name, props): buckets that lack a companion, which goes by the same name."""
    there = {(kind, name) for kind, name, _ in resources}
    for kind, name, _ in resources:
        if kind == "aws:s3/bucket:Bucket":
            yield from (
                (name, f"it has not {what}") for other, what in _COMPANIONS.items() if (other, name) not in there
            )


def _policy(name: str, rule: Rule, description: str) -> ResourceValidationPolicy:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        for wrong in rule(Resource(args.resource_type, args.props, bool(args.opts.protect))):
            report(f"{name}: {args.name}: {wrong}", None)

    return ResourceValidationPolicy(name, description, validate, EnforcementLevel.MANDATORY)


def _whole(args: StackValidationArgs, report: ReportViolation) -> None:
    told = [(one.resource_type, one.name, one.props) for one in args.resources]
    urns = {one.name: one.urn for one in args.resources if one.resource_type == "aws:s3/bucket:Bucket"}
    for name, wrong in bare_buckets(told):
        report(f"{WHOLE}: {name}: {wrong}", urns[name])


POLICIES = [
    *(_policy(name, rule, description) for name, (rule, description) in RULES.items()),
    StackValidationPolicy(WHOLE, "Each bucket is closed, encrypted and versioned", _whole, EnforcementLevel.MANDATORY),
]
