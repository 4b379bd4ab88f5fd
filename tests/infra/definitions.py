"""Judging an object by the definition of its kind, closed: what that does not name is wrong.

The API server would drop such a field without a word, or a strict one refuse it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema
import yaml

if TYPE_CHECKING:
    from pathlib import Path

Schema = dict[str, Any]


def read_definitions(folder: Path) -> dict[tuple[str, str], Schema]:
    """Return the closed schema of each served version, by apiVersion and kind."""
    found: dict[tuple[str, str], Schema] = {}
    for file in sorted(folder.glob("*.yaml")):
        # The same loader in C: these are 1.6 MB, and the other one takes half a minute.
        spec = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            found[key] = _with_metadata(close(version["schema"]["openAPIV3Schema"]))
    return found


def close(schema: Schema) -> Schema:
    """Return ``schema`` in which every object with named fields takes no others."""
    closed = dict(schema)
    if closed.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
        closed.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if "properties" in closed:
        closed["properties"] = {key: close(item) for key, item in closed["properties"].items()}
        if not closed.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    elif closed.get("type") == "object" and not closed.get("x-kubernetes-preserve-unknown-fields"):
        # An object that names nothing keeps nothing.
        closed.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(closed.get(key), dict):
            closed[key] = close(closed[key])
    if closed.get("nullable") and "type" in closed:
        closed["type"] = [closed["type"], "null"]
    return closed


def _with_metadata(schema: Schema) -> Schema:
    """Return what every object has besides: definitions leave it to Kubernetes."""
    properties = schema.setdefault("properties", {})
    properties.setdefault("apiVersion", {"type": "string"})
    properties.setdefault("kind", {"type": "string"})
    properties["metadata"] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"},
            "namespace": {"type": "string"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }
    return schema


def problems(schema: Schema, item: dict[str, Any]) -> list[str]:
    """Return what is wrong with ``item``, each with its path."""
    validator = jsonschema.Draft4Validator(schema)
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in validator.iter_errors(item)
    ]
