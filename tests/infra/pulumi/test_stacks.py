"""What the program makes, stack by stack. What every resource must keep is the policy pack's; here is what each is for."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.infra.pulumi import program
from tests.infra.pulumi.program import PROGRAM, ROOT, STACKS, Recorded

EVERY = pytest.mark.parametrize("stack", STACKS)
RULED = {
    "aws": "tagged, encrypted, no-star, not-open, protected: the policy pack looks at every resource of AWS",
    "kubernetes": "images-by-digest, not-open, pinned-charts; the API server's dry run looks at every object",
}
FAMILY = {"dev": ("volume", 2, 1), "prod": ("s3", 3, 3), "prod-cassandra": ("cassandra", 3, 3)}
"""Stack → its store, zones, ways out."""


@EVERY
def test_no_rule_of_the_pack_is_broken(stack: str) -> None:
    run = program.run(stack)
    assert [wrong for one in run.resources for wrong in program.checked(one)] == []
    told = [(one.type, one.name, one.props) for one in run.resources]
    assert list(program.rules().bare_buckets(told)) == []


@EVERY
def test_every_resource_is_covered(stack: str) -> None:
    """By a rule that looks at its provider's resources, or by a test here that names its type."""
    named = Path(__file__).read_text() + inspect.getsource(program.rules())
    for one in program.run(stack).resources:
        provider = one.type.partition(":")[0]
        assert provider in RULED or one.type in named or not one.custom, f"nothing looks at {one.type} {one.name}"


@EVERY
def test_the_kinds_and_their_numbers(stack: str) -> None:
    store, zones, gateways = FAMILY[stack]
    kinds = Counter(one.type for one in program.run(stack).resources)
    buckets = {"volume": 0, "s3": 2, "cassandra": 1}[store]
    expected = {
        "aws:ec2/vpc:Vpc": 1, "aws:ec2/subnet:Subnet": 2 * zones, "aws:ec2/natGateway:NatGateway": gateways, "aws:ec2/eip:Eip": gateways,
        "aws:ec2/internetGateway:InternetGateway": 1, "aws:ec2/routeTable:RouteTable": 1 + zones, "aws:ec2/route:Route": 1 + zones,
        "aws:ec2/routeTableAssociation:RouteTableAssociation": 2 * zones, "aws:ec2/vpcEndpoint:VpcEndpoint": 1,
        "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": 1, "aws:kms/key:Key": 1, "aws:kms/alias:Alias": 1,
        "aws:eks/cluster:Cluster": 1, "aws:eks/addon:Addon": 5, "aws:eks/accessEntry:AccessEntry": 1,
        "aws:eks/accessPolicyAssociation:AccessPolicyAssociation": 1, "aws:iam/openIdConnectProvider:OpenIdConnectProvider": 1,
        "aws:eks/nodeGroup:NodeGroup": 1 + (store == "cassandra"), "aws:ec2/launchTemplate:LaunchTemplate": 1 + (store == "cassandra"),
        "aws:iam/role:Role": 4 + (store != "volume"), "aws:iam/rolePolicy:RolePolicy": 1 + (store != "volume"),
        "aws:iam/rolePolicyAttachment:RolePolicyAttachment": 5, "aws:ecr/repository:Repository": 1,
        "aws:ecr/lifecyclePolicy:LifecyclePolicy": 1, "aws:s3/bucket:Bucket": buckets, "aws:s3/bucketPolicy:BucketPolicy": buckets,
        "aws:s3/bucketVersioning:BucketVersioning": buckets,
        "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": buckets,
        "aws:s3/bucketOwnershipControls:BucketOwnershipControls": buckets,
        "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": buckets,
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": buckets,
    }  # fmt: skip
    found = {kind: number for kind, number in kinds.items() if kind.startswith("aws:")}
    assert found == {kind: number for kind, number in expected.items() if number}


@EVERY
def test_resources_belong_to_components_and_to_the_right_cluster(stack: str) -> None:
    run = program.run(stack)
    at_the_top = {
        one.name for one in run.resources if not one.parent.rpartition("::")[0].count("millrace:infra:") and one.custom
    }
    assert {name for name in at_the_top if "/" not in name} <= {"millrace"} | {f"millrace-{STACKS[stack][0]}-nodes"} | {
        one.name for one in run.of("aws:iam/rolePolicyAttachment:RolePolicyAttachment")
    } | {one.props["metadata"]["name"] for one in run.resources if one.parent == f"millrace-{STACKS[stack][0]}"}
    for one in run.resources:
        if one.type.startswith("kubernetes:"):
            assert "pulumi:providers:kubernetes" in one.provider, f"{one.name} goes to whatever kubectl points at"


