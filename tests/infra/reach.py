"""Who may talk to whom, judged from NetworkPolicies as Kubernetes judges it.

A pod that no policy selects for a direction may do anything in it. One that is selected may do what
some policy that selects it allows. Both ends must agree.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

Policy = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pod:
    """A pod, by what policies can know of it."""

    namespace: str
    labels: dict[str, str] = field(default_factory=dict)
    address: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outside:
    """An address that is no pod's."""

    address: str


End = Pod | Outside


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A call that must be possible, or must not."""

    what: str
    caller: End
    called: End
    port: int
    possible: bool
    protocol: str = "TCP"


def wrong(policies: Iterable[Policy], calls: Iterable[Call]) -> list[str]:
    """Return what each call is that the policies judge otherwise than it says."""
    kept = list(policies)
    return [
        f"{'must' if call.possible else 'must not'} be possible: {call.what}, port {call.port}"
        for call in calls
        if _possible(kept, call) != call.possible
    ]


def _possible(policies: list[Policy], call: Call) -> bool:
    return _agrees(policies, "Egress", call.caller, call.called, call) and _agrees(
        policies, "Ingress", call.called, call.caller, call
    )


def _agrees(policies: list[Policy], direction: str, end: End, peer: End, call: Call) -> bool:
    """Whether ``end`` may have this call with ``peer`` in that direction."""
    if isinstance(end, Outside):
        return True
    ours = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == end.namespace
        and direction in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], end.labels)
    ]
    side = "to" if direction == "Egress" else "from"
    rules = [rule for spec in ours for rule in spec.get(direction.lower(), [])]
    return not ours or any(
        _port(rule, call) and any(_peer(one, end.namespace, peer) for one in rule[side])
        for rule in rules
    )


def _port(rule: dict[str, Any], call: Call) -> bool:
    ports = rule.get("ports")
    return not ports or any(
        (p["protocol"], int(p["port"])) == (call.protocol, call.port) for p in ports
    )


def _peer(peer: dict[str, Any], own_namespace: str, end: End) -> bool:
    """Whether one entry of a rule means ``end``."""
    if "ipBlock" in peer:
        address = ipaddress.ip_address(end.address)
        block = peer["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(excepted) for excepted in block.get("except", [])
        )
    if isinstance(end, Outside):
        return False
    if "namespaceSelector" in peer:
        its_labels = {"kubernetes.io/metadata.name": end.namespace}
        if not _selects(peer["namespaceSelector"], its_labels):
            return False
    elif end.namespace != own_namespace:
        return False
    return _selects(peer.get("podSelector", {}), end.labels)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert not set(selector) - {"matchLabels"}, "nothing else is used, or judged here"
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()
