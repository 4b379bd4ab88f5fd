"""The policies over every stack: how many resources each saw, and that each notices a breach."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from infra_pulumi.capture import stack_values
from infra_pulumi.policies import POLICIES, Policy, violations
from tests.infra.breaches import BREACHES

if TYPE_CHECKING:
    from infra_pulumi.capture import Captured
    from tests.infra.breaches import Breach
    from tests.infra.conftest import RecordProperty

# What the mocks never show them: nothing may be in the first one's scope, and only the engine sees
# into pulumi-eks.
UNSEEN: dict[str, dict[str, Any]] = {
    "no-secret-is-written-here": {"kind": "Secret", "metadata": {"name": "x"}},
    "made-clusters-are-closed-and-logged": {
        "accessConfig": {"authenticationMode": "API"},
        "vpcConfig": {
            "endpointPrivateAccess": True,
            "endpointPublicAccess": True,
            "publicAccessCidrs": ["203.0.113.7/32"],
        },
        "enabledClusterLogTypes": ["api", "audit"],
        "encryptionConfig": {"provider": {"keyArn": "arn"}},
    },
}


def test_no_resource_breaks_a_policy(captured: Captured) -> None:
    found = [
        f"{resource.urn}: {policy.name}: {problem}"
        for resource in captured.resources
        for policy, problem in violations(resource.type, resource.inputs)
    ]

    assert not found


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_a_policy_sees_resources_in_every_stack_it_should(
    policy: Policy, stack: str, captured: Captured, record_property: RecordProperty
) -> None:
    values = stack_values(stack)
    tags = {values["shape"], values["kafka"]["kind"]}
    seen = [r.name for r in captured.resources if policy.applies(r.type, r.inputs)]
    record_property("resources seen", len(seen))

    if policy.name in UNSEEN:
        assert not seen
    elif policy.where & tags:
        assert seen, f"{policy.name} judged no resource of {stack}"


def test_every_policy_has_a_breach_to_test() -> None:
    assert {policy.name for policy in POLICIES} == {breach.policy for breach in BREACHES}


@pytest.mark.parametrize("breach", BREACHES, ids=lambda breach: f"{breach.policy}-{breach.says}")
def test_a_breach_is_found(breach: Breach, captures: dict[str, Captured]) -> None:
    policy = next(policy for policy in POLICIES if policy.name == breach.policy)
    whole = [r for captured in captures.values() for r in captured.resources]
    candidates = [
        copy.deepcopy(r.inputs)
        for r in whole
        if policy.applies(r.type, r.inputs) and breach.of(r.inputs)
    ]
    if breach.policy in UNSEEN:
        candidates = [copy.deepcopy(UNSEEN[breach.policy])]
    assert candidates, "there is nothing that could break it"

    inputs = candidates[0]
    breach.do(inputs)

    assert any(breach.says in problem for problem in policy.check(inputs))
