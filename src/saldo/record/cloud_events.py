"""The CloudEvent of a recorded event, as a Kafka record in binary mode and over HTTP.

Written by hand for speed; a test holds it equal to what the ``cloudevents`` package makes, apart
from ``ce_partitionkey``, which the Kafka binding asks for and that package leaves out.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from saldo.domain.commands import ACCOUNT_ID
from saldo.domain.events import SCHEMA_NEWEST

if TYPE_CHECKING:
    from saldo.record.intent import StoredEvent

SOURCE = "/saldo/transactions"
TYPE = "saldo.transaction.recorded"
DATASCHEMA_PREFIX = "urn:saldo:schema:transaction-recorded:"
# What every record says.
_COMMON_HEADERS: tuple[tuple[str, str], ...] = (
    ("content-type", "application/json"),
    ("ce_specversion", "1.0"),
    ("ce_source", SOURCE),
    ("ce_type", TYPE),
)
_NEWEST = f'{{"schema":{SCHEMA_NEWEST},'
_DATASCHEMA_NEWEST = f"{DATASCHEMA_PREFIX}{SCHEMA_NEWEST}"


class KafkaRecord(NamedTuple):
    """What is produced: ``key`` is the account id, so that an account stays in one partition."""

    account_id: str
    position: int
    value: bytes
    headers: list[tuple[str, str | bytes | None]]


def kafka_record(stored: StoredEvent, traceparent: str | None) -> KafkaRecord:
    """The record of ``stored``; raises ValueError for a row that was damaged."""
    account_id, position, public_text = stored.account_id, stored.position, stored.public_text
    if not ACCOUNT_ID.fullmatch(account_id):
        raise ValueError("the account is not an account id")
    headers: list[tuple[str, str | bytes | None]] = [
        *_COMMON_HEADERS,
        ("ce_id", str(stored.event_id)),
        ("ce_subject", account_id),
        ("ce_partitionkey", account_id),
        ("ce_time", recorded_at_of(public_text)),
        ("ce_sequence", str(position)),
        ("ce_dataschema", dataschema_of(public_text)),
    ]
    if traceparent is not None:
        headers.append(("ce_traceparent", traceparent))
    return KafkaRecord(account_id, position, data_of(stored), headers)


def data_of(stored: StoredEvent) -> bytes:
    """The CloudEvent's data: both texts, embedded as the JSON values that they are."""
    return f'{{"event":{stored.public_text},"private":{stored.private_text or "null"}}}'.encode()


def recorded_at_of(public_text: str) -> str:
    """The recorded time as it stands in the public text."""
    start = public_text.rindex('"recordedAt":"') + 14
    return public_text[start : public_text.index('"', start)]


def dataschema_of(public_text: str) -> str:
    """The data's schema with the version of this very text: an old event is sent as it is."""
    if public_text.startswith(_NEWEST):
        return _DATASCHEMA_NEWEST
    start = public_text.index('"schema":') + 9
    return DATASCHEMA_PREFIX + public_text[start : public_text.index(",", start)]


def attributes_of(stored: StoredEvent, traceparent: str | None) -> dict[str, str]:
    """The CloudEvent's attributes by name."""
    attributes = {
        "specversion": "1.0",
        "id": str(stored.event_id),
        "source": SOURCE,
        "type": TYPE,
        "subject": stored.account_id,
        "partitionkey": stored.account_id,
        "time": recorded_at_of(stored.public_text),
        "sequence": str(stored.position),
        "dataschema": dataschema_of(stored.public_text),
        "datacontenttype": "application/json",
    }
    if traceparent is not None:
        attributes["traceparent"] = traceparent
    return attributes


def structured(stored: StoredEvent, traceparent: str | None) -> bytes:
    """The CloudEvent in structured JSON mode."""
    attributes = json.dumps(attributes_of(stored, traceparent))
    return f'{attributes[:-1]},"data":'.encode() + data_of(stored) + b"}"
