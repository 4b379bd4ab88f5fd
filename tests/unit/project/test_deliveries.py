"""Deliveries: read like the cloudevents package reads them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from cloudevents.exceptions import GenericException
from cloudevents.http import from_http
from hypothesis import given
from hypothesis import strategies as st

from saldo.project.dead_letters import RECORDED
from saldo.project.deliveries import STRUCTURED, read_delivery
from saldo.project.errors import BadDelivery
from saldo.serve.http.request import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Message

BODY = b'{"event":{"schema":2},"private":{"description":"rent"}}'
HEADERS = {
    "content-type": "application/json",
    "ce-specversion": "1.0",
    "ce-id": "0193",
    "ce-source": "/saldo/transactions",
    "ce-type": RECORDED,
    "ce-subject": "wesley",
    "ce-sequence": "7",
    "ce-time": "2026-11-24T06:00:00.000000Z",
}


CHANGES = st.dictionaries(
    st.sampled_from([*HEADERS, "ce-knativeerrordest", "ce-traceparent", "CE-ID"]),
    st.sampled_from(["", "1.0", "0.3", "application/cloudevents+json", "x", "\xe9", "9" * 30]),
    max_size=2,
)
PARTS = st.sampled_from(
    ["null", "{}", '{"a":1}', "1", "[]", '"x"', "NaN", "tru", '{"a":"\\ud800"}']
)
NAMES = st.sampled_from(["event", "private", "other"])
TEXTS = st.lists(st.tuples(NAMES, PARTS), max_size=4).map(
    lambda pairs: "{" + ",".join(f'"{name}":{part}' for name, part in pairs) + "}"
)
BODIES = (TEXTS | PARTS).map(str.encode) | st.binary(max_size=6) | st.just(BODY)


def request_of(headers: Mapping[str, str], body: bytes) -> Request:
    messages: list[Message] = [{"type": "http.request", "body": body}]

    async def receive() -> Message:
        return messages.pop(0)

    raw = [(name.lower().encode(), text.encode("latin-1")) for name, text in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw}
    return Request(scope, receive)


def says_erased(data: object) -> bool:
    """Return whether a CloudEvent's data are of an event whose private text was erased."""
    return isinstance(data, dict) and data.get("event") is not None and data.get("private") is None


@given(changes=CHANGES, body=BODIES, left_out=st.sampled_from([*HEADERS, "none"]))
async def test_binary_delivery_is_read_like_the_package_does(
    changes: dict[str, str], body: bytes, left_out: str
) -> None:
    headers = HEADERS | changes
    headers.pop(left_out, None)
    if headers.get("content-type") == STRUCTURED:
        return
    try:
        delivery = await read_delivery(request_of(headers, body))
    except BadDelivery:
        return
    try:
        event = from_http({k.lower(): v for k, v in reversed(headers.items())}, body)
    except GenericException:
        return  # it checks the version and the data, of which nothing is needed here
    # The package adds a time where there is none, and the content type as an attribute.
    assert delivery.attributes.items() >= {
        (name, text)
        for name, text in event.get_attributes().items()
        if f"ce-{name}" in {each.lower() for each in headers}
    }
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        assert not delivery.says_erased  # no JSON, such as NaN, which the package lets pass
    else:
        assert delivery.says_erased == says_erased(event.data)


@pytest.mark.parametrize("name", ["ce-id", "ce-source", "ce-type", "ce-specversion"])
async def test_delivery_without_a_required_attribute_is_refused(name: str) -> None:
    headers = {key: text for key, text in HEADERS.items() if key != name}
    with pytest.raises(BadDelivery, match=name.removeprefix("ce-")):
        await read_delivery(request_of(headers, BODY))


async def test_structured_delivery_has_the_same_attributes_and_data() -> None:
    attributes = {name.removeprefix("ce-"): text for name, text in HEADERS.items() if "ce-" in name}
    whole = json.dumps({**attributes, "data": json.loads(BODY)}).encode()
    delivery = await read_delivery(request_of({"content-type": STRUCTURED}, whole))
    assert delivery.attributes.items() >= attributes.items()
    assert json.loads(delivery.data) == json.loads(BODY)
    assert not delivery.says_erased
    erased = json.dumps({**attributes, "data": {"event": {"a": 1}, "private": None}}).encode()
    assert (await read_delivery(request_of({"content-type": STRUCTURED}, erased))).says_erased
    with pytest.raises(BadDelivery):
        await read_delivery(request_of({"content-type": STRUCTURED}, b"{"))


async def test_public_text_of_a_delivery_has_no_private_part() -> None:
    delivery = await read_delivery(request_of(HEADERS, BODY))
    assert delivery.public_text == '{"schema":2}'
    foreign = await read_delivery(request_of(HEADERS, b'{"other":1}'))
    assert foreign.public_text is None
