"""Secrets: where they are made, and how they reach a pod. No value is ever written in a program.

In AWS, Secrets Manager holds them and the External Secrets operator copies them into the namespace.
Elsewhere the operator's generator makes them up in the cluster, once: neither Pulumi's state nor
the rendered manifests have ever seen them.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_aws as aws
import pulumi_random as random

from infra_pulumi.custom_resources import custom_resource
from infra_pulumi.iam_roles import allow
from infra_pulumi.kms_keys import layer_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pulumi_kubernetes as k8s

    from infra_pulumi.config import Stack
    from infra_pulumi.layers.isolation import Isolation
    from infra_pulumi.layers.network import AwsConfig
    from infra_pulumi.layers.operators import Operators


API = "external-secrets.io/v1"
GENERATORS_API = "generators.external-secrets.io/v1alpha1"
STORE = "saldo"
GENERATOR = "password"
# 48 letters and digits are 285 bits; no symbols, since passwords travel in URLs and in SQL.
GENERATED_LENGTH = 48
# How long a rotated secret may go unnoticed.
REFRESH = "5m"
RECOVERY_DAYS = 30
HASH_SECRET = "hash"
HASH_SECRET_BYTES = 32


class Secrets(pulumi.ComponentResource):
    """The way of secrets into the namespace of one stack."""

    # Encrypts the secrets that the program itself makes. None outside AWS.
    key: aws.kms.Key | None

    def __init__(
        self,
        name: str,
        stack: Stack,
        provider: k8s.Provider,
        operators: Operators,
        isolation: Isolation,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__("saldo:layer:Secrets", name, None, opts)
        self._protected = stack.protected
        self._provider = provider
        self._needs = [*operators.external_secrets, isolation.namespace]
        self.key = None
        self._reader = operators.reader
        if stack.aws is not None:
            self.key = layer_key("secrets", stack.aws, parent=self, protect=stack.protected)
            self._manager = self._store_of(stack.aws)
        self.register_outputs({})

    def _inside(self, *depends_on: pulumi.Resource) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(
            parent=self, provider=self._provider, depends_on=[*self._needs, *depends_on]
        )

    @cached_property
    def _generator(self) -> pulumi.Resource:
        """What makes passwords up, if anything needs one."""
        return custom_resource(
            GENERATOR,
            GENERATORS_API,
            "Password",
            {
                "length": GENERATED_LENGTH,
                "digits": GENERATED_LENGTH // 4,
                "symbols": 0,
                "allowRepeat": True,
            },
            opts=self._inside(),
        )

    def _store_of(self, place: AwsConfig) -> pulumi.Resource:
        """Make the store in front of Secrets Manager."""
        return custom_resource(
            STORE,
            API,
            "SecretStore",
            # No credentials: the operator has its pod's identity.
            {"provider": {"aws": {"service": "SecretsManager", "region": place.region}}},
            opts=self._inside(),
        )

    def store(
        self, name: str, value: pulumi.Output[str], *, path: str
    ) -> aws.secretsmanager.SecretVersion:
        """Put ``value``, which must be a secret Output, into Secrets Manager under ``path``.

        Its ``secret_arn`` is for those who need the secret to hold something already.
        """
        if self.key is None:
            message = "only the shape aws has a Secrets Manager"
            raise AssertionError(message)
        secret = aws.secretsmanager.Secret(
            name,
            name=path,
            kms_key_id=self.key.arn,
            recovery_window_in_days=RECOVERY_DAYS if self._protected else 0,
            opts=pulumi.ResourceOptions(parent=self, protect=self._protected),
        )
        return aws.secretsmanager.SecretVersion(
            name,
            secret_id=secret.id,
            secret_string=value,
            opts=pulumi.ResourceOptions(parent=self),
        )

    def may_read(self, name: str, secret: pulumi.Input[str]) -> pulumi.Resource:
        """Let the operator read a secret that somebody else named: the one by this ARN."""
        if self._reader is None:
            message = "only the shape aws has a Secrets Manager"
            raise AssertionError(message)
        statement = {
            "Effect": "Allow",
            "Action": ["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"],
            "Resource": secret,
        }
        return allow(name, self._reader, [statement], parent=self)

    def deliver(
        self,
        name: str,
        secret: pulumi.Input[str],
        template: Mapping[str, pulumi.Input[str]],
        *,
        properties: Sequence[str] = (),
        after: Sequence[pulumi.Resource] = (),
    ) -> pulumi.Resource:
        """Make the Kubernetes Secret ``name`` from a secret of Secrets Manager, kept up to date.

        ``template`` makes its keys; it sees each of ``properties`` of the secret's JSON by name, or
        the whole of it as ``value``.
        """
        data = [
            {"secretKey": field, "remoteRef": {"key": secret, "property": field}}
            for field in properties
        ] or [{"secretKey": "value", "remoteRef": {"key": secret}}]
        return self._external(
            name,
            {
                "secretStoreRef": {"kind": "SecretStore", "name": STORE},
                "refreshInterval": REFRESH,
                "data": data,
            },
            template,
            after=[self._manager, *after],
        )

    def generate(
        self, name: str, template: Mapping[str, pulumi.Input[str]], *, fields: Sequence[str]
    ) -> pulumi.Resource:
        """Make up the Kubernetes Secret ``name``, once; ``template`` sees a password a field."""
        generators = [
            {
                "sourceRef": {
                    "generatorRef": {
                        "apiVersion": GENERATORS_API,
                        "kind": "Password",
                        "name": GENERATOR,
                    }
                },
                "rewrite": [{"regexp": {"source": "password", "target": field}}],
            }
            for field in fields
        ]
        return self._external(
            name,
            {"refreshPolicy": "CreatedOnce", "dataFrom": generators},
            template,
            after=[self._generator],
        )

    def hash_key(self) -> pulumi.Resource:
        """Make the key of the hashes of idempotency keys, and of account ids in logs."""
        if self.key is None:
            # Sixty-four hexadecimal digits: the hash of a secret is as hard to guess as the secret.
            template = {"hex": "{{ .password | sha256sum }}"}
            return self.generate(HASH_SECRET, template, fields=["password"])
        key = random.RandomBytes(
            "hash",
            length=HASH_SECRET_BYTES,
            opts=pulumi.ResourceOptions(protect=self._protected),
        )
        kept = self.store("hash", key.hex, path=f"saldo-{pulumi.get_stack()}/hash")
        return self.deliver(HASH_SECRET, kept.secret_arn, {"hex": "{{ .value }}"})

    def _external(
        self,
        name: str,
        spec: dict[str, Any],
        template: Mapping[str, pulumi.Input[str]],
        *,
        after: Sequence[pulumi.Resource],
    ) -> pulumi.Resource:
        target = {
            "name": name,
            # A lost ExternalSecret must not take the password of a living database along.
            "creationPolicy": "Orphan",
            "deletionPolicy": "Retain",
            "template": {"engineVersion": "v2", "type": "Opaque", "data": dict(template)},
        }
        return custom_resource(
            name,
            API,
            "ExternalSecret",
            spec | {"target": target},
            opts=self._inside(*after),
        )


def from_secret(secret: str, key: str) -> dict[str, Any]:
    """Return a pod's environment variable that comes from a Secret of its namespace."""
    return {"secretKeyRef": {"name": secret, "key": key}}
