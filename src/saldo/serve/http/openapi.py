"""The OpenAPI document of a function, and the same as a page for people.

It is written by hand in three files: what all functions share beside this module, and each side's
paths and schemas in its own package. Each function serves the part that it answers. The problem
types are added here from the function's own table of errors, so that they cannot differ from it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from saldo.serve.http.problems import HTTP_RULES, TYPE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from saldo.serve.http.problems import Rule

PATHS = frozenset({"/openapi.json", "/docs"})
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1b1b1b; background: #fff }
h2 { margin-top: 2.5rem; border-top: 1px solid #767676; padding-top: 1rem }
code, pre { font: 14px/1.4 ui-monospace, monospace; background: #f2f2f2 }
code { padding: 0 .2em } pre { padding: .7rem; overflow-x: auto }
table { border-collapse: collapse; width: 100% } caption { text-align: left; font-weight: bold }
th, td { border: 1px solid #767676; padding: .3rem .5rem; text-align: left; vertical-align: top }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #161616 }
  code, pre { background: #2b2b2b } a { color: #9cf } }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page, and the Content-Security-Policy that lets its own style in and nothing else."""

    html: str
    policy: str


@functools.cache
def document(package: str, rules: tuple[Rule, ...]) -> dict[str, Any]:
    """The OpenAPI document of the function whose side is ``package``."""
    shared = _read("saldo.serve.http")
    own = _read(package)
    components = shared["components"]
    for kind, named in own["components"].items():
        components.setdefault(kind, {}).update(named)
    problems = [
        {"type": TYPE_PREFIX + name, "status": status, "title": title}
        for status, name, title in sorted(
            {(rule.status, rule.name, rule.title) for rule in (*rules, *HTTP_RULES)}
        )
    ]
    return {**shared, "paths": own["paths"], "components": components, "x-problems": problems}


@functools.cache
def document_text(package: str, rules: tuple[Rule, ...]) -> str:
    """The document as it is served."""
    return json.dumps(document(package, rules), ensure_ascii=False, indent=1)


def response(path: str, package: str, rules: tuple[Rule, ...]) -> Response:
    """Return the response for one of PATHS."""
    headers = {"Cache-Control": "no-cache"}
    if path == "/openapi.json":
        return Response(document_text(package, rules), 200, headers, "application/json")
    described = page(package, rules)
    headers |= {"Content-Security-Policy": described.policy, "Referrer-Policy": "no-referrer"}
    return Response(described.html, 200, headers, "text/html")


@functools.cache
def page(package: str, rules: tuple[Rule, ...]) -> Page:
    """The document for people: one static page, no script, no foreign host."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return Page(html="\n".join(_page_lines(document(package, rules))), policy=policy)


def _read(package: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((resources.files(package) / "openapi.json").read_text())
    return content


def _page_lines(described: Mapping[str, Any]) -> Iterator[str]:
    info = described["info"]
    title = html.escape(info["title"])
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width">'
    yield f"<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"
    yield f"<p>{html.escape(info['description'])}</p>"
    yield '<p><a href="openapi.json">openapi.json</a> says the same to programs.</p>'
    for path, item in described["paths"].items():
        for method in ("get", "post", "put", "delete"):
            if method in item:
                yield from _operation_lines(described, path, method, item)
    yield '<h2 id="problems">Problems</h2>'
    yield from _table(
        "What an error's type means",
        ("Status", "Type", "Title"),
        [(str(p["status"]), _code(p["type"]), _text(p["title"])) for p in described["x-problems"]],
    )
    yield "</body></html>"


def _operation_lines(
    described: Mapping[str, Any], path: str, method: str, item: Mapping[str, Any]
) -> Iterator[str]:
    operation = item[method]
    heading = _code(f"{method.upper()} {path}")
    yield f'<h2 id="{html.escape(operation["operationId"])}">{heading}</h2>'
    yield f"<p><strong>{_text(operation['summary'])}.</strong> "
    yield f"{_text(operation.get('description', ''))}</p>"
    scopes = [scope for each in operation["security"] for named in each.values() for scope in named]
    yield f"<p>Scope: {', '.join(_code(scope) for scope in scopes) or 'none'}</p>"
    rows: list[tuple[str, ...]] = []
    for each in [*item.get("parameters", ()), *operation.get("parameters", ())]:
        parameter = _resolved(described, each)
        needed = ", required" if parameter.get("required") else ""
        rows.append(
            (
                _code(parameter["name"]),
                parameter["in"] + needed,
                _text(parameter.get("description", "")),
            )
        )
    yield from _table("Parameters", ("Name", "Where", "What"), rows)
    body = operation.get("requestBody", {}).get("content", {})
    for kind, content in body.items():
        for name, example in content.get("examples", {}).items():
            yield f"<p>{_text(name)} ({_code(kind)}):</p><pre>{_json(example['value'])}</pre>"
    yield from _table(
        "Answers",
        ("Status", "Content", "What"),
        [
            (status, ", ".join(map(_code, answer.get("content", {}))), _text(answer["description"]))
            for status, answer in (
                (status, _resolved(described, each))
                for status, each in sorted(operation["responses"].items())
            )
        ],
    )


def _resolved(described: Mapping[str, Any], each: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = each
    if "$ref" in each:
        found = described
        for part in each["$ref"].removeprefix("#/").split("/"):
            found = found[part]
    resolved: Mapping[str, Any] = found
    return resolved


def _table(caption: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    """A table; its cells are HTML already."""
    if rows:
        head = "".join(f'<th scope="col">{name}</th>' for name in heads)
        yield f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>"
        for row in rows:
            yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
        yield "</tbody></table>"


def _text(text: str) -> str:
    return html.escape(text)


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"


def _json(value: object) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
    return html.escape(shown)
