"""Handlers of record_transaction: record, reverse, limit, read back, erase."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING
from uuid import UUID

from starlette.responses import Response

from saldo.domain.commands import Command, RecordTransaction, ReverseTransaction
from saldo.domain.errors import AmountOutOfRange, TooManyDigits
from saldo.domain.events import TransactionRecorded, genesis_hash, read_event
from saldo.domain.tag import tag_of
from saldo.record.cloud_events import attributes_of, data_of, structured
from saldo.record.errors import AccountNotFound, TransactionNotFound
from saldo.record.intent import (
    EventKey,
    Intent,
    Recorded,
    StoredEvent,
    prepare_line,
    prepare_lines,
)
from saldo.record.requests import (
    BULK_BYTES_MAX,
    checked_account_id,
    parse_bulk,
    parse_limit,
    parse_reversal,
    parse_transaction,
    read_ndjson,
)
from saldo.record.responses import (
    bulk_json,
    events_json,
    found_json,
    limit_json,
    transaction_json,
)
from saldo.record.stored_events import READ_FAILURES
from saldo.serve.database import translating
from saldo.serve.http.auth import (
    ADMIN,
    READ,
    WRITE,
    Caller,
    Unauthenticated,
)
from saldo.serve.http.cloud_events import is_cloud_event, read_cloud_event
from saldo.serve.http.json_reader import read_json
from saldo.serve.http.problems import (
    UNSUPPORTED_MEDIA_TYPE,
    FieldError,
    Invalid,
    Problem,
    detail_of,
)
from saldo.serve.http.request import (
    BODY_BYTES_MAX,
    Answer,
    body_too_large,
    idempotency_key_of,
    if_match_of,
    is_held,
    media_type,
    read_body,
    refuse_if_match,
    traceparent_of,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from saldo.record.recorder import Recorder
    from saldo.serve.http.request import Request

log = logging.getLogger(__name__)

EVENTS_PAGE_MAX = 1_000
NOT_FOR_BULK = "is for single transactions: leave it out"

_ARRAY = re.compile(rb"[ \t\r\n]*\[")
_TRANSACTION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
PING = "dev.knative.sources.ping"
REQUESTED = "saldo.transaction.requested"


# The query parameters of GET /accounts/{id}/events, and how often each may stand.
EVENTS_QUERY = {"after": 1, "limit": 1}


async def post_transactions(recorder: Recorder, request: Request) -> Response:
    """``POST /transactions``: one transaction, many, or a CloudEvent."""
    if is_cloud_event(request):
        return await _post_cloud_event(recorder, request)
    caller = await recorder.caller(request)
    caller.require(WRITE)
    kind = media_type(request)
    if kind not in {"application/json", "application/x-ndjson"}:
        raise Problem(
            UNSUPPORTED_MEDIA_TYPE,
            "Content-Type must be application/json, application/x-ndjson or a CloudEvent's.",
        )
    body = await read_body(request, BULK_BYTES_MAX, recorder.arrivals)
    if kind == "application/x-ndjson" or _ARRAY.match(body):
        with recorder.bulk_place():
            refuse_if_match(request, NOT_FOR_BULK)
            lines = read_ndjson(body) if kind == "application/x-ndjson" else read_json(body)
            return await _post_bulk(recorder, request, caller, parse_bulk(lines))
    if len(body) > BODY_BYTES_MAX:
        raise body_too_large(BODY_BYTES_MAX)
    command = parse_transaction(read_json(body))
    caller.require(WRITE, command.account_id)
    recorded = await _record_one(recorder, request, caller, command)
    return _created(request, recorded)


async def post_reversal(recorder: Recorder, request: Request, transaction_id: str) -> Response:
    """``POST /transactions/{id}/reversal``: record the transaction that undoes it, once."""
    caller = await recorder.caller(request)
    caller.require(WRITE)
    description, occurred_at = parse_reversal(_optional_json_of(request, await read_body(request)))
    original = await _find(recorder, transaction_id, caller, WRITE)
    event = read_event(original.public_text)
    if not isinstance(event, TransactionRecorded):
        raise TransactionNotFound
    command = ReverseTransaction(
        account_id=event.account_id,
        original_id=event.event_id,
        original_kind=event.kind,
        original_amount_minor=event.amount_minor,
        original_reverses=event.reverses,
        description=description,
        occurred_at=occurred_at,
    )
    return _created(request, await _record_one(recorder, request, caller, command))


async def put_limit(recorder: Recorder, request: Request, account_id: str) -> Response:
    """``PUT /accounts/{id}/limit``: set or lift the overdraft limit."""
    caller = await recorder.caller(request)
    checked_account_id(account_id)
    caller.require(ADMIN, account_id)
    command = parse_limit(_json_of(request, await read_body(request)), account_id)
    try:
        recorded = await _record_one(recorder, request, caller, command)
    except (TooManyDigits, AmountOutOfRange) as refused:
        # The domain calls any amount a value; this request has another field for it.
        raise Invalid([FieldError("overdraftLimit", detail_of(refused))]) from refused
    return _json(transaction_json(recorded.stored), 200, _headers(recorded))


async def get_limit(recorder: Recorder, request: Request, account_id: str) -> Response:
    """``GET /accounts/{id}/limit``: the overdraft limit in force, from the event store."""
    caller = await recorder.caller(request)
    checked_account_id(account_id)
    caller.require(READ, account_id)
    account = await recorder.events.find_account(account_id)
    if account is None or account.currency is None:
        raise AccountNotFound
    tag = tag_of(account.position, account.hash)
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    if is_held(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return _json(limit_json(account, account.currency), 200, headers)


async def get_transaction(recorder: Recorder, request: Request, transaction_id: str) -> Response:
    """``GET /transactions/{id}``: the event, from the store itself, with what proves it."""
    caller = await recorder.caller(request)
    stored = await _find(recorder, transaction_id, caller, READ)
    reversal = await recorder.events.find_reversal(stored.account_id, stored.event_id)
    previous = await _hash_before(recorder, stored.account_id, stored.position)
    reversed_by = None if reversal is None else reversal.event_id
    tag = tag_of(stored.position, stored.hash)
    # All of an event that can change: by what it was reversed, and that its text was erased.
    if reversal is not None:
        tag += f"-reversed-{tag_of(reversal.position, reversal.hash)}"
    if stored.private_text is None:
        tag += "-erased"
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    if is_held(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return _json(found_json(stored, previous, reversed_by), 200, headers)


async def get_events(recorder: Recorder, request: Request, account_id: str) -> Response:
    """``GET /accounts/{id}/events``: the exact texts and hashes after a position."""
    caller = await recorder.caller(request)
    checked_account_id(account_id)
    caller.require(READ, account_id)
    after = whole_number(request, "after", 0, 0, 2**62)
    limit = whole_number(request, "limit", 100, 1, EVENTS_PAGE_MAX)
    events = await recorder.events.after(account_id, after, limit)
    previous = await _hash_before(recorder, account_id, after + 1)
    # No event after that position: nothing is there, or nothing yet; its first event tells which.
    if not events and (after == 0 or await recorder.events.hash_at(account_id, 1) is None):
        raise AccountNotFound
    return _json(events_json(events, previous), 200)


async def delete_private(recorder: Recorder, request: Request, transaction_id: str) -> Response:
    """``DELETE /transactions/{id}/private``: forget the private text; the chain still verifies.

    The projector learns of it as of an event, and its sweep finds it too, should that be lost.
    """
    caller = await recorder.caller(request)
    stored = await _find(recorder, transaction_id, caller, ADMIN)
    refuse_if_match(request, "is not known here: an event never changes but by this")
    await recorder.events.erase_private(stored.account_id, stored.position)
    return Response(status_code=204)


def _record_one(
    recorder: Recorder, request: Request, caller: Caller, command: Command
) -> Awaitable[Recorded]:
    line = prepare_line(
        command,
        secret=recorder.settings.hash_secret,
        issuer=caller.issuer,
        subject=caller.subject,
        idempotency_key=idempotency_key_of(request),
    )
    return recorder.record_single(
        Intent(
            lines=(line,),
            expected=if_match_of(request),
            traceparent=traceparent_of(request),
        )
    )


async def _post_bulk(
    recorder: Recorder,
    request: Request,
    caller: Caller,
    parsed: list[tuple[RecordTransaction, str | None]],
) -> Response:
    """All of ``parsed`` or none, safe to repeat by the request's key or by each line's own."""
    for account_id in {command.account_id for command, _ in parsed}:
        caller.require(WRITE, account_id)
    key = idempotency_key_of(request)
    if key is not None and any(own is not None for _, own in parsed):
        raise Invalid(
            [FieldError("idempotencyKey", "cannot stand beside an Idempotency-Key header")]
        )
    lines = prepare_lines(
        parsed,
        secret=recorder.settings.hash_secret,
        issuer=caller.issuer,
        subject=caller.subject,
        idempotency_key=key,
    )
    recorded = await recorder.record_bulk(
        Intent(lines=lines, is_bulk=True, traceparent=traceparent_of(request))
    )
    headers = {}
    if all(each.replayed for each in recorded):
        headers["Idempotency-Replayed"] = "true"
    return _json(bulk_json(recorded), 201, headers)


async def _post_cloud_event(recorder: Recorder, request: Request) -> Response:
    """A CloudEvent asks: record what its data says, once per source and id; answered in its mode.

    A PingSource's event asks for a sweep of the outbox.
    """
    if request.header(b"ce-type") == PING:
        return await _ping(recorder, request)
    caller = await recorder.caller(request)
    caller.require(WRITE)
    asked = await read_cloud_event(request)
    if asked.type == PING:
        return await _ping(recorder, request)
    if asked.type != REQUESTED:
        raise Invalid([FieldError("type", f"of the CloudEvent must be {REQUESTED}")])
    command = parse_transaction(asked.data)
    caller.require(WRITE, command.account_id)
    line = prepare_line(
        command,
        secret=recorder.settings.hash_secret,
        issuer=caller.issuer,
        subject=caller.subject,
        idempotency_key=idempotency_key_of(request) or EventKey(asked.source, asked.id),
    )
    recorded = await recorder.record_single(
        Intent(
            lines=(line,),
            expected=if_match_of(request),
            traceparent=asked.traceparent,
        )
    )
    headers = _headers(recorded) | {"Location": _location(request, recorded)}
    if asked.is_structured:
        content = structured(recorded.stored, asked.traceparent)
        return Response(content, 201, headers, "application/cloudevents+json")
    for name, text in attributes_of(recorded.stored, asked.traceparent).items():
        headers["content-type" if name == "datacontenttype" else f"ce-{name}"] = text
    return Response(data_of(recorded.stored), 201, headers)


async def _ping(recorder: Recorder, request: Request) -> Response:
    """A PingSource asks for a sweep of the outbox."""
    if recorder.sources is not None:
        await recorder.sources.authenticate(request.header(b"authorization"))
    elif recorder.authenticator is not None:
        raise Unauthenticated
    with translating(READ_FAILURES):
        await recorder.relay.sweep()
    return Response(status_code=204)


async def _find(recorder: Recorder, transaction_id: str, caller: Caller, scope: str) -> StoredEvent:
    """The event of that id. One of another's account is not found, as one that never was."""
    caller.require(scope)
    if not _TRANSACTION_ID.fullmatch(transaction_id):
        raise TransactionNotFound
    stored = await recorder.events.find(UUID(transaction_id))
    if stored is None or (caller.accounts is not None and stored.account_id not in caller.accounts):
        raise TransactionNotFound
    return stored


