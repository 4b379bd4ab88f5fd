"""The network: public subnets for what faces callers, private ones for pods, data ones for data.

The data subnets have no route out at all. S3 is always called inside the network, AWS's other
services where the stack says so.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pulumi
import pulumi_aws as aws
from pydantic import AfterValidator

from infra_pulumi.iam_roles import service_role
from infra_pulumi.kms_keys import layer_key, log_group
from infra_pulumi.section import Problem, Section, Texts, matching, network_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra_pulumi.config import Stack


# A quarter of the network is a zone's for pods, a sixty-fourth for everything else: subnets().
PREFIX_MAX = 20
ZONES_MIN, ZONES_MAX = 2, 3

# What nodes, the External Secrets operator and the pods' identities call.
INTERFACE_ENDPOINTS = (
    "autoscaling",
    "ec2",
    "ecr.api",
    "ecr.dkr",
    "eks-auth",
    "elasticloadbalancing",
    "kms",
    "logs",
    "secretsmanager",
    "sts",
)


def _zones(zones: tuple[str, ...]) -> tuple[str, ...]:
    if not ZONES_MIN <= len(set(zones)) == len(zones) <= ZONES_MAX:
        message = f"must be {ZONES_MIN} or {ZONES_MAX} different zones"
        raise ValueError(message)
    return zones


def _private(cidr: str) -> str:
    network = network_of(cidr)
    if network is None or not network.is_private or network.prefixlen > PREFIX_MAX:
        message = f"must be a private network of /{PREFIX_MAX} or more addresses, not '{cidr}'"
        raise ValueError(message)
    return cidr


class AwsConfig(Section):
    """The account and the network in it. A program that runs in another account stops."""

    account: Annotated[str, matching(r"\d{12}", "must be 12 digits, not {}")]
    region: str
    zones: Annotated[Texts, AfterValidator(_zones)]
    cidr: Annotated[str, AfterValidator(_private)]
    # One gateway is cheaper, one a zone outlives the loss of a zone.
    nat: Literal["one", "per-zone"]
    # Whether AWS's services are called inside the network; else through the NAT gateways.
    interface_endpoints: bool

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        del stack
        for zone in self.zones:
            if not zone.startswith(self.region):
                yield "zones", f"{zone} is not in {self.region}"


def in_account(place: AwsConfig) -> pulumi.ResourceOptions:
    """Return how everything in AWS is made: in any other account the preview stops."""
    provider = aws.Provider(
        "aws",
        region=place.region,
        allowed_account_ids=[place.account],
        default_tags={"tags": {"project": "saldo", "stack": pulumi.get_stack()}},
    )
    return pulumi.ResourceOptions(providers={"aws": provider})


def subnets(cidr: str, zones: int) -> dict[str, list[str]]:
    """Return the subnets of ``cidr`` by their kind, one a zone.

    Pods take addresses of the network, so a zone's private subnet is a quarter of it; public and
    data subnets share the last quarter.
    """
    *quarters, last = ipaddress.IPv4Network(cidr).subnets(prefixlen_diff=2)
    small = list(last.subnets(prefixlen_diff=4))
    return {
        "private": [str(net) for net in quarters[:zones]],
        "public": [str(net) for net in small[:zones]],
        "data": [str(net) for net in small[zones : 2 * zones]],
    }


class Network(pulumi.ComponentResource):
    """The network of one stack."""

    vpc_id: pulumi.Output[str]
    subnet_ids: dict[str, list[pulumi.Output[str]]]
    # For rules that cannot name a security group: NetworkPolicies.
    data_cidrs: list[str]
    # Whoever calls AWS inside the network is let in by a rule on this group. None without any.
    endpoints: aws.ec2.SecurityGroup | None

    def __init__(
        self, name: str, stack: Stack, place: AwsConfig, opts: pulumi.ResourceOptions
    ) -> None:
        super().__init__("saldo:layer:Network", name, None, opts)
        self._place, self._name = place, f"saldo-{pulumi.get_stack()}"
        self._own = pulumi.ResourceOptions(parent=self)
        cidrs = subnets(place.cidr, len(place.zones))
        vpc = aws.ec2.Vpc(
            "network",
            cidr_block=place.cidr,
            # Interface endpoints answer under AWS's own names.
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags={"Name": self._name},
            opts=self._own,
        )
        self.vpc_id = vpc.id
        # The group that AWS gives to whatever names none: taken over, and emptied.
        aws.ec2.DefaultSecurityGroup("none", vpc_id=vpc.id, opts=self._own)
        self.subnet_ids = {
            kind: [
                self._subnet(kind, zone, cidr)
                for zone, cidr in zip(place.zones, cidrs[kind], strict=True)
            ]
            for kind in cidrs
        }
        self.data_cidrs = cidrs["data"]
        tables = self._routes()
        self._gateway_endpoint(tables)
        self.endpoints = self._interface_endpoints() if place.interface_endpoints else None
        self._flow_logs(protect=stack.protected)
        self.register_outputs({"vpcId": self.vpc_id})

    def _subnet(self, kind: str, zone: str, cidr: str) -> pulumi.Output[str]:
        subnet = aws.ec2.Subnet(
            f"{kind}-{zone}",
            vpc_id=self.vpc_id,
            availability_zone=zone,
            cidr_block=cidr,
            # Only load balancers and NAT gateways are public, and they bring their own addresses.
            map_public_ip_on_launch=False,
            tags={"Name": f"{self._name}-{kind}-{zone}"},
            opts=self._own,
        )
        return subnet.id

    def _routes(self) -> list[pulumi.Output[str]]:
        """Make the route tables; return those of the private and data subnets."""
        zones = self._place.zones
        internet = aws.ec2.InternetGateway("internet", vpc_id=self.vpc_id, opts=self._own)
        public = self._table("public", self.subnet_ids["public"])
        aws.ec2.Route(
            "public",
            route_table_id=public.id,
            destination_cidr_block="0.0.0.0/0",
            gateway_id=internet.id,
            opts=self._own,
        )
        gateways = []
        for index, zone in enumerate(zones if self._place.nat == "per-zone" else zones[:1]):
            address = aws.ec2.Eip(f"nat-{zone}", domain="vpc", opts=self._own)
            gateways.append(
                aws.ec2.NatGateway(
                    f"nat-{zone}",
                    allocation_id=address.id,
                    subnet_id=self.subnet_ids["public"][index],
                    opts=pulumi.ResourceOptions(parent=self, depends_on=[internet]),
                )
            )
        tables = []
        for index, zone in enumerate(zones):
            private = self._table(f"private-{zone}", [self.subnet_ids["private"][index]])
            # Identity providers, certificate authorities and images of the operators.
            aws.ec2.Route(
                f"private-{zone}",
                route_table_id=private.id,
                destination_cidr_block="0.0.0.0/0",
                nat_gateway_id=gateways[index % len(gateways)].id,
                opts=self._own,
            )
            tables.append(private.id)
        tables.append(self._table("data", self.subnet_ids["data"]).id)
        return tables

    def _table(self, name: str, members: list[pulumi.Output[str]]) -> aws.ec2.RouteTable:
        table = aws.ec2.RouteTable(
            name, vpc_id=self.vpc_id, tags={"Name": f"{self._name}-{name}"}, opts=self._own
        )
        for index, subnet in enumerate(members):
            aws.ec2.RouteTableAssociation(
                f"{name}-{index}", route_table_id=table.id, subnet_id=subnet, opts=self._own
            )
        return table

    def _gateway_endpoint(self, tables: list[pulumi.Output[str]]) -> None:
        aws.ec2.VpcEndpoint(
            "s3",
            vpc_id=self.vpc_id,
            service_name=f"com.amazonaws.{self._place.region}.s3",
            vpc_endpoint_type="Gateway",
            # The layers of ECR's images lie in S3.
            route_table_ids=tables,
            opts=self._own,
        )

    def _interface_endpoints(self) -> aws.ec2.SecurityGroup:
        group = aws.ec2.SecurityGroup(
            "endpoints",
            vpc_id=self.vpc_id,
            description="AWS services, from the cluster",
            tags={"Name": f"{self._name}-endpoints"},
            opts=self._own,
        )
        for service in INTERFACE_ENDPOINTS:
            aws.ec2.VpcEndpoint(
                service,
                vpc_id=self.vpc_id,
                service_name=f"com.amazonaws.{self._place.region}.{service}",
                vpc_endpoint_type="Interface",
                private_dns_enabled=True,
                subnet_ids=self.subnet_ids["private"],
                security_group_ids=[group.id],
                opts=self._own,
            )
        return group

    def _flow_logs(self, *, protect: bool) -> None:
        key = layer_key("network", self._place, parent=self, protect=protect, logs=True)
        group = log_group("flow-logs", f"/saldo/{self._name}/flow-logs", key, parent=self)
        role = service_role(
            "flow-logs",
            "vpc-flow-logs.amazonaws.com",
            parent=self,
            account=self._place.account,
        )
        aws.iam.RolePolicy(
            "flow-logs",
            role=role.name,
            policy=pulumi.Output.json_dumps(
                {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Effect": "Allow",
                            "Action": [
                                "logs:CreateLogStream",
                                "logs:DescribeLogStreams",
                                "logs:PutLogEvents",
                            ],
                            "Resource": [group.arn, pulumi.Output.concat(group.arn, ":*")],
                        }
                    ],
                }
            ),
            opts=self._own,
        )
        aws.ec2.FlowLog(
            "network",
            vpc_id=self.vpc_id,
            traffic_type="ALL",
            log_destination=group.arn,
            iam_role_arn=role.arn,
            opts=self._own,
        )
