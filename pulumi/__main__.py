"""Millrace on AWS: what `pulumi up` makes, from the ground up. README.md says how to begin."""

from pathlib import Path

from infra import settings
from infra.app import NO_DIGEST, App, AppArgs, namespace
from infra.cluster import Addons, AddonsArgs, Cluster, ClusterArgs, NodeGroup, NodeGroupArgs, node_role
from infra.mesh import Mesh, MeshArgs
from infra.network import Network, NetworkArgs
from infra.secrets import Secrets, SecretsArgs
from infra.store import Store, StoreArgs
from infra.stores import Key, KeyArgs, Registry, RegistryArgs

import pulumi

HERE = Path(__file__).resolve().parent
says = settings.read()
name, tags = says.name, says.tags

key = Key(name, KeyArgs(what=f"{name}: tables, images, volumes, Secrets", tags=tags))
registry = Registry(name, RegistryArgs(repository=name, key_arn=key.arn, tags=tags))
network = Network(name, NetworkArgs(network=says.network, region=says.region, tags=tags))
cluster = Cluster(name, ClusterArgs(
    version=says.kubernetes, region=says.region, subnets=network.private, key_arn=key.arn,
    api_cidrs=says.api_cidrs, admin_role=says.admin_role, tags=tags,
))  # fmt: skip
nodes = node_role(f"{name}-nodes", tags)
for group, shape in {"": says.nodes, "cassandra": says.cassandra}.items():
    if shape:
        NodeGroup(f"{name}-{group or 'services'}", NodeGroupArgs(
            cluster=cluster.name, role_arn=nodes.arn, subnets=network.private, nodes=shape, tags=tags, only_for=group,
        ))  # fmt: skip
lag = HERE.parent / "manifests/components/autoscale-lag/adapter-values.yaml" if says.overlay != "dev" else None
addons = Addons(name, AddonsArgs(cluster=cluster, key_arn=key.arn, prefix=name, tags=tags, lag=lag))
inside = pulumi.ResourceOptions(depends_on=[addons])
mesh = Mesh(name, MeshArgs(
    provider=cluster.kubernetes, values=HERE.parent / "istio/base/meshconfig.yaml",
    gateway_cidrs=says.gateway_cidrs, small=says.overlay == "dev",
), inside)  # fmt: skip

home = namespace(HERE.parent / "manifests/base", cluster.kubernetes)
inner = home.metadata["name"]
secrets = Secrets(name, SecretsArgs(provider=cluster.kubernetes, namespace=inner), inside)
store = Store(name, StoreArgs(settings=says, key_arn=key.arn, cluster=cluster, app_namespace=inner), inside)
if says.image_digest == NO_DIGEST:
    pulumi.log.warn(
        "millrace:image-digest is all zeros: everything is made but Millrace itself; push an image, set its digest"
    )
else:
    App(name, AppArgs(
        settings=says, provider=cluster.kubernetes, folder=HERE / "app" / says.overlay, namespace=home, role_arn=store.role_arn,
    ), pulumi.ResourceOptions(depends_on=[mesh, secrets, store]))  # fmt: skip

pulumi.export("registry", registry.url)
pulumi.export("cluster", cluster.name)
pulumi.export("kubeconfig", f"aws eks update-kubeconfig --region {says.region} --name {name}")
