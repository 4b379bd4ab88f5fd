"""The registry of the functions' images: tags never move, every push is scanned."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pulumi
import pulumi_aws as aws
from pydantic import ConfigDict

from infra_pulumi.kms_keys import layer_key
from infra_pulumi.parts import FUNCTIONS, OPERATE
from infra_pulumi.section import Problem, Section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra_pulumi.config import Stack
    from infra_pulumi.layers.network import AwsConfig


# Tags never move, so an image without one is an upload that failed. What a stack may deploy or roll
# back to is tagged and stays.
UNTAGGED_DAYS = 14
_IMAGE = re.compile(r"[a-z0-9][a-z0-9.:/_-]*@sha256:[0-9a-f]{64}")


class ImagesConfig(Section):
    """References by digest, as `make images-push` prints them."""

    # Functions keep their names.
    model_config = ConfigDict(alias_generator=None)

    record_transaction: str
    project_balance: str
    get_balance: str
    operate: str

    def of(self, name: str) -> str:
        """Return the image of a function, or of the command line."""
        reference: str = getattr(self, name)
        return reference

    def problems(self, stack: Mapping[str, Any]) -> Iterator[Problem]:
        aws_config = stack.get("aws")
        registry = "" if aws_config is None else registry_of(aws_config)
        for name in (*(f.name for f in FUNCTIONS), OPERATE):
            reference = self.of(name)
            if not _IMAGE.fullmatch(reference):
                yield name, f"must be named by digest (...@sha256:...), not '{reference}'"
            elif not reference.startswith(registry):
                yield name, f"must come from this stack's registry, {registry}"


def registry_of(place: AwsConfig) -> str:
    """Return how every reference to an image of an account begins."""
    return f"{place.account}.dkr.ecr.{place.region}.amazonaws.com/"


class Registry(pulumi.ComponentResource):
    """One repository an image."""

    # By the name of the function, or "operate".
    urls: dict[str, pulumi.Output[str]]

    def __init__(
        self, name: str, stack: Stack, place: AwsConfig, opts: pulumi.ResourceOptions
    ) -> None:
        super().__init__("saldo:layer:Registry", name, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        key = layer_key("images", place, parent=self, protect=stack.protected)
        self.urls = {}
        for image in (*(f.name for f in FUNCTIONS), OPERATE):
            repository = aws.ecr.Repository(
                image,
                name=f"saldo-{pulumi.get_stack()}/{image.replace('_', '-')}",
                image_tag_mutability="IMMUTABLE",
                image_scanning_configuration={"scan_on_push": True},
                encryption_configurations=[{"encryption_type": "KMS", "kms_key": key.arn}],
                force_delete=not stack.protected,
                opts=own,
            )
            aws.ecr.LifecyclePolicy(
                image,
                repository=repository.name,
                policy=json.dumps(
                    {
                        "rules": [
                            {
                                "rulePriority": 1,
                                "description": "uploads that failed",
                                "selection": {
                                    "tagStatus": "untagged",
                                    "countType": "sinceImagePushed",
                                    "countUnit": "days",
                                    "countNumber": UNTAGGED_DAYS,
                                },
                                "action": {"type": "expire"},
                            }
                        ]
                    }
                ),
                opts=own,
            )
            self.urls[image] = repository.repository_url
        self.register_outputs({"urls": self.urls})
