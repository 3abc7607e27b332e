"""Where tables lie, by the stack's `store`: buckets, a Cassandra with its backups, or (dev) a volume that the overlay asks for itself."""

from __future__ import annotations

from dataclasses import dataclass

from infra import cassandra
from infra.cluster import Cluster
from infra.identity import WorkloadRole, WorkloadRoleArgs
from infra.settings import Settings
from infra.stores import Bucket, BucketArgs, bucket_rights

import pulumi

KEPT_DAYS = 30
_BUCKETS = {"volume": (), "s3": ("tables", "archive"), "cassandra": ("backups",)}
_ACCOUNTS = {
    "s3": ("storage", "millrace/storage"),
    "cassandra": ("cassandra", f"{cassandra.NAMESPACE}/{cassandra.ACCOUNT}"),
}
"""Store → whose role may use the buckets, and which account of the cluster that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreArgs:
    settings: Settings
    key_arn: pulumi.Input[str]
    cluster: Cluster
    app_namespace: pulumi.Input[str]


class Store(pulumi.ComponentResource):
    role_arn: str
    """Of the account `millrace/storage`; empty where it needs none."""

    def __init__(self, name: str, args: StoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("millrace:infra:Store", name, None, opts)
        self._args, self._child = args, pulumi.ResourceOptions(parent=self)
        says = args.settings
        for purpose in _BUCKETS[says.store]:
            Bucket(
                f"{name}-{purpose}",
                BucketArgs(bucket=says.bucket(purpose), key_arn=args.key_arn, kept_days=KEPT_DAYS, tags=says.tags),
                self._child,
            )
        role = self._role(name) if says.store in _ACCOUNTS else None
        self.role_arn = says.role_arn("storage") if says.store == "s3" else ""
        if says.cassandra and role:
            cassandra.Cassandra(
                name,
                cassandra.CassandraArgs(
                    provider=args.cluster.kubernetes,
                    zones=says.network.zones,
                    disk_gib=says.cassandra.disk_gib,
                    region=says.region,
                    backups=says.bucket("backups"),
                    role_arn=role.arn,
                    app_namespace=args.app_namespace,
                ),
                self._child,
            )
        self.register_outputs({"role_arn": self.role_arn})

    def _role(self, name: str) -> WorkloadRole:
        says = self._args.settings
        workload, account = _ACCOUNTS[says.store]
        key = pulumi.Output.from_input(self._args.key_arn)
        names = [says.bucket(purpose) for purpose in _BUCKETS[says.store]]
        return WorkloadRole(
            f"{name}-{workload}",
            WorkloadRoleArgs(
                account=account,
                provider_arn=self._args.cluster.provider_arn,
                issuer=self._args.cluster.issuer,
                tags=says.tags,
                statements=key.apply(lambda arn: bucket_rights(names, arn)),
            ),
            self._child,
        )