async def _hash_before(recorder: Recorder, account_id: str, position: int) -> str | None:
    if position <= 1:
        return genesis_hash(account_id).hex()
    found = await recorder.events.hash_at(account_id, position - 1)
    return None if found is None else found.hex()


def _json_of(request: Request, body: bytes) -> object:
    if media_type(request) != "application/json":
        raise Problem(UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json.")
    return read_json(body)


def _optional_json_of(request: Request, body: bytes) -> object:
    """The body's JSON, or an empty object where there is no body."""
    return _json_of(request, body) if body.strip() else {}


def _location(request: Request, recorded: Recorded) -> str:
    return f"{request.root_path}/transactions/{recorded.stored.event_id}"


def _tag(recorded: Recorded) -> str:
    return tag_of(recorded.stored.position, recorded.stored.hash)


def _headers(recorded: Recorded) -> dict[str, str]:
    headers = {"ETag": f'"{_tag(recorded)}"'}
    if recorded.replayed:
        headers["Idempotency-Replayed"] = "true"
    return headers


def _created(request: Request, recorded: Recorded) -> Response:
    headers = [(b"etag", f'"{_tag(recorded)}"'.encode())]
    if recorded.replayed:
        headers.append((b"idempotency-replayed", b"true"))
    headers.append((b"location", _location(request, recorded).encode()))
    return Answer(transaction_json(recorded.stored), 201, headers)


def _json(body: bytes, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, "application/json")
