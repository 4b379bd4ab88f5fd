"""The policies of policies.py inside `pulumi preview --policy-pack infra_pulumi/policy_pack`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from infra_pulumi.policies import POLICIES, Policy

if TYPE_CHECKING:
    from collections.abc import Callable


def _validator(policy: Policy) -> Callable[[ResourceValidationArgs, ReportViolation], None]:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        if policy.applies(args.resource_type, args.props):
            for problem in policy.check(args.props):
                report(f"{args.name}: {problem}", None)

    return validate


PolicyPack(
    name="saldo",
    enforcement_level=EnforcementLevel.MANDATORY,
    policies=[
        ResourceValidationPolicy(
            name=policy.name, description=policy.why, validate=_validator(policy)
        )
        for policy in POLICIES
    ],
)
