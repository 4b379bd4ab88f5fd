"""Keys, roles, secrets and logs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from infra_pulumi.policies.policy import (
    AWS,
    BOTH,
    Inputs,
    policy,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG_DAYS_MIN = 90
# The longest that there is.
DELETION_DAYS = 30
# The actions of IAM that AWS knows for no narrower resource: they only look.
_LOOKING = re.compile(r"[a-z0-9-]+:(Describe|Get|List)[A-Za-z]*")


@policy(
    "A key that turns over limits what a leaked one opens; a lost one takes its data along.",
    "aws:kms/key:Key",
    where=AWS,
)
def keys_rotate_and_die_slowly(key: Inputs) -> Iterator[str]:
    if key.get("enableKeyRotation") is not True:
        yield "enableKeyRotation must be true"
    if key.get("deletionWindowInDays") != DELETION_DAYS:
        yield f"deletionWindowInDays must be {DELETION_DAYS}"
    for statement in _statements(key["policy"]):
        if "*" in _list(_principals(statement)):
            yield "its policy must not let everybody use it"


@policy(
    "A role may do what its name says. What reaches everything may only look.",
    "aws:iam/rolePolicy:RolePolicy",
    where=AWS,
)
def roles_may_not_do_everything(policy: Inputs) -> Iterator[str]:
    for statement in _statements(policy["policy"]):
        for action in _list(statement["Action"]):
            if "*" in action:
                yield f"{action} must be spelt out"
            narrowed = "*" not in _list(statement["Resource"]) or "Condition" in statement
            if not narrowed and not _LOOKING.fullmatch(action):
                yield f"{action} must name what it may touch"


@policy(
    "Only AWS's services take a role here, and pods only as one service account of one namespace.",
    "aws:iam/role:Role",
    where=AWS,
)
def roles_trust_one_service(role: Inputs) -> Iterator[str]:
    for statement in _statements(role["assumeRolePolicy"]):
        services = _list(statement["Principal"].get("Service", []))
        if len(services) != 1 or set(statement["Principal"]) != {"Service"}:
            yield f"must trust one service, not {statement['Principal']}"
        if services == ["pods.eks.amazonaws.com"]:
            asked = statement.get("Condition", {}).get("StringEquals", {})
            if {
                "aws:RequestTag/kubernetes-namespace",
                "aws:RequestTag/kubernetes-service-account",
            } - set(asked):
                yield "must name the pod's namespace and service account"


@policy(
    "A secret is encrypted by the stack's own key, not by one that the whole account may use.",
    "aws:secretsmanager/secret:Secret",
    where=AWS,
)
def secrets_have_a_key_of_their_own(secret: Inputs) -> Iterator[str]:
    if not secret.get("kmsKeyId"):
        yield "kmsKeyId is missing"


@policy(
    "Logs are evidence: encrypted, and there when last quarter is asked about.",
    "aws:cloudwatch/logGroup:LogGroup",
    where=AWS,
)
def logs_are_encrypted_and_kept(group: Inputs) -> Iterator[str]:
    if not group.get("kmsKeyId"):
        yield "kmsKeyId is missing"
    if not group.get("retentionInDays", 0) >= LOG_DAYS_MIN:
        yield f"retentionInDays must be at least {LOG_DAYS_MIN}"


@policy(
    "Templates say where a secret goes, never what it is.",
    "ExternalSecret",
    where=BOTH,
)
def templates_hold_no_secret(secret: Inputs) -> Iterator[str]:
    for key, value in secret["spec"]["target"]["template"]["data"].items():
        if key.endswith(("password", "url", "hex")) and "{{" not in value:
            yield f"{key} must be a template"


@policy(
    "A Secret written by the program would be in its state, or in a manifest.",
    "Secret",
    where=(),
)
def no_secret_is_written_here(secret: Inputs) -> Iterator[str]:
    yield f"{secret['metadata']['name']} must be made by the External Secrets operator"


def _statements(policy: str) -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = json.loads(policy)["Statement"]
    return statements


def _principals(statement: dict[str, Any]) -> list[str]:
    principal = statement.get("Principal", {})
    if isinstance(principal, str):
        return [principal]
    return [name for names in principal.values() for name in _list(names)]


def _list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
