"""Deliveries: what a KafkaSource or a PingSource sends, read from its HTTP request.

In binary mode, which Knative's sources use, the attributes are the `ce-` headers and the body is
the data. In structured mode the body holds both. Nothing makes a CloudEvent object of a binary
delivery: that would cost 60 us, a third of an event's CPU (docs/performance.md).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from cloudevents.exceptions import GenericException
from cloudevents.http import from_http

from saldo.project.errors import BadDelivery
from saldo.serve.http.request import media_type, read_body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudevents.http import CloudEvent

    from saldo.serve.http.request import Request

STRUCTURED = "application/cloudevents+json"
REQUIRED = ("specversion", "id", "source", "type")
PREFIX = b"ce-"
UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)


class _Data(msgspec.Struct):
    event: msgspec.Raw
    private: msgspec.Raw = msgspec.Raw(b"null")


_read_data = msgspec.json.Decoder(_Data).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One CloudEvent: its attributes, and its data as JSON text."""

    attributes: Mapping[str, str]
    data: bytes

    @property
    def says_erased(self) -> bool:
        """Return whether the data are of an event whose private text was erased."""
        try:
            data = _read_data(self.data)
        except UNREADABLE:
            return False
        return bytes(data.event) != b"null" and bytes(data.private) == b"null"

    @property
    def public_text(self) -> str | None:
        """Return the event without its private text; None if the data are not one of our events."""
        try:
            return bytes(_read_data(self.data).event).decode()
        except UNREADABLE:
            return None


async def read_delivery(request: Request) -> Delivery:
    """Return the delivery of `request`; raise BadDelivery, or a Problem of its body."""
    body = await read_body(request)
    if media_type(request) == STRUCTURED:
        try:
            return of_cloud_event(from_http({"content-type": STRUCTURED}, body))
        except (GenericException, ValueError, TypeError, RecursionError) as error:
            raise BadDelivery("it is no CloudEvent in structured mode") from error
    attributes = {
        name[len(PREFIX) :].decode("latin-1"): text.decode("latin-1")
        for name, text in request.first.items()
        if name.startswith(PREFIX)
    }
    missing = [name for name in REQUIRED if not attributes.get(name)]
    if missing:
        raise BadDelivery(f"the attribute {missing[0]} is missing")
    return Delivery(attributes=attributes, data=body)


def of_cloud_event(event: CloudEvent) -> Delivery:
    """Return the delivery that a CloudEvent object is."""
    attributes: Mapping[str, Any] = event.get_attributes()
    return Delivery(
        attributes={name: str(value) for name, value in attributes.items() if value is not None},
        data=json.dumps(event.data).encode(),
    )
