"""What a stack's file says, read once. Everything else takes this object and never asks Pulumi's configuration."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pulumi

T = TypeVar("T")
OVERLAYS = {"volume": "dev", "s3": "prod-s3", "cassandra": "prod-cassandra"}
_KEYSPACES = (
    "Amazon Keyspaces cannot hold tables: a row there is at most 1 MB (a chunk takes 1 MiB), tables cannot be given an id, and deletes "
    "cannot carry a time; storage refuses it at its start. Use `cassandra` (K8ssandra in the same cluster) or `s3`"
)


class WrongSetting(Exception):
    """`millrace:KEY …`: the key first, then what is wrong and what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    cidr: str
    zones: tuple[str, ...]
    gateways: int
    """NAT gateways: one each zone, or fewer where an outage of one may cost the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    type: str
    least: int
    most: int
    disk_gib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    stack: str
    region: str
    account: str
    owner: str
    store: str
    host: str
    issuer: str
    image_digest: str
    kubernetes: str
    admin_role: str
    api_cidrs: tuple[str, ...]
    gateway_cidrs: tuple[str, ...]
    network: Network
    nodes: Nodes
    cassandra: Nodes | None
    """Node group and volumes of Cassandra; None with another store."""

    @property
    def name(self) -> str:
        return f"millrace-{self.stack}"

    @property
    def overlay(self) -> str:
        return OVERLAYS[self.store]

    @property
    def tags(self) -> dict[str, str]:
        return {"project": "millrace", "stack": self.stack, "owner": self.owner, "managed-by": "pulumi"}

    @property
    def image(self) -> str:
        return f"{self.account}.dkr.ecr.{self.region}.amazonaws.com/{self.name}@{self.image_digest}"

    def bucket(self, purpose: str) -> str:
        """Names of buckets are the world's: the account's number makes them ours."""
        return f"{self.name}-{purpose}-{self.account}"

    def role_arn(self, workload: str) -> str:
        return f"arn:aws:iam::{self.account}:role/{self.name}-{workload}"


def read() -> Settings:
    """Raises WrongSetting by the name of the first key that is missing or wrong."""
    config = pulumi.Config("millrace")
    region = pulumi.Config("aws").get("region")
    if not region:
        raise WrongSetting("aws:region is missing: `pulumi config set aws:region eu-central-1`")
    store = _text(config, "store", _a_store)
    network = _network(_object(config, "network"), region)
    wanted = store == "cassandra"
    if wanted and len(network.zones) != 3:
        raise WrongSetting("millrace:network zones: Cassandra keeps three copies, one in each of three zones")
    return Settings(
        stack=pulumi.get_stack(),
        region=region,
        account=_text(config, "account", _matches(r"\d{12}", "twelve digits")),
        owner=_text(config, "owner", _matches(r"[^@\s]+@[^@\s]+", "an address that answers")),
        store=store,
        host=_text(config, "host", _matches(r"[a-z0-9-]+(\.[a-z0-9-]+)+", "a host name")),
        issuer=_text(config, "issuer", _matches(r"https://[^/\s]+", "https://HOST, without a path")),
        image_digest=_text(config, "image-digest", _matches(r"sha256:[0-9a-f]{64}", "sha256: and 64 digits")),
        kubernetes=_text(
            config, "kubernetes", _matches(r"1\.(3[3-9]|[4-9]\d)", "1.33 or newer (native sidecars)"), "1.34"
        ),
        admin_role=_text(config, "admin-role", _matches(r"arn:aws:iam::\d{12}:role/.+", "a role's ARN")),
        api_cidrs=_cidrs(config, "api-cidrs", closed=True),
        gateway_cidrs=_cidrs(config, "gateway-cidrs", closed=False),
        network=network,
        nodes=_nodes("nodes", _object(config, "nodes")),
        cassandra=_nodes("cassandra", {"least": 3, "most": 3, **_object(config, "cassandra")}) if wanted else None,
    )


def _text(config: pulumi.Config, key: str, check: Callable[[str], str | None], default: str | None = None) -> str:
    found = config.get(key, default)
    if found is None:
        raise WrongSetting(f"millrace:{key} is missing: `pulumi config set millrace:{key} …`")
    if wrong := check(found):
        raise WrongSetting(f"millrace:{key} is `{found}`: {wrong}")
    return found


def _matches(pattern: str, right: str) -> Callable[[str], str | None]:
    return lambda found: None if re.fullmatch(pattern, found) else f"it must be {right}"


def _a_store(found: str) -> str | None:
    if found == "keyspaces":
        return _KEYSPACES
    return None if found in OVERLAYS else f"it must be one of {', '.join(OVERLAYS)}"


def _object(config: pulumi.Config, key: str) -> Mapping[str, Any]:
    found = config.get_object(key)
    if not isinstance(found, dict):
        raise WrongSetting(f"millrace:{key} is {'missing' if found is None else 'not an object'}: see Pulumi.prod.yaml")
    return found


def _member(key: str, found: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = found.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise WrongSetting(
            f"millrace:{key} {name} is {'missing' if value is None else f'`{value}`, not {kind.__name__}'}"
        )
    return value


def _network(found: Mapping[str, Any], region: str) -> Network:
    cidr = _member("network", found, "cidr", str)
    zones = tuple(map(str, _member("network", found, "zones", list)))
    gateways = _member("network", found, "gateways", int)
    if wrong := _a_network(cidr):
        raise WrongSetting(f"millrace:network cidr is `{cidr}`: {wrong}")
    if not 2 <= len(zones) <= 3 or len({*zones}) != len(zones) or not all(zone.startswith(region) for zone in zones):
        raise WrongSetting(f"millrace:network zones are {', '.join(zones)}: two or three different zones of {region}")
    if not 1 <= gateways <= len(zones):
        raise WrongSetting(f"millrace:network gateways is {gateways}: from 1 to the number of zones")
    return Network(cidr=cidr, zones=zones, gateways=gateways)


def _a_network(cidr: str) -> str | None:
    try:
        return (
            None
            if ipaddress.IPv4Network(cidr).prefixlen == 16
            else "it must be a /16: pods have addresses of their own"
        )
    except ValueError as error:
        return str(error)


def _nodes(key: str, found: Mapping[str, Any]) -> Nodes:
    least, most = _member(key, found, "least", int), _member(key, found, "most", int)
    if not 1 <= least <= most:
        raise WrongSetting(f"millrace:{key} least is {least} and most is {most}: 1 ≤ least ≤ most")
    return Nodes(
        type=_member(key, found, "type", str), least=least, most=most, disk_gib=_member(key, found, "disk-gib", int)
    )


def _cidrs(config: pulumi.Config, key: str, *, closed: bool) -> tuple[str, ...]:
    """`closed`: the whole internet is refused."""
    found = config.get_object(key)
    if not isinstance(found, list) or not found:
        raise WrongSetting(f"millrace:{key} must be a list of networks such as 203.0.113.0/24")
    for cidr in found:
        try:
            whole = ipaddress.ip_network(cidr).prefixlen == 0
        except ValueError as error:
            raise WrongSetting(f"millrace:{key}: {error}") from error
        if whole and closed:
            raise WrongSetting(f"millrace:{key} has {cidr}: the cluster's API is not for the whole internet")
    return tuple(found)
