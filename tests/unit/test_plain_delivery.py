"""What is read of a plain delivery is what the framework's CloudEvent says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from cloudevents.http import from_http
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from saldo.project.deliveries import (
    RECORDED,
    Deliveries,
    attributes_of,
    body_says_erased,
    is_plain,
)
from saldo.project.projection import says_erased

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Message

BODY = b'{"event":{"schema":2},"private":{"description":"rent"}}'
HEADERS = {
    "content-type": "application/json",
    "content-length": str(len(BODY)),
    "ce-specversion": "1.0",
    "ce-id": "0193",
    "ce-source": "/saldo/transactions",
    "ce-type": RECORDED,
    "ce-subject": "wesley",
    "ce-sequence": "7",
    "ce-time": "2026-11-24T06:00:00.000000Z",
}


def scope_of(headers: Mapping[str, str], method: str = "POST") -> dict[str, Any]:
    # The server has every name in lower case, and a header that came twice two times.
    raw = [(name.lower().encode(), text.encode("latin-1")) for name, text in headers.items()]
    return {"type": "http", "method": method, "path": "/", "headers": raw}


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


@given(changes=CHANGES, body=BODIES, left_out=st.sampled_from([*HEADERS, "none"]))
def test_a_plain_delivery_is_read_as_the_framework_reads_it(
    changes: dict[str, str], body: bytes, left_out: str
) -> None:
    headers = HEADERS | {"content-length": str(len(body))} | changes
    headers.pop(left_out, None)
    scope = scope_of(headers)
    if not is_plain(scope):
        return
    event = from_http(Headers(scope=scope), body)
    attributes = event.get_attributes()
    assert attributes["type"] == RECORDED
    assert not attributes.get("knativeerrordest")
    assert attributes_of(scope).items() <= dict(attributes).items()
    assert body_says_erased(body) == says_erased(event.data)


def test_what_the_relay_sends_is_plain() -> None:
    """Otherwise the quick way would cost time and save none."""
    assert is_plain(scope_of(HEADERS))
    assert not body_says_erased(BODY)
    assert body_says_erased(b'{"event":{"schema":2},"private":null}')


@pytest.mark.parametrize(
    "headers",
    [
        HEADERS | {"ce-knativeerrordest": "http://sink"},
        HEADERS | {"ce-type": "dev.knative.sources.ping"},
        HEADERS | {"content-type": "application/cloudevents+json"},
        HEADERS | {"content-length": str(2**20 + 1)},
        {name: text for name, text in HEADERS.items() if name != "ce-time"},
        {name: text for name, text in HEADERS.items() if name != "content-length"},
    ],
)
def test_anything_else_is_the_frameworks(headers: Mapping[str, str]) -> None:
    assert Deliveries(taking([])).answerer(scope_of(headers)) is None


def taking(
    taken: list[tuple[Mapping[str, str], bool]], refusal: HTTPException | None = None
) -> Any:  # noqa: ANN401
    async def take(attributes: Mapping[str, str], erased: bool) -> None:  # noqa: FBT001
        taken.append((attributes, erased))
        if refusal is not None:
            raise refusal

    return take


async def answer_of(deliveries: Deliveries, *bodies: bytes) -> tuple[int, bytes, bytes]:
    messages: list[Message] = [
        {"type": "http.request", "body": body, "more_body": place < len(bodies)}
        for place, body in enumerate(bodies, start=1)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await deliveries(scope_of(HEADERS), receive, send)
    assert not messages, "the whole body was taken"
    return sent[0]["status"], dict(sent[0]["headers"])[b"content-type"], sent[1]["body"]


async def test_a_delivery_is_answered_as_by_the_framework() -> None:
    taken: list[tuple[Mapping[str, str], bool]] = []
    text = b"text/plain; charset=utf-8"
    assert await answer_of(Deliveries(taking(taken)), BODY[:9], BODY[9:]) == (200, text, b"OK")
    attributes = {
        "id": HEADERS["ce-id"],
        "subject": "wesley",
        "sequence": "7",
        "time": HEADERS["ce-time"],
    }
    assert taken == [(attributes, False)]
    refusing = Deliveries(taking(taken, HTTPException(503, "later")))
    erased = json.dumps({"event": {"schema": 2}, "private": None}).encode()
    assert await answer_of(refusing, erased) == (503, text, b"later")
    assert taken[-1] == (attributes, True)
