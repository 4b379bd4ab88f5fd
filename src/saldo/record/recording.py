"""Handlers of the requests that record: each parses, prepares a command, records and responds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec.structs import replace
from starlette.responses import Response

from saldo.domain.commands import ReverseTransaction
from saldo.domain.errors import AmountOutOfRange, TooManyDigits, detail_of
from saldo.domain.events import TransactionRecorded, read_event
from saldo.domain.tag import tag_of
from saldo.record.cloud_events import attributes_of, data_of, structured
from saldo.record.errors import TransactionNotFound
from saldo.record.intent import EventKey, Intent, Origin, prepare_line, prepare_lines
from saldo.record.reading import find_transaction
from saldo.record.requests import (
    BULK_BYTES_MAX,
    check_account_id,
    parse_bulk,
    parse_limit,
    parse_reversal,
    parse_transaction,
    read_ndjson,
)
from saldo.record.responses import bulk_json, transaction_json
from saldo.record.stored_events import READ_FAILURES
from saldo.serve.database import translating
from saldo.serve.http.auth import ADMIN, WRITE, Caller, Unauthenticated
from saldo.serve.http.cloud_events import is_cloud_event, read_cloud_event
from saldo.serve.http.json_reader import read_json
from saldo.serve.http.problems import UNSUPPORTED_MEDIA_TYPE, FieldError, Invalid, Problem
from saldo.serve.http.request import (
    BODY_BYTES_MAX,
    Answer,
    body_too_large,
    idempotency_key_of,
    if_match_of,
    media_type,
    read_body,
    refuse_if_match,
    traceparent_of,
)

if TYPE_CHECKING:
    from saldo.domain.commands import Command
    from saldo.record.intent import Key, Recorded
    from saldo.record.recorder import Recorder
    from saldo.serve.http.request import Request

JSON = "application/json"
NDJSON = "application/x-ndjson"
STRUCTURED = b"application/cloudevents+json"
REPLAYED = (b"idempotency-replayed", b"true")
PING = "dev.knative.sources.ping"
REQUESTED = "saldo.transaction.requested"
_ARRAY = re.compile(rb"[ \t\r\n]*\[")


async def post_transactions(recorder: Recorder, request: Request) -> Response:
    """Record one transaction, many, or what a CloudEvent requests: ``POST /transactions``."""
    if is_cloud_event(request):
        return await _post_cloud_event(recorder, request)
    caller = await recorder.caller(request)
    caller.require(WRITE)
    kind = media_type(request)
    if kind not in {JSON, NDJSON}:
        raise Problem(
            UNSUPPORTED_MEDIA_TYPE,
            "Content-Type must be application/json, application/x-ndjson or a CloudEvent's.",
        )
    body = await read_body(request, BULK_BYTES_MAX, recorder.arrivals)
    if kind == NDJSON or _ARRAY.match(body):
        with recorder.bulk_place():
            return await _post_bulk(recorder, request, caller, body)
    if len(body) > BODY_BYTES_MAX:
        raise body_too_large(BODY_BYTES_MAX)
    command = parse_transaction(read_json(body))
    caller.require(WRITE, command.account_id)
    [recorded] = await recorder.record(_intent(recorder, request, caller, command))
    return _created(request, recorded)


async def _post_bulk(recorder: Recorder, request: Request, caller: Caller, body: bytes) -> Response:
    """Record all of the body or nothing; safe to repeat by the request's key or each line's own."""
    refuse_if_match(request, "is for single transactions: leave it out")
    parsed = parse_bulk(read_ndjson(body) if media_type(request) == NDJSON else read_json(body))
    for account_id in {command.account_id for command, _ in parsed}:
        caller.require(WRITE, account_id)
    key = idempotency_key_of(request)
    if key is not None and any(own_key is not None for _, own_key in parsed):
        raise Invalid(
            [FieldError("idempotencyKey", "cannot be combined with an Idempotency-Key header")]
        )
    lines = prepare_lines(parsed, _origin(recorder, caller, key))
    traceparent = traceparent_of(request)
    recorded = await recorder.record(Intent(lines=lines, is_bulk=True, traceparent=traceparent))
    replayed = all(each.replayed for each in recorded)
    return Answer(bulk_json(recorded), 201, [REPLAYED] if replayed else [])


async def _post_cloud_event(recorder: Recorder, request: Request) -> Response:
    """Record what a CloudEvent's data says, once per source and id; respond in its mode.

    A PingSource's event starts a sweep of the outbox.
    """
    if request.header(b"ce-type") == PING:
        return await _ping(recorder, request)
    caller = await recorder.caller(request)
    caller.require(WRITE)
    event = await read_cloud_event(request)
    if event.type == PING:
        return await _ping(recorder, request)
    if event.type != REQUESTED:
        raise Invalid([FieldError("type", f"of the CloudEvent must be {REQUESTED}")])
    command = parse_transaction(event.data)
    caller.require(WRITE, command.account_id)
    intent = _intent(recorder, request, caller, command, EventKey(event.source, event.id))
    intent = replace(intent, traceparent=event.traceparent)
    [recorded] = await recorder.record(intent)
    headers = [*_headers(recorded), _location(request, recorded)]
    if event.is_structured:
        content = structured(recorded.stored, event.traceparent)
        return Answer(content, 201, headers, STRUCTURED)
    attributes = attributes_of(recorded.stored, event.traceparent)
    kind = attributes.pop("datacontenttype").encode()
    headers += [(f"ce-{name}".encode(), text.encode()) for name, text in attributes.items()]
    return Answer(data_of(recorded.stored), 201, headers, kind)


async def _ping(recorder: Recorder, request: Request) -> Response:
    if recorder.sources is not None:
        await recorder.sources.authenticate(request.header(b"authorization"))
    elif recorder.authenticator is not None:
        raise Unauthenticated
    with translating(READ_FAILURES):
        await recorder.relay.sweep()
    return Response(status_code=204)


async def post_reversal(recorder: Recorder, request: Request, transaction_id: str) -> Response:
    """Record the transaction that undoes another, once: ``POST /transactions/{id}/reversal``."""
    caller = await recorder.caller(request)
    caller.require(WRITE)
    body = await read_body(request)
    said = parse_reversal(_json_of(request, body) if body.strip() else {})
    original = await find_transaction(recorder, transaction_id, caller, WRITE)
    event = read_event(original.public_text)
    if not isinstance(event, TransactionRecorded):
        raise TransactionNotFound
    command = ReverseTransaction(
        account_id=event.account_id,
        original_id=event.event_id,
        original_kind=event.kind,
        original_amount_minor=event.amount_minor,
        original_reverses=event.reverses,
        **said,
    )
    [recorded] = await recorder.record(_intent(recorder, request, caller, command))
    return _created(request, recorded)


async def put_limit(recorder: Recorder, request: Request, account_id: str) -> Response:
    """Set or lift the overdraft limit: ``PUT /accounts/{id}/limit``."""
    caller = await recorder.caller(request)
    check_account_id(account_id)
    caller.require(ADMIN, account_id)
    command = parse_limit(_json_of(request, await read_body(request)), account_id)
    try:
        [recorded] = await recorder.record(_intent(recorder, request, caller, command))
    except (TooManyDigits, AmountOutOfRange) as refused:
        # The domain calls any amount a value; this request has another field for it.
        raise Invalid([FieldError("overdraftLimit", detail_of(refused))]) from refused
    return Answer(transaction_json(recorded.stored), 200, _headers(recorded))


def _intent(
    recorder: Recorder, request: Request, caller: Caller, command: Command, key: Key | None = None
) -> Intent:
    """Return the intent of one command, with what the request's headers say of it."""
    origin = _origin(recorder, caller, idempotency_key_of(request) or key)
    return Intent(
        lines=(prepare_line(command, origin),),
        expected=if_match_of(request),
        traceparent=traceparent_of(request),
    )


def _origin(recorder: Recorder, caller: Caller, key: Key | None) -> Origin:
    return Origin(
        secret=recorder.settings.hash_secret,
        issuer=caller.issuer,
        subject=caller.subject,
        idempotency_key=key,
    )


def _json_of(request: Request, body: bytes) -> object:
    if media_type(request) != JSON:
        raise Problem(UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json.")
    return read_json(body)


def _created(request: Request, recorded: Recorded) -> Response:
    headers = [*_headers(recorded), _location(request, recorded)]
    return Answer(transaction_json(recorded.stored), 201, headers)


def _headers(recorded: Recorded) -> list[tuple[bytes, bytes]]:
    tag = tag_of(recorded.stored.position, recorded.stored.hash)
    etag = (b"etag", f'"{tag}"'.encode())
    return [etag, REPLAYED] if recorded.replayed else [etag]


def _location(request: Request, recorded: Recorded) -> tuple[bytes, bytes]:
    return b"location", f"{request.root_path}/transactions/{recorded.stored.event_id}".encode()
