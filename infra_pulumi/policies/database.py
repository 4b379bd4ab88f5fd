"""PostgreSQL by RDS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra_pulumi.policies.policy import (
    AWS,
    Inputs,
    differences,
    policy,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@policy(
    "The truth is private, encrypted, backed up, and nobody knows its owner's password.",
    "aws:rds/instance:Instance",
    where=AWS,
)
def databases_are_private_and_kept(instance: Inputs) -> Iterator[str]:
    must = {
        "publiclyAccessible": False,
        "storageEncrypted": True,
        "iamDatabaseAuthenticationEnabled": True,
        "manageMasterUserPassword": True,
        "copyTagsToSnapshot": True,
        "autoMinorVersionUpgrade": False,
        "performanceInsightsEnabled": True,
    }
    yield from differences(instance, must)
    for name in ("kmsKeyId", "masterUserSecretKmsKeyId", "monitoringRoleArn", "caCertIdentifier"):
        if not instance.get(name):
            yield f"{name} is missing"
    if "password" in instance:
        yield "a password must not be in the program"
    if not instance.get("backupRetentionPeriod", 0) >= 1:
        yield "backupRetentionPeriod must be at least 1"


@policy(
    "No client may talk in the clear, and the budget of connections is computed from this number.",
    "aws:rds/parameterGroup:ParameterGroup",
    where=AWS,
)
def databases_force_tls(group: Inputs) -> Iterator[str]:
    parameters = {p["name"]: str(p["value"]) for p in group.get("parameters", [])}
    if parameters.get("rds.force_ssl") != "1":
        yield "rds.force_ssl must be 1"
    if not parameters.get("max_connections", "").isdecimal():
        yield "max_connections must be said"
