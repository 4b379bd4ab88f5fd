"""Pulumi's configuration of the selected stack, as config.py wants it."""

from __future__ import annotations

import json
from typing import Any

import pulumi
from pulumi.runtime.config import CONFIG, get_config_env

from infra_pulumi.config import BadConfigError, Stack, read_config

PREFIX = "saldo:"


def read_stack() -> Stack:
    """Return the selected stack's configuration. A bad one ends the preview with its problems."""
    # The SDK's own Config returns a key that is asked for, and never says which there are.
    told = {**get_config_env(), **CONFIG.get()}
    try:
        return read_config(
            {
                key.removeprefix(PREFIX): _parse(text)
                for key, text in told.items()
                if key.startswith(PREFIX)
            }
        )
    except BadConfigError as bad:
        raise pulumi.RunError(
            f"Pulumi.{pulumi.get_stack()}.yaml cannot be deployed:\n{bad}"
        ) from bad


def _parse(text: str) -> Any:
    """Pulumi hands tables, lists and numbers over as JSON, and texts as they are."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