@EVERY
def test_each_component_registers_its_outputs(stack: str) -> None:
    run = program.run(stack)
    ended = {urn.rpartition("::")[2] for urn in run.outputs}
    for one in run.resources:
        if one.type.startswith("millrace:infra:"):
            assert one.name in ended


@EVERY
def test_roles_of_pods_are_trusted_by_one_account_each(stack: str) -> None:
    """A planted second `sub` would be a list; a planted wildcard is the pack's to refuse."""
    accounts = []
    for role in program.run(stack).of("aws:iam/role:Role"):
        (trust,) = json.loads(role.props["assumeRolePolicy"])["Statement"]
        if "Federated" in trust["Principal"]:
            only = trust["Condition"]["StringEquals"]
            assert only["oidc.example/id/ABC:aud"] == "sts.amazonaws.com"
            accounts.append(only["oidc.example/id/ABC:sub"].removeprefix("system:serviceaccount:"))
    own = {"volume": [], "s3": ["millrace:storage"], "cassandra": ["cassandra:cassandra"]}[FAMILY[stack][0]]
    assert sorted(accounts) == sorted(["kube-system:aws-node", "kube-system:ebs-csi-controller-sa", *own])


def test_storage_may_do_what_the_how_to_lists_and_nothing_else() -> None:
    (policy,) = [one for one in program.run("prod").of("aws:iam/rolePolicy:RolePolicy") if one.name.endswith("storage")]
    actions = {
        action
        for statement in json.loads(policy.props["policy"])["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    page = (ROOT / "docs/how-to/keep-tables-on-s3.md").read_text()
    assert {action for action in actions if action.startswith("s3:")} == {*re.findall(r"`(s3:[A-Za-z]+)`", page)}
    assert {action for action in actions if not action.startswith("s3:")} == {"kms:Decrypt", "kms:GenerateDataKey"}


def test_nothing_current_in_a_bucket_ever_expires() -> None:
    for one in program.run("prod").of("aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration"):
        for rule in one.props["rules"]:
            assert {*rule.get("expiration", {})} <= {"expiredObjectDeleteMarker"}
        assert any(rule.get("noncurrentVersionExpiration") for rule in one.props["rules"])


@EVERY
def test_the_example_names_are_replaced(stack: str) -> None:
    stack_file, over = STACKS[stack]
    said = program.settings_of(stack_file, over)
    sent = json.dumps(program.objects(program.run(stack)))
    assert "millrace-example" not in sent
    assert "registry.example" not in sent
    assert "0" * 64 not in sent
    assert said["millrace:host"] in sent
    assert f"{said['millrace:issuer']}/" in sent
    for example in ("millrace.example.org", "issuer.example.org"):
        assert example in said["millrace:host"] + said["millrace:issuer"] or example not in sent


def test_storage_finds_its_bucket_and_its_role() -> None:
    sent = {(one["kind"], one["metadata"]["name"]): one for one in program.objects(program.run("prod"))}
    role = sent["ServiceAccount", "storage"]["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
    made = program.run("prod").one("aws:iam/role:Role", "millrace-prod-storage")
    assert role == f"arn:aws:iam::222222222222:role/{made.props['name']}"
    (app,) = [
        one for one in sent["Deployment", "storage"]["spec"]["template"]["spec"]["containers"] if one["name"] == "app"
    ]
    env = {one["name"]: one["value"] for one in app["env"]}
    buckets = {one.props["bucket"] for one in program.run("prod").of("aws:s3/bucket:Bucket")}
    assert {env["MILLRACE_STORAGE_S3_URL"], env["MILLRACE_STORAGE_ARCHIVE"]} == {
        f"s3://{name}/millrace" for name in buckets
    }
    assert app["image"] == f"222222222222.dkr.ecr.eu-central-1.amazonaws.com/millrace-prod@{program.DIGEST}"


def test_another_region_reaches_every_name() -> None:
    said = program.settings_of("prod", {"aws:region": "eu-west-1"})
    said["millrace:network"] = said["millrace:network"].replace("eu-central-1", "eu-west-1")
    assert "eu-central-1" not in json.dumps(program.objects(program.run_with("prod", said)))


@EVERY
def test_secrets_are_the_ones_that_the_manifests_name(stack: str) -> None:
    sent = program.objects(program.run(stack))
    made = {
        one["metadata"]["name"]
        for one in sent
        if one["kind"] == "Secret" and one["metadata"]["namespace"] == "millrace"
    }
    volumes = [
        volume["secret"]
        for one in sent
        if one["kind"] == "Deployment"
        for volume in one["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume
    ]
    assert made == {one["secretName"] for one in volumes if not one.get("optional")}


def test_who_may_call_is_known_by_digest_only() -> None:
    (known,) = [one for one in program.objects(program.run("prod")) if one["metadata"]["name"] == "millrace-principals"]
    entries = json.loads(known["stringData"]["principals.json"])
    assert {one["principal"] for one in entries.values()} == {"extract", "storage", "transform", "analysis", "viz"}
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in entries)
    assert {one["kind"] for one in entries.values()} == {"service"}
    lengths = {one.props["length"] for one in program.run("prod").of("random:index/randomPassword:RandomPassword")}
    assert min(lengths) >= 32


def test_cassandra_has_three_copies_in_three_zones_and_speaks_tls_only() -> None:
    run = program.run("prod-cassandra")
    (cluster,) = run.of("kubernetes:k8ssandra.io/v1alpha1:K8ssandraCluster")
    said = cluster.props["spec"]["cassandra"]
    (datacenter,) = said["datacenters"]
    assert datacenter["size"] == 3
    assert len({rack["nodeAffinityLabels"]["topology.kubernetes.io/zone"] for rack in datacenter["racks"]}) == 3
    config = said["config"]["cassandraYaml"]
    assert config["client_encryption_options"] == {"enabled": True, "optional": False, "require_client_auth": False}
    assert config["server_encryption_options"]["internode_encryption"] == "all"
    assert datacenter["metadata"]["name"] == "dc1"  # what the overlay says
    authority = run.one("tls:index/selfSignedCert:SelfSignedCert", "cassandra-ca")
    assert authority.props["isCaCertificate"] is True
    assert run.one("tls:index/privateKey:PrivateKey", "cassandra-ca").props["algorithm"] == "ECDSA"


def test_istio_runs_with_cni_and_the_tested_settings() -> None:
    charts = {one.props["chart"]: one.props for one in program.run("prod").of("kubernetes:helm.sh/v3:Release")}
    assert {*charts} == {"base", "istiod", "cni", "gateway", "prometheus-adapter"}
    assert len({charts[name]["version"] for name in ("base", "istiod", "cni", "gateway")}) == 1
    values = charts["istiod"]["values"]
    assert values["pilot"]["cni"]["enabled"] is True
    assert values["meshConfig"]["outboundTrafficPolicy"]["mode"] == "REGISTRY_ONLY"
    assert values["meshConfig"]["defaultHttpRetryPolicy"]["attempts"] == 0


def test_without_an_image_everything_but_the_app_is_made() -> None:
    run = program.run_with("prod", program.settings_of("prod", {"millrace:image-digest": "sha256:" + "0" * 64}))
    assert not run.of(program.DIRECTORY)
    assert run.of("aws:ecr/repository:Repository")


def test_the_program_is_short_and_no_folder_is_a_package() -> None:
    assert len((PROGRAM / "__main__.py").read_text().splitlines()) <= 60
    assert not list(PROGRAM.rglob("__init__.py"))


def test_types() -> None:
    """mypy strict over our own code; the providers' code (a million lines) is taken at its word."""
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "__main__.py", "infra"]
    answer = subprocess.run(command, cwd=PROGRAM, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def _lints(document: str) -> list[Any]:
    import parliament  # it takes a second to load

    return list(parliament.analyze_policy_string(document).findings)


@EVERY
def test_iam_is_clean(stack: str) -> None:
    policies = program.run(stack).of("aws:iam/rolePolicy:RolePolicy")
    assert policies
    for one in policies:
        assert [str(found) for found in _lints(one.props["policy"])] == []


@pytest.mark.parametrize("over", [{"Action": "*"}, {"Action": "s3:*"}, {"Resource": "*"}])
def test_a_planted_star_in_a_recorded_policy_is_refused_by_name(over: dict[str, str]) -> None:
    (found,) = [one for one in program.run("prod").of("aws:iam/rolePolicy:RolePolicy") if one.name.endswith("storage")]
    document = json.loads(found.props["policy"])
    document["Statement"][0].update(over)
    planted = Recorded(found.type, "planted", {**found.props, "policy": json.dumps(document)})
    assert [wrong for wrong in program.checked(planted) if wrong.startswith("no-star: planted: it allows")]


def test_what_a_planted_error_of_iam_says() -> None:
    document = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "s3:GetObjekt", "Resource": "arn:aws:s3:::b/*"}],
    }
    assert {found.issue for found in _lints(json.dumps(document))} == {"UNKNOWN_ACTION"}
