"""The way in from the internet: one load balancer that passes TLS on, and the functions' names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import pulumi
import pulumi_aws as aws

from infra_pulumi.custom_resources import custom_resource
from infra_pulumi.layers.isolation import SERVING
from infra_pulumi.parts import FUNCTIONS
from infra_pulumi.section import (
    AT_LEAST_ONE,
    FROM_LIST,
    AnyCidr,
    Problem,
    Section,
    matching,
    only_in,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from infra_pulumi.config import Stack
    from infra_pulumi.layers.eks.cluster import Cluster
    from infra_pulumi.layers.network import Network


# Where Kourier's pods take TLS; its Service is called kourier in Serving's namespace.
KOURIER_TLS_PORT = 8443
HTTPS = 443
NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}"


class EdgeConfig(Section):
    """The names under which callers reach the functions, and who certifies them."""

    domain: Annotated[str, matching(DOMAIN, "{} is not a domain")]
    # Both for a certificate that browsers know, neither for one that the cluster signs itself.
    acme_email: str | None = None
    hosted_zone: str | None = None
    # Who may reach the load balancer: everybody, or those behind a gateway or WAF of yours.
    caller_cidrs: Annotated[tuple[AnyCidr, ...], FROM_LIST, AT_LEAST_ONE] | None = None
    # Whose pods pass requests on: where Knative is there already, its gateway's namespace.
    gateway_namespace: Annotated[str, matching(NAME, "{} is not the name of a namespace")] = SERVING
    # Other than 443 where a port-forward leads there: part of the origin that browsers name.
    port: int = HTTPS

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        names = {
            "acmeEmail": self.acme_email,
            "hostedZone": self.hosted_zone,
            "callerCidrs": self.caller_cidrs,
        }
        yield from only_in("aws", stack, names)
        if stack.get("shape") == "aws" and self.port != HTTPS:
            yield "port", f"the load balancer listens on {HTTPS} only"
        if stack.get("knative") is not None and self.gateway_namespace != SERVING:
            yield "gatewayNamespace", f"is {SERVING} unless saldo:knative is existing"


class Edge(pulumi.ComponentResource):
    """The load balancer and the names of one stack in AWS."""

    def __init__(
        self,
        name: str,
        stack: Stack,
        hosted_zone: str,
        network: Network,
        cluster: Cluster,
        knative: Sequence[pulumi.Resource],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Edge", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        title = f"saldo-{pulumi.get_stack()}"
        group = aws.ec2.SecurityGroup(
            "edge",
            vpc_id=network.vpc_id,
            description="Callers of the functions",
            tags={"Name": f"{title}-edge"},
            opts=own,
        )
        for cidr in stack.edge.caller_cidrs or ():
            aws.vpc.SecurityGroupIngressRule(
                f"callers-{cidr}",
                security_group_id=group.id,
                description="HTTPS; a token is asked for inside",
                ip_protocol="tcp",
                from_port=443,
                to_port=443,
                cidr_ipv4=cidr,
                opts=own,
            )
        cluster.allow("edge-to-kourier", group, cluster.nodes, (KOURIER_TLS_PORT, KOURIER_TLS_PORT))
        balancer = aws.lb.LoadBalancer(
            "edge",
            name=title,
            load_balancer_type="network",
            internal=False,
            subnets=network.subnet_ids["public"],
            security_groups=[group.id],
            enable_cross_zone_load_balancing=True,
            enable_deletion_protection=stack.protected,
            opts=own,
        )
        self._gateway = stack.edge.gateway_namespace
        self._forward(balancer, network, cluster, knative)
        self._records(balancer, hosted_zone, stack.edge.domain)
        self.register_outputs({"address": balancer.dns_name})

    def _forward(
        self,
        balancer: aws.lb.LoadBalancer,
        network: Network,
        cluster: Cluster,
        knative: Sequence[pulumi.Resource],
    ) -> None:
        """Pass TLS on to Kourier, whose pods the cluster's controller registers."""
        own = pulumi.ResourceOptions(parent=self)
        targets = aws.lb.TargetGroup(
            "edge",
            # The controller may register with target groups of this prefix only.
            name=f"saldo-{pulumi.get_stack()}-kourier",
            target_type="ip",
            protocol="TCP",
            port=KOURIER_TLS_PORT,
            vpc_id=network.vpc_id,
            # As long as a request may take, and then some: see Scaling.timeout_s.
            deregistration_delay=120,
            # Kourier sees the balancer's address; callers are known by their tokens.
            preserve_client_ip="false",
            health_check=aws.lb.TargetGroupHealthCheckArgs(protocol="TCP", interval=10),
            opts=own,
        )
        aws.lb.Listener(
            "edge",
            load_balancer_arn=balancer.arn,
            protocol="TCP",
            port=443,
            default_actions=[
                aws.lb.ListenerDefaultActionArgs(type="forward", target_group_arn=targets.arn)
            ],
            opts=own,
        )
        custom_resource(
            "edge",
            "elbv2.k8s.aws/v1beta1",
            "TargetGroupBinding",
            {
                "targetGroupARN": targets.arn,
                "targetType": "ip",
                "serviceRef": {"name": "kourier", "port": 443},
            },
            namespace=self._gateway,
            opts=pulumi.ResourceOptions(
                parent=self, provider=cluster.provider, depends_on=list(knative)
            ),
        )

    def _records(self, balancer: aws.lb.LoadBalancer, hosted_zone: str, domain: str) -> None:
        for function in FUNCTIONS:
            if function.host is not None:
                aws.route53.Record(
                    function.service,
                    zone_id=hosted_zone,
                    name=f"{function.host}.{domain}",
                    type="A",
                    aliases=[
                        aws.route53.RecordAliasArgs(
                            name=balancer.dns_name,
                            zone_id=balancer.zone_id,
                            evaluate_target_health=True,
                        )
                    ],
                    opts=pulumi.ResourceOptions(parent=self),
                )
