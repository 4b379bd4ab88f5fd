"""Who may call whom, and how."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from infra_pulumi.policies.policy import (
    AWS,
    BOTH,
    CLUSTER,
    Inputs,
    policy,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

HTTPS = 443


@policy(
    "Only load balancers and NAT gateways are public, and they bring their own addresses.",
    "aws:ec2/subnet:Subnet",
    where=AWS,
)
def subnets_hand_out_no_public_addresses(subnet: Inputs) -> Iterator[str]:
    if subnet.get("mapPublicIpOnLaunch") is not False:
        yield "mapPublicIpOnLaunch must be false"


@policy(
    "Rules stand on their own: one written inside its group would fight with the others.",
    "aws:ec2/securityGroup:SecurityGroup",
    "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup",
    where=AWS,
)
def security_groups_have_no_rules_inside(group: Inputs) -> Iterator[str]:
    if group.get("ingress") or group.get("egress"):
        yield "ingress and egress must be resources of their own"


@policy(
    "Groups let groups in. The internet is let in to HTTPS, and that is all.",
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule",
    where=AWS,
)
def rules_let_in_groups_or_https(rule: Inputs) -> Iterator[str]:
    if not _of_groups_or_https(rule):
        yield f"open to {rule.get('cidrIpv4')} on ports {rule.get('fromPort')}-{rule.get('toPort')}"


@policy(
    "The internet is called by HTTPS; a Kafka or PostgreSQL that was there before, by its network.",
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule",
    where=AWS,
)
def rules_let_out_to_groups_https_or_one_port_of_a_network(rule: Inputs) -> Iterator[str]:
    low, high, network = rule.get("fromPort"), rule.get("toPort"), rule.get("cidrIpv4")
    narrow = network is not None and ipaddress.ip_network(network).prefixlen > 0
    if not _of_groups_or_https(rule) and not (narrow and low == high is not None):
        yield f"may call {network} on ports {low}-{high}"


def _of_groups_or_https(rule: Inputs) -> bool:
    ports = (rule.get("fromPort"), rule.get("toPort"))
    return bool(rule.get("referencedSecurityGroupId")) or ports == (HTTPS, HTTPS)


@policy(
    "Callers come by TLS, which is ended where their certificate is.",
    "aws:lb/listener:Listener",
    where=AWS,
)
def listeners_take_https_only(listener: Inputs) -> Iterator[str]:
    if listener.get("port") != HTTPS or listener.get("protocol") != "TCP":
        yield "must pass port 443 on, and no other"


@policy(
    "Callers come by the stack's names and its load balancer, and by no other way.",
    "Service",
    "Ingress",
    where=CLUSTER,
)
def services_stay_inside(service: Inputs) -> Iterator[str]:
    if service["kind"] == "Ingress":
        yield "there must be none"
    if service["spec"].get("type", "ClusterIP") != "ClusterIP":
        yield "type must be ClusterIP"


@policy("A name that callers use has a certificate.", "DomainMapping", where=BOTH)
def names_have_certificates(mapping: Inputs) -> Iterator[str]:
    if not mapping["spec"].get("tls", {}).get("secretName"):
        yield "tls.secretName is missing"


@policy(
    "A policy that lets everybody in or out of everything is none.",
    "NetworkPolicy",
    where=BOTH,
)
def network_policies_name_peers(policy: Inputs) -> Iterator[str]:
    spec = policy["spec"]
    for side, peers in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(side, []):
            if not rule.get(peers):
                yield f"every {side} rule must name its peers"
    if not spec.get("policyTypes"):
        yield "policyTypes must be said"
