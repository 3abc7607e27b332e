"""EKS: the control plane, its nodes, the add-ons that the manifests count on, and the provider for what goes into it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pulumi_aws as aws
import pulumi_kubernetes as k8s
import yaml
from infra import charts, identity
from infra.settings import Nodes

import pulumi

LOGS = ("api", "audit", "authenticator", "controllerManager", "scheduler")
PROMETHEUS = {"url": "http://prometheus.telemetry.svc", "port": 9090}
_OF_CLUSTER = ("AmazonEKSClusterPolicy",)
_OF_NODES = ("AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryReadOnly")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterArgs:
    version: str
    region: str
    subnets: Sequence[pulumi.Input[str]]
    key_arn: pulumi.Input[str]
    api_cidrs: Sequence[str]
    admin_role: str
    tags: Mapping[str, str]


class Cluster(pulumi.ComponentResource):
    """The control plane. The one who makes it gets no rights by that: the admin role does, by name."""

    name: pulumi.Output[str]
    issuer: pulumi.Output[str]
    provider_arn: pulumi.Output[str]
    """Of the cluster's tokens, for roles (identity.py)."""
    kubernetes: k8s.Provider

    def __init__(self, name: str, args: ClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("millrace:infra:Cluster", name, None, opts)
        self._args, self._child = args, pulumi.ResourceOptions(parent=self)
        role = service_role(f"{name}-cluster", "eks.amazonaws.com", _OF_CLUSTER, args.tags, self._child)
        cluster = aws.eks.Cluster(
            name,
            name=name,
            version=args.version,
            role_arn=role.arn,
            access_config={"authentication_mode": "API", "bootstrap_cluster_creator_admin_permissions": False},
            encryption_config={"provider": {"key_arn": args.key_arn}, "resources": ["secrets"]},
            enabled_cluster_log_types=list(LOGS),
            vpc_config={
                "subnet_ids": list(args.subnets),
                "endpoint_private_access": True,
                "endpoint_public_access": True,
                "public_access_cidrs": list(args.api_cidrs),
            },
            deletion_protection=True,
            upgrade_policy={"support_type": "STANDARD"},
            tags={**args.tags},
            opts=pulumi.ResourceOptions(parent=self, protect=True),
        )
        self.name = cluster.name
        self.issuer = cluster.identities[0].oidcs[0].issuer
        self.provider_arn = self._tokens(name).arn
        access = self._admin(name)
        self.kubernetes = k8s.Provider(
            name,
            kubeconfig=pulumi.Output.all(
                cluster.name, cluster.endpoint, cluster.certificate_authority.data, args.region
            ).apply(lambda told: _kubeconfig(*told)),
            enable_server_side_apply=True,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[access]),
        )
        self.register_outputs({"name": self.name, "issuer": self.issuer, "provider_arn": self.provider_arn})

    def _tokens(self, name: str) -> aws.iam.OpenIdConnectProvider:
        return aws.iam.OpenIdConnectProvider(
            name,
            url=self.issuer,
            client_id_lists=["sts.amazonaws.com"],
            tags={**self._args.tags},
            opts=self._child,
        )

    def _admin(self, name: str) -> aws.eks.AccessPolicyAssociation:
        entry = aws.eks.AccessEntry(
            name,
            cluster_name=self.name,
            principal_arn=self._args.admin_role,
            tags={**self._args.tags},
            opts=self._child,
        )
        return aws.eks.AccessPolicyAssociation(
            name,
            cluster_name=self.name,
            principal_arn=entry.principal_arn,
            policy_arn="arn:aws:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy",
            access_scope={"type": "cluster"},
            opts=self._child,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroupArgs:
    cluster: pulumi.Input[str]
    role_arn: pulumi.Input[str]
    subnets: Sequence[pulumi.Input[str]]
    nodes: Nodes
    tags: Mapping[str, str]
    only_for: str = ""
    """Pods that tolerate this; empty: everybody."""


class NodeGroup(pulumi.ComponentResource):
    """Nodes with an encrypted disk, whose metadata no pod can ask for the node's role."""

    def __init__(self, name: str, args: NodeGroupArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("millrace:infra:NodeGroup", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        shape = aws.ec2.LaunchTemplate(
            name,
            metadata_options={"http_tokens": "required", "http_put_response_hop_limit": 1, "http_endpoint": "enabled"},
            block_device_mappings=[
                {
                    "device_name": "/dev/xvda",
                    "ebs": {"volume_size": args.nodes.disk_gib, "volume_type": "gp3", "encrypted": "true"},
                }
            ],
            tag_specifications=[{"resource_type": kind, "tags": {**args.tags}} for kind in ("instance", "volume")],
            tags={**args.tags},
            opts=child,
        )
        taints = [{"key": "millrace/only", "value": args.only_for, "effect": "NO_SCHEDULE"}] if args.only_for else []
        aws.eks.NodeGroup(
            name,
            cluster_name=args.cluster,
            node_role_arn=args.role_arn,
            subnet_ids=list(args.subnets),
            ami_type="AL2023_x86_64_STANDARD",
            instance_types=[args.nodes.type],
            launch_template={"id": shape.id, "version": shape.latest_version.apply(str)},
            scaling_config={
                "min_size": args.nodes.least,
                "max_size": args.nodes.most,
                "desired_size": args.nodes.least,
            },
            update_config={"max_unavailable": 1},
            labels={"millrace/only": args.only_for} if args.only_for else {},
            taints=taints,
            tags={**args.tags},
            # The number is whoever scales nodes' to change.
            opts=pulumi.ResourceOptions(parent=self, ignore_changes=["scalingConfig.desiredSize"]),
        )
        self.register_outputs({})


@dataclass(frozen=True, slots=True, kw_only=True)
class AddonsArgs:
    cluster: Cluster
    key_arn: pulumi.Input[str]
    prefix: str
    tags: Mapping[str, str]
    lag: Path | None = None
    """Values for prometheus-adapter, which gives autoscalers the pipeline's lag; None: they look at the CPU alone."""


class Addons(pulumi.ComponentResource):
    """Network (with policies: the manifests close everything), names, volumes, and the figures that autoscalers ask for."""

    def __init__(self, name: str, args: AddonsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("millrace:infra:Addons", name, None, opts)
        self._args, self._child = args, pulumi.ResourceOptions(parent=self)
        cni = self._role("cni", "kube-system/aws-node", ["AmazonEKS_CNI_Policy"])
        volumes = self._role(
            "volumes",
            "kube-system/ebs-csi-controller-sa",
            ["service-role/AmazonEBSCSIDriverPolicy"],
            pulumi.Output.from_input(args.key_arn).apply(_of_volumes),
        )
        self._addon("vpc-cni", cni, {"enableNetworkPolicy": "true"})
        self._addon("kube-proxy")
        self._addon("coredns")
        self._addon("metrics-server")
        self._addon("aws-ebs-csi-driver", volumes)
        inside = pulumi.ResourceOptions(parent=self, provider=args.cluster.kubernetes)
        if args.lag:
            values = {**yaml.safe_load(args.lag.read_text()), "prometheus": PROMETHEUS}
            lag = charts.ChartArgs(chart="prometheus-adapter", namespace="kube-system", values=values)
            charts.install("prometheus-adapter", lag, inside)
        k8s.storage.v1.StorageClass(
            f"{name}-gp3",
            metadata={"name": "gp3", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            provisioner="ebs.csi.aws.com",
            parameters={"type": "gp3", "encrypted": "true", "kmsKeyId": args.key_arn},
            reclaim_policy="Retain",
            volume_binding_mode="WaitForFirstConsumer",
            allow_volume_expansion=True,
            opts=inside,
        )
        self.register_outputs({})

    def _role(
        self,
        what: str,
        account: str,
        managed: Sequence[str],
        statements: pulumi.Input[Sequence[identity.Statement]] | None = None,
    ) -> pulumi.Output[str]:
        return identity.WorkloadRole(
            f"{self._args.prefix}-{what}",
            identity.WorkloadRoleArgs(
                account=account,
                provider_arn=self._args.cluster.provider_arn,
                issuer=self._args.cluster.issuer,
                tags=self._args.tags,
                statements=statements,
                managed=managed,
            ),
            self._child,
        ).arn

    def _addon(
        self, addon: str, role: pulumi.Output[str] | None = None, values: Mapping[str, str] | None = None
    ) -> None:
        aws.eks.Addon(
            f"{self._args.prefix}-{addon}",
            addon_name=addon,
            cluster_name=self._args.cluster.name,
            service_account_role_arn=role,
            configuration_values=json.dumps(values) if values else None,
            resolve_conflicts_on_create="OVERWRITE",
            resolve_conflicts_on_update="PRESERVE",
            tags={**self._args.tags},
            opts=self._child,
        )


def service_role(
    name: str, service: str, managed: Sequence[str], tags: Mapping[str, str], opts: pulumi.ResourceOptions
) -> aws.iam.Role:
    """A role for one of AWS's services, with its own policies."""
    role = aws.iam.Role(name, name=name, assume_role_policy=identity.trusts(service), tags={**tags}, opts=opts)
    for policy in managed:
        aws.iam.RolePolicyAttachment(
            f"{name}-{policy}", role=role.name, policy_arn=f"arn:aws:iam::aws:policy/{policy}", opts=opts
        )
    return role


def node_role(name: str, tags: Mapping[str, str], opts: pulumi.ResourceOptions | None = None) -> aws.iam.Role:
    """Of every node: to join and to pull images. Nothing else: pods have roles of their own."""
    return service_role(name, "ec2.amazonaws.com", _OF_NODES, tags, opts or pulumi.ResourceOptions())


def _of_volumes(key_arn: str) -> list[identity.Statement]:
    """What the volumes' driver needs to attach disks that our key encrypts."""
    only = {"Bool": {"kms:GrantIsForAWSResource": "true"}}
    uses = [
        "kms:Decrypt",
        "kms:DescribeKey",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncryptFrom",
        "kms:ReEncryptTo",
    ]
    return [
        {"Effect": "Allow", "Action": "kms:CreateGrant", "Resource": key_arn, "Condition": only},
        {"Effect": "Allow", "Action": uses, "Resource": key_arn},
    ]


def _kubeconfig(name: str, endpoint: str, ca: str, region: str) -> str:
    """Who runs `pulumi up` asks for a token with their own credentials; none is kept."""
    command = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "aws",
        "args": ["--region", region, "eks", "get-token", "--cluster-name", name, "--output", "json"],
        "interactiveMode": "Never",
    }
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": endpoint, "certificate-authority-data": ca}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
            "users": [{"name": name, "user": {"exec": command}}],
        }
    )
