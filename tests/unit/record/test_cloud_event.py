"""The handwritten CloudEvent, compared with that of the cloudevents package."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from cloudevents.http import CloudEvent, from_json
from cloudevents.kafka import to_binary

from saldo.record.cloud_events import (
    attributes_of,
    data_of,
    kafka_record,
    structured,
)
from tests.support.controls import NOW, income, limit, stored_stream

if TYPE_CHECKING:
    from saldo.record.intent import StoredEvent

TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
STORED = stored_stream(income(description='Salário "x"', occurred_at=NOW), limit("5"))
EVENTS = pytest.mark.parametrize("stored", STORED)
TRACED = pytest.mark.parametrize("trace", [None, TRACE])


@EVENTS
@TRACED
def test_the_kafka_record_matches_the_package(stored: StoredEvent, trace: str | None) -> None:
    """The Kafka binding keeps the attribute that the key was made of; the package leaves it out."""
    event = CloudEvent(attributes_of(stored, trace), data_of(stored))
    message = to_binary(event, data_marshaller=lambda data: data)
    record = kafka_record(stored, trace)
    headers = {
        name: text.encode() if isinstance(text, str) else text for name, text in record.headers
    }
    assert headers.pop("ce_partitionkey") == stored.account_id.encode()
    assert headers == message.headers
    assert (record.account_id, record.value) == (message.key, message.value)
    assert len(record.headers) == len(dict(record.headers))


@EVENTS
@TRACED
def test_the_package_reads_the_structured_event(stored: StoredEvent, trace: str | None) -> None:
    event = from_json(structured(stored, trace))
    assert event.get_attributes() == attributes_of(stored, trace)
    assert event.data == json.loads(data_of(stored))


@EVENTS
def test_the_data_holds_the_exact_public_text(stored: StoredEvent) -> None:
    assert stored.public_text.encode() in data_of(stored)
    data = json.loads(data_of(stored))
    assert data["private"] == json.loads(stored.private_text or "null")
    assert attributes_of(stored, None)["time"] == data["event"]["recordedAt"]


def test_the_attributes_match_the_contract() -> None:
    stored = STORED[0]
    attributes = attributes_of(stored, None)
    assert attributes.pop("dataschema").startswith("urn:saldo:schema:transaction-recorded:")
    assert attributes == {
        "specversion": "1.0",
        "id": str(stored.event_id),
        "source": "/saldo/transactions",
        "type": "saldo.transaction.recorded",
        "subject": "wesley",
        "partitionkey": "wesley",
        "time": "2026-11-24T06:30:15.123456Z",
        "sequence": "1",
        "datacontenttype": "application/json",
    }
