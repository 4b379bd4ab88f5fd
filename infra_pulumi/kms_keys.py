"""Encryption keys, one a layer: who may decrypt one layer's data may not decrypt another's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_aws as aws

if TYPE_CHECKING:
    from infra_pulumi.layers.network import AwsConfig

# The longest that AWS offers: a deleted key takes its data along.
DELETION_DAYS = 30


def layer_key(
    layer: str, place: AwsConfig, *, parent: pulumi.Resource, protect: bool, logs: bool = False
) -> aws.kms.Key:
    """Make a rotating key for ``layer``; ``logs`` lets CloudWatch encrypt its log groups."""
    statements: list[dict[str, Any]] = [
        {
            # Who may use the key is then decided by IAM policies, as for any other resource.
            "Sid": "AccountDecidesByIam",
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{place.account}:root"},
            "Action": "kms:*",
            "Resource": "*",
        }
    ]
    if logs:
        statements.append(
            {
                "Sid": "CloudWatchEncryptsThisAccountsLogs",
                "Effect": "Allow",
                "Principal": {"Service": f"logs.{place.region}.amazonaws.com"},
                "Action": [
                    "kms:Encrypt*",
                    "kms:Decrypt*",
                    "kms:ReEncrypt*",
                    "kms:GenerateDataKey*",
                    "kms:Describe*",
                ],
                "Resource": "*",
                "Condition": {
                    "ArnLike": {
                        "kms:EncryptionContext:aws:logs:arn": (
                            f"arn:aws:logs:{place.region}:{place.account}:log-group:*"
                        )
                    }
                },
            }
        )
    stack = pulumi.get_stack()
    key = aws.kms.Key(
        layer,
        description=f"Saldo {stack}: {layer}",
        enable_key_rotation=True,
        deletion_window_in_days=DELETION_DAYS,
        policy=json.dumps({"Version": "2012-10-17", "Statement": statements}),
        opts=pulumi.ResourceOptions(parent=parent, protect=protect),
    )
    aws.kms.Alias(
        layer,
        name=f"alias/saldo-{stack}-{layer}",
        target_key_id=key.key_id,
        opts=pulumi.ResourceOptions(parent=parent),
    )
    return key


def log_group(
    name: str, path: str, key: aws.kms.Key, *, parent: pulumi.Resource
) -> aws.cloudwatch.LogGroup:
    """Make a log group before its writer would make it, unencrypted and for ever."""
    return aws.cloudwatch.LogGroup(
        name,
        name=path,
        # What an investigation of last quarter's question still finds; longer is an archive's job.
        retention_in_days=400,
        kms_key_id=key.arn,
        opts=pulumi.ResourceOptions(parent=parent),
    )
