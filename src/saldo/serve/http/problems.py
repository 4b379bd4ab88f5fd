"""Errors on the wire: RFC 9457 problem details, with a stable ``type`` and every field named.

Each function's ``routes.py`` has the table from errors to rules.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response

from saldo.domain.errors import detail_of
from saldo.serve.http.json_reader import Malformed
from saldo.serve.http.members import money

if TYPE_CHECKING:
    from collections.abc import Mapping

TYPE_PREFIX = "urn:saldo:problem:"
MEDIA_TYPE = "application/problem+json"
# A request with thousands of wrong lines gets so many of them, and their number.
FIELD_ERRORS_MAX = 100
FIELDS_IN_DETAIL_MAX = 3


class FieldError(msgspec.Struct, frozen=True, omit_defaults=True):
    """One wrong field: its name as the client wrote it, and what to write instead."""

    field: str
    message: str
    line: int | None = None


class Invalid(Exception):
    """The request is not valid."""

    def __init__(self, errors: list[FieldError]) -> None:
        shown = "; ".join(f"{e.field} {e.message}" for e in errors[:FIELDS_IN_DETAIL_MAX])
        left = len(errors) - FIELDS_IN_DETAIL_MAX
        super().__init__(shown + (f"; and {left} more" if left > 0 else ""))
        self.errors = errors


class TooBusy(Exception):
    """The process holds as many requests as it can: try again in a moment."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What an error becomes on the wire."""

    status: int
    name: str
    title: str
    _: KW_ONLY
    retry_after_s: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)


class Problem(Exception):
    """An error that is of HTTP itself (a path, a method, a header) and so carries its rule."""

    def __init__(self, rule: Rule, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.rule = rule
        self.members = members

    def response(self) -> ProblemResponse:
        """Return what a client receives."""
        return _respond(self.rule, str(self), self.members)


NOT_FOUND = Rule(404, "not-found", "Nothing is here")
METHOD_NOT_ALLOWED = Rule(405, "method-not-allowed", "The method is not allowed")
UNSUPPORTED_MEDIA_TYPE = Rule(
    415, "unsupported-media-type", "The content type or encoding is not supported"
)
BODY_TOO_LARGE = Rule(413, "body-too-large", "The body is too large")
BAD_HTTP = Rule(400, "bad-http", "The request is not well-formed HTTP")
TOO_SLOW = Rule(408, "request-too-slow", "The request arrived too slowly")
HEAD_TOO_LARGE = Rule(431, "headers-too-large", "The request line or the headers are too large")
INTERNAL = Rule(500, "internal", "Something went wrong on our side")
# What any function may respond besides the rules of its own table.
HTTP_RULES = (
    BAD_HTTP,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    TOO_SLOW,
    BODY_TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    HEAD_TOO_LARGE,
    INTERNAL,
)
# The errors of reading and holding requests, for the functions that clients call.
COMMON_RULES: Mapping[type[Exception], Rule] = {
    Malformed: Rule(400, "malformed-json", "The body is not JSON"),
    Invalid: Rule(400, "invalid-request", "The request is not valid"),
    TooBusy: Rule(503, "too-busy", "Too many requests wait here", retry_after_s=1),
}


class ProblemResponse(Response):
    """A problem on the wire. Its name is the last word of its type."""

    media_type = MEDIA_TYPE
    name: str


def problem_response(error: Exception, rules: Mapping[type[Exception], Rule]) -> Response | None:
    """Return the response to ``error`` by the rule of its class or nearest base; None without."""
    if isinstance(error, Problem):
        return error.response()
    rule = next((rules[kind] for kind in type(error).__mro__ if kind in rules), None)
    if rule is None:
        return None
    response = _respond(rule, detail_of(error), members_of(error, rules))
    own = getattr(error, "headers", None)
    if own is not None:
        response.headers.update(own())
    return response


def members_of(error: Exception, rules: Mapping[type[Exception], Rule]) -> dict[str, Any]:
    """Return the facts that an error carries, as members of the problem."""
    if isinstance(error, Invalid):
        return {"errors": error.errors[:FIELD_ERRORS_MAX], "errorCount": len(error.errors)}
    refusals = getattr(error, "refusals", None)
    if refusals is not None:
        return {
            "errors": [
                {"line": number, "type": TYPE_PREFIX + rules[type(each)].name}
                | _line_members(each, rules)
                for number, each in refusals[:FIELD_ERRORS_MAX]
            ],
            "errorCount": len(refusals),
        }
    members: dict[str, Any] = {}
    field_name = getattr(error, "field", None)
    if field_name is not None:
        members["errors"] = [FieldError(field_name, detail_of(error))]
    currency = getattr(error, "currency", None)
    for name, fact in vars(error).items():
        if name.startswith("_"):
            continue
        if name.endswith("_minor") and currency is not None:
            members[_camel(name.removesuffix("_minor"))] = money(fact, currency)
        elif fact is not None:
            members[_camel(name)] = fact if isinstance(fact, (int, str)) else str(fact)
    return members


def _line_members(error: Exception, rules: Mapping[type[Exception], Rule]) -> dict[str, Any]:
    """Return a refused line's field, message and facts."""
    members = members_of(error, rules)
    field_errors = members.pop("errors", None)
    named = {} if field_errors is None else {"field": field_errors[0].field}
    return named | {"message": detail_of(error)} | members


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _respond(rule: Rule, detail: str, members: Mapping[str, Any]) -> ProblemResponse:
    body = {
        "type": TYPE_PREFIX + rule.name,
        "title": rule.title,
        "status": rule.status,
        # A text of the client's may hold half a surrogate pair.
        "detail": detail.encode("utf-8", "replace").decode(),
        **members,
    }
    headers = dict(rule.headers)
    if rule.retry_after_s is not None:
        headers["Retry-After"] = str(rule.retry_after_s)
    response = ProblemResponse(msgspec.json.encode(body), rule.status, headers)
    response.name = rule.name
    return response
