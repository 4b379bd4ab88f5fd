"""Kafka and PostgreSQL that are there already: how policies and security groups name them.

A Service of the cluster is named by its namespace, anything else by its networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from infra_pulumi.layers.isolation import LINK_LOCAL, Way, namespace, networks
from infra_pulumi.section import FROM_LIST, Cidr, Problem, matching

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# A host and its port.
Address = tuple[str, int]

HOST = r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?"
PORT_MAX = 65_535
SecretName = Annotated[str, matching(HOST, "{} is not the name of a Secret")]
Cidrs = Annotated[tuple[Cidr, ...], FROM_LIST]


def namespace_of(host: str) -> str | None:
    """Return the namespace of a Service of the cluster; None for any other name."""
    name, _, suffix = host.removesuffix(".cluster.local").rpartition(".")
    return name.rpartition(".")[2] if suffix == "svc" and "." in name else None


def ways(addresses: Sequence[Address], cidrs: Sequence[str]) -> list[Way]:
    """Return what a NetworkPolicy lets through to ``addresses``.

    A policy sees a pod's port, not its Service's, so a namespace is let through on all of them.
    """
    spaces = sorted({space for host, _ in addresses if (space := namespace_of(host))})
    ports = sorted({port for host, port in addresses if namespace_of(host) is None})
    anywhere = {"ipBlock": {"cidr": "0.0.0.0/0", "except": [LINK_LOCAL]}}
    found = []
    if spaces:
        found.append(Way(peers=tuple(namespace(space) for space in spaces), ports=()))
    if ports:
        found.append(Way(peers=networks(cidrs) or (anywhere,), ports=tuple(ports)))
    return found


def unreachable(
    stack: Mapping[str, Any], addresses: Sequence[Address], cidrs: Sequence[str]
) -> Iterator[Problem]:
    """Yield what is wrong between ``addresses`` and the networks that are named for them."""
    outside = [host for host, _ in addresses if namespace_of(host) is None]
    if outside and not cidrs and stack.get("shape") == "aws":
        networks_of = f"must name the networks of {outside[0]}"
        yield "cidrs", f"is missing: the nodes' security group {networks_of}"
    if cidrs and not outside:
        yield "cidrs", "means nothing: every address is a Service of the cluster"
