"""A CloudEvent that a client sends, in binary or structured mode.

The ``cloudevents`` package checks it. The data are read here: the package would make a float of an
amount.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloudevents.exceptions import GenericException
from cloudevents.http import from_http
from starlette.datastructures import Headers

from saldo.serve.http.json_reader import Malformed, Number, read_json
from saldo.serve.http.problems import UNSUPPORTED_MEDIA_TYPE, FieldError, Invalid, Problem
from saldo.serve.http.request import media_type, read_body, traceparent_of
from saldo.serve.telemetry.tracing import read_traceparent

if TYPE_CHECKING:
    from cloudevents.http import CloudEvent

    from saldo.serve.http.request import Request

STRUCTURED = "application/cloudevents+json"
ATTRIBUTE_CHARACTERS_MAX = 500
REASONS = {
    "MissingRequiredFields": "an attribute is missing",
    "InvalidRequiredFields": "an attribute is not valid",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What is needed of a CloudEvent; ``data`` is read JSON, numbers as their text."""

    type: str
    source: str
    id: str
    data: Any
    traceparent: str | None
    is_structured: bool


def is_cloud_event(request: Request) -> bool:
    """Return whether ``request`` carries one, well formed or not."""
    return b"ce-specversion" in request.first or media_type(request) == STRUCTURED


async def read_cloud_event(request: Request) -> Received:
    """Return the CloudEvent of ``request``; raises Malformed, Invalid or a Problem."""
    kind = media_type(request)
    is_structured = kind == STRUCTURED
    # No type at all means JSON, by the HTTP binding.
    if kind not in {"", "application/json"} and not kind.endswith("+json"):
        raise Problem(
            UNSUPPORTED_MEDIA_TYPE, "The data of a CloudEvent must be JSON: application/json."
        )
    body = await read_body(request)
    headers = dict(Headers(scope=request.scope))
    if is_structured:
        # An event's attributes stand in one place: the package would look at these first.
        headers = {name: text for name, text in headers.items() if not name.startswith("ce-")}
        content = read_json(body)
        data = _structured_data(content)
    else:
        data = read_json(body)
    try:
        event = from_http(headers, body, data_unmarshaller=lambda kept: kept)
    except (GenericException, ValueError, TypeError) as error:
        # In words of ours: the package's own repeat what was sent.
        reason = REASONS.get(type(error).__name__, "it is malformed")
        raise Malformed(f"the CloudEvent cannot be read: {reason}") from error
    errors: list[FieldError] = []
    received = Received(
        type=_attribute(event, "type", errors),
        source=_attribute(event, "source", errors),
        id=_attribute(event, "id", errors),
        data=data,
        traceparent=traceparent_of(request) or read_traceparent(event.get("traceparent")),
        is_structured=is_structured,
    )
    if errors:
        raise Invalid(errors)
    return received


def _structured_data(content: object) -> Any:
    if not isinstance(content, dict):
        raise Malformed("the CloudEvent cannot be read: it is not a JSON object")
    encoded = content.get("data_base64")
    if encoded is None:
        return content.get("data")
    if not isinstance(encoded, str) or isinstance(encoded, Number):
        raise Malformed("the CloudEvent cannot be read: data_base64 is not a string")
    if "data" in content:
        raise Malformed("the CloudEvent cannot be read: it has data and data_base64: leave one out")
    try:
        return read_json(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError) as error:
        raise Malformed("the CloudEvent cannot be read: data_base64 is not base64") from error


def _attribute(event: CloudEvent, name: str, errors: list[FieldError]) -> str:
    """Return an attribute, which must be a text of printable ASCII characters."""
    text = event.get(name)
    if (
        isinstance(text, str)
        and 1 <= len(text) <= ATTRIBUTE_CHARACTERS_MAX
        and text.isascii()
        and text.isprintable()
    ):
        return text
    fault = f"of the CloudEvent must be 1 to {ATTRIBUTE_CHARACTERS_MAX} printable ASCII characters"
    errors.append(FieldError(name, fault))
    return ""
