"""Pulumi's configuration of the selected stack, as config.py wants it."""

from __future__ import annotations

import json
from typing import Any

import pulumi

from infra_pulumi.config import KEYS, BadConfigError, Stack, read_config


def read_stack() -> Stack:
    """Return the selected stack's configuration. A bad one ends the preview with its problems."""
    config = pulumi.Config("saldo")
    try:
        return read_config({key: _parse(config.get(key)) for key in KEYS})
    except BadConfigError as bad:
        raise pulumi.RunError(
            f"Pulumi.{pulumi.get_stack()}.yaml cannot be deployed:\n{bad}"
        ) from bad


def _parse(text: str | None) -> Any:
    """Pulumi hands tables, lists and numbers over as JSON, and texts as they are."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
