"""Apache Cassandra by K8ssandra, in the same cluster: three nodes in three zones, TLS everywhere, a daily backup to a bucket.

Not Amazon Keyspaces: storage's start-up check refuses it (rows of at most 1 MB, no table ids, no deletes with a time)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi_kubernetes as k8s
import pulumi_random as random
import pulumi_tls as tls
from infra import charts

import pulumi

NAMESPACE = "cassandra"
ACCOUNT = "cassandra"
"""Of the nodes' pods: it may write backups."""
CLUSTER, DATACENTER, PORT = "millrace", "dc1", 9042
VERSION = "5.0.9"
_TEN_YEARS_H = 87_600
_STORES, _PASSWORD, _CA, _USER = "cassandra-stores", "cassandra-stores-password", "cassandra-ca", "cassandra-user"


@dataclass(frozen=True, slots=True, kw_only=True)
class CassandraArgs:
    provider: k8s.Provider
    zones: Sequence[str]
    disk_gib: int
    region: str
    backups: str
    """Name of their bucket."""
    role_arn: pulumi.Input[str]
    app_namespace: pulumi.Input[str]


class Cassandra(pulumi.ComponentResource):
    made: list[pulumi.Resource]
    """What storage needs before it starts."""

    def __init__(self, name: str, args: CassandraArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("millrace:infra:Cassandra", name, None, opts)
        self._name, self._args = name, args
        self._namespace = k8s.core.v1.Namespace(NAMESPACE, metadata={"name": NAMESPACE}, opts=self._child())
        certificates = charts.install(
            "cert-manager",
            charts.ChartArgs(
                chart="cert-manager", namespace=NAMESPACE, values={"crds": {"enabled": True, "keep": True}}
            ),
            self._child(self._namespace),
        )
        operator = charts.install(
            "k8ssandra-operator",
            charts.ChartArgs(
                chart="k8ssandra-operator", namespace=NAMESPACE, values={"global": {"clusterScoped": False}}
            ),
            self._child(certificates),
        )
        ca = self._authority(certificates)
        secrets = self._user(ca)
        cluster = self._cluster(operator, [self._certificate(certificates), *secrets])
        self._schedule(cluster)
        self.made = [cluster, self._service(), self._doors(), *secrets]
        self.register_outputs({})

    def _child(self, *after: pulumi.Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self, provider=self._args.provider, depends_on=list(after))

    def _secret(
        self, name: str, content: Mapping[str, pulumi.Input[str]], namespace: pulumi.Input[str] = NAMESPACE
    ) -> k8s.core.v1.Secret:
        return k8s.core.v1.Secret(
            name,
            metadata={"name": name, "namespace": namespace},
            string_data=dict(content),
            opts=self._child(self._namespace),
        )

    def _authority(self, certificates: pulumi.Resource) -> pulumi.Output[str]:
        """A CA of its own, for nodes and clients. Its key is in the state, encrypted, and in one Secret."""
        own = pulumi.ResourceOptions(parent=self)
        key = tls.PrivateKey("cassandra-ca", algorithm="ECDSA", ecdsa_curve="P384", opts=own)
        cert = tls.SelfSignedCert(
            "cassandra-ca",
            private_key_pem=key.private_key_pem,
            is_ca_certificate=True,
            subject={"common_name": "Millrace's Cassandra"},
            allowed_uses=["cert_signing", "crl_signing"],
            validity_period_hours=_TEN_YEARS_H,
            opts=own,
        )
        self._secret(_CA, {"tls.crt": cert.cert_pem, "tls.key": key.private_key_pem})
        self._custom("cert-manager.io/v1", "Issuer", _CA, {"ca": {"secretName": _CA}}, certificates)
        pem: pulumi.Output[str] = cert.cert_pem
        return pem

    def _certificate(self, certificates: pulumi.Resource) -> k8s.apiextensions.CustomResource:
        """Of the nodes, as the stores that Java reads; turned a month before its end."""
        password = random.RandomPassword(
            "cassandra-stores", length=32, special=False, opts=pulumi.ResourceOptions(parent=self)
        )
        self._secret(_PASSWORD, {"password": password.result})
        return self._custom(
            "cert-manager.io/v1",
            "Certificate",
            _STORES,
            {
                "secretName": _STORES,
                "issuerRef": {"name": _CA, "kind": "Issuer"},
                "commonName": f"{CLUSTER}-{DATACENTER}",
                "dnsNames": [
                    f"cassandra-service.{NAMESPACE}",
                    f"*.{CLUSTER}-{DATACENTER}-all-pods-service.{NAMESPACE}",
                ],
                "usages": ["server auth", "client auth"],
                "duration": "8760h",
                "renewBefore": "720h",
                "keystores": {"jks": {"create": True, "passwordSecretRef": {"name": _PASSWORD, "key": "password"}}},
            },
            certificates,
        )

    def _user(self, ca: pulumi.Output[str]) -> list[k8s.core.v1.Secret]:
        """Where the cluster looks for it, and where storage does."""
        password = random.RandomPassword(
            "cassandra-user", length=43, special=False, opts=pulumi.ResourceOptions(parent=self)
        )
        content = {"username": "millrace", "password": password.result}
        there = self._args.app_namespace
        return [
            self._secret(_USER, content),
            self._secret("millrace-cassandra", content, there),
            self._secret("millrace-cassandra-ca", {"ca.crt": ca}, there),
        ]

    def _cluster(self, operator: pulumi.Resource, after: Sequence[pulumi.Resource]) -> k8s.apiextensions.CustomResource:
        return k8s.apiextensions.CustomResource(
            self._name,
            api_version="k8ssandra.io/v1alpha1",
            kind="K8ssandraCluster",
            metadata={"name": CLUSTER, "namespace": NAMESPACE},
            spec={
                "auth": True,
                "cassandra": self._nodes(),
                "reaper": {"heapSize": "512Mi"},  # repairs within gc_grace_seconds
                "medusa": {
                    "storageProperties": {
                        "storageProvider": "s3",
                        "region": self._args.region,
                        "bucketName": self._args.backups,
                        "prefix": "millrace/cassandra",
                        "credentialsType": "role-based",
                        "maxBackupAge": 30,
                    },
                },
            },
            opts=pulumi.ResourceOptions(
                parent=self, provider=self._args.provider, depends_on=[operator, self._account(), *after], protect=True
            ),
        )

    def _nodes(self) -> Mapping[str, Any]:
        store = {
            "keystoreSecretRef": {"name": _STORES, "key": "keystore.jks"},
            "truststoreSecretRef": {"name": _STORES, "key": "truststore.jks"},
            "keystorePasswordSecretRef": {"name": _PASSWORD, "key": "password"},
            "truststorePasswordSecretRef": {"name": _PASSWORD, "key": "password"},
        }
        return {
            "serverVersion": VERSION,
            "superuserSecretRef": {"name": _USER},
            "serviceAccount": ACCOUNT,
            "clientEncryptionStores": store,
            "serverEncryptionStores": store,
            "tolerations": [
                {"key": "millrace/only", "operator": "Equal", "value": "cassandra", "effect": "NoSchedule"}
            ],
            "resources": {"requests": {"cpu": "3", "memory": "24Gi"}, "limits": {"memory": "24Gi"}},
            "config": {
                "cassandraYaml": {
                    "num_tokens": 16,
                    "client_encryption_options": {"enabled": True, "optional": False, "require_client_auth": False},
                    "server_encryption_options": {"internode_encryption": "all"},
                },
                "jvmOptions": {"heap_initial_size": "8Gi", "heap_max_size": "8Gi"},
            },
            "storageConfig": {
                "cassandraDataVolumeClaimSpec": {
                    "storageClassName": "gp3",
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": f"{self._args.disk_gib}Gi"}},
                }
            },
            "datacenters": [{"metadata": {"name": DATACENTER}, "size": len(self._args.zones), "racks": self._racks()}],
        }

    def _racks(self) -> list[Mapping[str, Any]]:
        return [
            {
                "name": zone[-1],
                "nodeAffinityLabels": {"topology.kubernetes.io/zone": zone, "millrace/only": "cassandra"},
            }
            for zone in self._args.zones
        ]

    def _account(self) -> k8s.core.v1.ServiceAccount:
        return k8s.core.v1.ServiceAccount(
            ACCOUNT,
            metadata={
                "name": ACCOUNT,
                "namespace": NAMESPACE,
                "annotations": {"eks.amazonaws.com/role-arn": self._args.role_arn},
            },
            opts=self._child(self._namespace),
        )

    def _service(self) -> k8s.core.v1.Service:
        """The name by which the overlay finds the nodes."""
        return k8s.core.v1.Service(
            "cassandra-service",
            metadata={"name": "cassandra-service", "namespace": NAMESPACE},
            spec={
                "cluster_ip": "None",
                "selector": {
                    "cassandra.datastax.com/cluster": CLUSTER,
                    "cassandra.datastax.com/datacenter": DATACENTER,
                },
                "ports": [{"name": "cql", "port": PORT, "target_port": PORT}],
            },
            opts=self._child(self._namespace),
        )

    def _doors(self) -> k8s.networking.v1.NetworkPolicy:
        """The nodes are reached by each other, their operators, and storage's CQL."""
        return k8s.networking.v1.NetworkPolicy(
            "cassandra-doors",
            metadata={"name": "only-storage", "namespace": NAMESPACE},
            spec={
                "pod_selector": {"match_labels": {"cassandra.datastax.com/cluster": CLUSTER}},
                "policy_types": ["Ingress"],
                "ingress": [
                    {"from_": [{"pod_selector": {}}]},
                    {
                        "from_": [
                            {
                                "namespace_selector": {"match_labels": {"kubernetes.io/metadata.name": "millrace"}},
                                "pod_selector": {"match_labels": {"app.kubernetes.io/name": "storage"}},
                            }
                        ],
                        "ports": [{"port": PORT, "protocol": "TCP"}],
                    },
                ],
            },
            opts=self._child(self._namespace),
        )

    def _schedule(self, cluster: pulumi.Resource) -> None:
        spec = {
            "backupSpec": {"cassandraDatacenter": DATACENTER, "backupType": "differential"},
            "cronSchedule": "30 2 * * *",
            "disabled": False,
        }
        self._custom("medusa.k8ssandra.io/v1alpha1", "MedusaBackupSchedule", "daily", spec, cluster)

    def _custom(
        self, version: str, kind: str, name: str, spec: Mapping[str, Any], after: pulumi.Resource
    ) -> k8s.apiextensions.CustomResource:
        return k8s.apiextensions.CustomResource(
            f"{kind.lower()}-{name}",
            api_version=version,
            kind=kind,
            metadata={"name": name, "namespace": NAMESPACE},
            spec=dict(spec),
            opts=self._child(self._namespace, after),
        )
