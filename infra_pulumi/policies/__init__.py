"""What must hold of every resource of every stack, and why: one list, one module for each subject.

The tests run it over all that the program asks for, each policy stating how many resources it saw;
the policy pack beside this folder runs it inside ``pulumi preview``, where a violation stops the
deployment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra_pulumi.policies import access, cluster, database, kafka, network, workloads
from infra_pulumi.policies.policy import Policy

if TYPE_CHECKING:
    from infra_pulumi.policies.policy import Inputs

__all__ = ["POLICIES", "Policy", "violations"]

POLICIES = tuple(
    found
    for module in (network, access, cluster, database, kafka, workloads)
    for found in vars(module).values()
    if isinstance(found, Policy)
)


def violations(resource_type: str, inputs: Inputs) -> list[tuple[Policy, str]]:
    """Return every way in which one resource breaks a policy."""
    return [
        (policy, problem)
        for policy in POLICIES
        if policy.applies(resource_type, inputs)
        for problem in policy.check(inputs)
    ]
