"""Makes each side's openapi.json: `python -m local.tasks.openapi_documents`.

The prose, parameters, examples and request bodies are in openapi.yaml, one of both sides beside
saldo.serve.http.openapi and one of each side. The schemas of response bodies are made from their
structs, and the problem types from the side's table of errors.
"""

from __future__ import annotations

import inspect
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import yaml

from saldo.serve.http.members import Body
from saldo.serve.http.problems import HTTP_RULES, TYPE_PREFIX

SALDO = Path(__file__).resolve().parents[2] / "src" / "saldo"
SIDES = ("record", "query")
PROBLEMS = "\n\n## Problems\n\n| status | type | title |\n|---|---|---|\n"
SHARED = SALDO / "serve" / "http" / "openapi.yaml"


def file_of(side: str) -> Path:
    """Return the file that the side's function serves."""
    return SALDO / side / "openapi.json"


def document(side: str) -> dict[str, Any]:
    """Return the OpenAPI document of a side's function."""
    described = _read(SHARED)
    own = _read(SALDO / side / "openapi.yaml")
    _merge(described, {"paths": own["paths"], "components": own["components"]})
    _merge(described["components"]["schemas"], _response_schemas(side))
    rules = import_module(f"saldo.{side}.routes").RULES
    problems = [
        {"type": TYPE_PREFIX + name, "status": status, "title": title}
        for status, name, title in sorted(
            {(rule.status, rule.name, rule.title) for rule in (*rules.values(), *HTTP_RULES)}
        )
    ]
    rows = [f"| {each['status']} | `{each['type']}` | {each['title']} |" for each in problems]
    described["info"]["description"] += PROBLEMS + "\n".join(rows)
    described["x-problems"] = problems
    return described


def text(side: str) -> str:
    """Return the content of the side's file."""
    return json.dumps(document(side), ensure_ascii=False, indent=1) + "\n"


def _read(file: Path) -> dict[str, Any]:
    # YAML's aliases are one object in several places; merging must not change all of them.
    content: dict[str, Any] = json.loads(json.dumps(yaml.safe_load(file.read_text())))
    return content


def _response_schemas(side: str) -> dict[str, Any]:
    bodies = [
        each
        for each in vars(import_module(f"saldo.{side}.responses")).values()
        if inspect.isclass(each) and issubclass(each, Body) and each is not Body
    ]
    _, schemas = msgspec.json.schema_components(bodies, ref_template="#/components/schemas/{name}")
    return schemas


def _merge(into: dict[str, Any], further: dict[str, Any]) -> None:
    """Add what ``further`` has; what is in both is kept as it is in ``into``."""
    for name, content in further.items():
        if isinstance(content, dict) and isinstance(into.get(name), dict):
            _merge(into[name], content)
        else:
            into.setdefault(name, content)


if __name__ == "__main__":
    for each in SIDES:
        file_of(each).write_text(text(each))
        print(file_of(each).relative_to(SALDO.parents[1]))
    sys.exit(0)
