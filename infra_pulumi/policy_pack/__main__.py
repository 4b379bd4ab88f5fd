"""The policies of ../policies inside `pulumi preview --policy-pack infra_pulumi/policy_pack`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
)
from pulumi_policy.proxy import UnknownValueError

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from infra_pulumi.policies import POLICIES, Policy

if TYPE_CHECKING:
    from collections.abc import Callable


# Stands for what the cloud has yet to say, in a preview: it is there, it is not empty, and like a
# template it is not what it will be.
UNKNOWN = "{{ known once it is made }}"


def _validator(policy: Policy) -> Callable[[ResourceValidationArgs, ReportViolation], None]:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        inputs = _plain(args.props)
        if not policy.applies(args.resource_type, inputs):
            return
        try:
            problems = list(policy.check(inputs))
        except ValueError:
            # A document that is not known yet; it is judged when it is, before it is sent.
            if UNKNOWN in _texts(inputs):
                return
            raise
        for problem in problems:
            report(f"{args.name}: {problem}", None)

    return validate


def _plain(value: Any) -> Any:
    """``value`` without the pack's proxies, which equal nothing and raise at what is unknown."""
    if isinstance(value, Mapping):
        return {key: _known(value, key) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_known(value, index) for index in range(len(value))]
    return value


def _known(container: Any, key: Any) -> Any:
    try:
        return _plain(container[key])
    except UnknownValueError:
        return UNKNOWN


def _texts(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {text for item in value.values() for text in _texts(item)}
    if isinstance(value, list):
        return {text for item in value for text in _texts(item)}
    return {value} if isinstance(value, str) else set()


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
