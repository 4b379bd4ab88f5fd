"""The registry of the functions' images: tags never move, every push is scanned."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pulumi
import pulumi_aws as aws

from infra_pulumi.keys import layer_key
from infra_pulumi.parts import FUNCTIONS, OPERATE

if TYPE_CHECKING:
    from infra_pulumi.config import Aws, Stack

# Tags never move, so an image without one is an upload that failed. What a stack may deploy or roll
# back to is tagged and stays.
UNTAGGED_DAYS = 14


class Registry(pulumi.ComponentResource):
    """One repository an image."""

    # By the name of the function, or "operate".
    urls: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, stack: Stack, place: Aws, opts: pulumi.ResourceOptions) -> None:
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
