"""A network of its own: private subnets for nodes, public ones for gateways and the load balancer."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi_aws as aws
from infra import settings

import pulumi

ANYWHERE = "0.0.0.0/0"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkArgs:
    network: settings.Network
    region: str
    tags: Mapping[str, str]


class Network(pulumi.ComponentResource):
    """One private subnet of 8,190 addresses and one public of 1,022 in each zone."""

    vpc_id: pulumi.Output[str]
    private: list[pulumi.Output[str]]
    """Ids of subnets, in the order of the zones."""

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("millrace:infra:Network", name, None, opts)
        self._name, self._args = name, args
        self._gateways: list[aws.ec2.NatGateway] = []
        self._child = pulumi.ResourceOptions(parent=self)
        self._vpc = aws.ec2.Vpc(
            name,
            cidr_block=args.network.cidr,
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags={**args.tags, "Name": name},
            opts=self._child,
        )
        # What is made without a group of its own can talk to nobody.
        aws.ec2.DefaultSecurityGroup(
            name, vpc_id=self._vpc.id, ingress=[], egress=[], tags={**args.tags}, opts=self._child
        )
        out = aws.ec2.InternetGateway(name, vpc_id=self._vpc.id, tags={**args.tags}, opts=self._child)
        open_table = self._table("public")
        aws.ec2.Route(
            f"{name}-public",
            route_table_id=open_table.id,
            destination_cidr_block=ANYWHERE,
            gateway_id=out.id,
            opts=self._child,
        )
        blocks = list(ipaddress.IPv4Network(args.network.cidr).subnets(new_prefix=19))
        small = list(blocks[-1].subnets(new_prefix=22))
        public = [self._subnet(zone, small[i], open_table, public=True) for i, zone in enumerate(args.network.zones)]
        tables = [self._way_out(subnet, zone) for subnet, zone in zip(public, args.network.zones, strict=True)]
        self.private = [
            self._subnet(zone, blocks[i], tables[i], public=False).id for i, zone in enumerate(args.network.zones)
        ]
        # The store's bytes do not go through the NAT gateways, which charge for each.
        aws.ec2.VpcEndpoint(
            f"{name}-s3",
            vpc_id=self._vpc.id,
            service_name=f"com.amazonaws.{args.region}.s3",
            vpc_endpoint_type="Gateway",
            route_table_ids=[table.id for table in tables],
            tags={**args.tags},
            opts=self._child,
        )
        self.vpc_id = self._vpc.id
        self.register_outputs({"vpc_id": self.vpc_id, "private": self.private})

    def _table(self, what: str) -> aws.ec2.RouteTable:
        return aws.ec2.RouteTable(
            f"{self._name}-{what}", vpc_id=self._vpc.id, tags={**self._args.tags, "Name": what}, opts=self._child
        )

    def _subnet(
        self, zone: str, block: ipaddress.IPv4Network, table: aws.ec2.RouteTable, *, public: bool
    ) -> aws.ec2.Subnet:
        name = f"{self._name}-{'public' if public else 'private'}-{zone}"
        role = "kubernetes.io/role/elb" if public else "kubernetes.io/role/internal-elb"
        subnet = aws.ec2.Subnet(
            name,
            vpc_id=self._vpc.id,
            availability_zone=zone,
            cidr_block=str(block),
            map_public_ip_on_launch=False,
            tags={**self._args.tags, "Name": name, role: "1"},
            opts=self._child,
        )
        aws.ec2.RouteTableAssociation(name, subnet_id=subnet.id, route_table_id=table.id, opts=self._child)
        return subnet

    def _way_out(self, public: aws.ec2.Subnet, zone: str) -> aws.ec2.RouteTable:
        """The private table of a zone. Zones beyond the number of gateways share the first one's."""
        table = self._table(f"private-{zone}")
        if self._args.network.zones.index(zone) < self._args.network.gateways:
            address = aws.ec2.Eip(f"{self._name}-{zone}", domain="vpc", tags={**self._args.tags}, opts=self._child)
            gateway = aws.ec2.NatGateway(
                f"{self._name}-{zone}",
                allocation_id=address.id,
                subnet_id=public.id,
                tags={**self._args.tags, "Name": zone},
                opts=self._child,
            )
            self._gateways.append(gateway)
        else:
            gateway = self._gateways[0]
        aws.ec2.Route(
            f"{self._name}-private-{zone}",
            route_table_id=table.id,
            destination_cidr_block=ANYWHERE,
            nat_gateway_id=gateway.id,
            opts=self._child,
        )
        return table
