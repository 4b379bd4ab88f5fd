"""What checkov finds and stays as it is: where, and why. An entry that nothing needs fails."""

from __future__ import annotations

from dataclasses import dataclass

AWS_STACKS = frozenset({"dev", "prod"})
DEV = frozenset({"dev"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Suppression:
    """One finding on one resource of some stacks."""

    check: str
    resource: str
    why: str
    stacks: frozenset[str] = AWS_STACKS


SUPPRESSIONS = (
    Suppression(
        check="CKV_AWS_39",
        resource="aws_eks_cluster.cluster",
        why="The public endpoint is narrowed to named addresses, so that `pulumi up` from a desk"
        " works; publicAccessCidrs: [] turns it off. The configuration refuses the whole internet.",
    ),
    Suppression(
        check="CKV_AWS_91",
        resource="aws_lb.edge",
        why="A network load balancer logs the connections of TLS listeners only; this one passes"
        " TLS on. The flow logs have its connections, Kourier and the functions the requests.",
    ),
    Suppression(
        check="CKV_AWS_226",
        resource="aws_db_instance.database",
        why="The minor version is pinned in versions.py and raised there: an upgrade by itself"
        " would be a restart nobody planned, and a difference in every later preview.",
    ),
    Suppression(
        check="CKV2_AWS_30",
        resource="aws_db_instance.database",
        why="Statements above one second are logged, not all: at thousands of commits a second the"
        " log would cost more than the writes, and its lines say nothing new.",
    ),
    Suppression(
        check="CKV2_AWS_57",
        resource="aws_secretsmanager_secret.hash",
        why="It keys the hashes of idempotency keys: another key would take a repeated request"
        " for a new one. docs/deploy.md says what to do if it leaks.",
    ),
    Suppression(
        check="CKV2_AWS_57",
        resource="aws_secretsmanager_secret.operate",
        why="The migrations give the role its password: a new one is a replacement in Pulumi and a"
        " run of them, which no timer does in that order: docs/deploy.md.",
    ),
    Suppression(
        check="CKV2_AWS_57",
        resource="aws_secretsmanager_secret.kafka_source",
        why="MSK and the source must change together, which rotation by a timer does not do; a new"
        " password is one replacement in Pulumi: docs/deploy.md.",
        stacks=frozenset({"prod"}),
    ),
    Suppression(
        check="CKV_AWS_150",
        resource="aws_lb.edge",
        why="Not protected: a stack that may be thrown away.",
        stacks=DEV,
    ),
    Suppression(
        check="CKV_AWS_293",
        resource="aws_db_instance.database",
        why="Not protected: a stack that may be thrown away.",
        stacks=DEV,
    ),
    Suppression(
        check="CKV_AWS_157",
        resource="aws_db_instance.database",
        why="Not protected: a stack that may be thrown away.",
        stacks=DEV,
    ),
)
