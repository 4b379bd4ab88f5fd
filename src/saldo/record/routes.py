"""The recorder: what record_transaction holds between requests, and its request handlers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from typing import TYPE_CHECKING
from uuid import UUID
from zlib import crc32

from starlette.responses import Response

from saldo.domain.commands import Command, RecordTransaction, ReverseTransaction
from saldo.domain.errors import AmountOutOfRange, IdempotencyKeyReused, Refused, TooManyDigits
from saldo.domain.events import TransactionRecorded, genesis_hash, read_event
from saldo.domain.tag import tag_of
from saldo.record.batch import Decided, Outcome, Surroundings, record_batch
from saldo.record.cloud_events import attributes_of, data_of, structured
from saldo.record.intent import (
    EventKey,
    Intent,
    LinesRefused,
    Recorded,
    StoredEvent,
    prepare_line,
    prepare_lines,
)
from saldo.record.kafka import KafkaSender
from saldo.record.outbox import PostgresOutbox
from saldo.record.postgres import READ_FAILURES, PostgresEventStore
from saldo.record.relay import Relay
from saldo.record.requests import (
    BULK_BYTES_MAX,
    BULK_LINES_MAX,
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
from saldo.serve.clock import StoreClock
from saldo.serve.database import close_pool, function_pool, translating
from saldo.serve.group_commit import GroupCommit, QueueFull
from saldo.serve.http.auth import (
    ADMIN,
    ANYONE,
    READ,
    WRITE,
    Caller,
    Unauthenticated,
    authenticator_of,
)
from saldo.serve.http.cloud_events import is_cloud_event, read_cloud_event
from saldo.serve.http.json_reader import read_json
from saldo.serve.http.problems import (
    UNSUPPORTED_MEDIA_TYPE,
    FieldError,
    Invalid,
    Problem,
    TooBusy,
    detail_of,
)
from saldo.serve.http.request import (
    BODY_BYTES_MAX,
    Answer,
    Arrivals,
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
from saldo.serve.server import Resident
from saldo.serve.settings import read_settings
from saldo.serve.sweeper import Sweeper
from saldo.serve.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Sequence

    from saldo.serve.http.request import EdgeRequest
    from saldo.serve.settings import Settings

log = logging.getLogger(__name__)

# Lines that wait: two of the largest bulk requests, and beside them so many single transactions.
BULK_REQUESTS_MAX = 2
SINGLES_WAITING_MAX = 2_000
QUEUE_LINES_MAX = BULK_REQUESTS_MAX * BULK_LINES_MAX + SINGLES_WAITING_MAX
# Bodies that are on their way: eight of the largest.
ARRIVING_BYTES_MAX = 8 * BULK_BYTES_MAX
BATCH_LINES_MAX = 1_000
BATCHES_IN_FLIGHT_MAX = 2
# Lines that must wait before a second batch runs beside the first.
FURTHER_BATCH_LINES_MIN = 48
SWEEP_INTERVAL_S = 5.0
CLOSE_POOL_S = 5.0
EVENTS_PAGE_MAX = 1_000
NOT_FOR_BULK = "is for single transactions: leave it out"
# How many of the database's shards there are: more than one only behind a distributed engine.
SHARDS = 1

_ARRAY = re.compile(rb"[ \t\r\n]*\[")
_TRANSACTION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
PING = "dev.knative.sources.ping"
REQUESTED = "saldo.transaction.requested"


class TransactionNotFound(Exception):  # noqa: N818 - it is what the transaction is
    """There is no such transaction."""


class AccountNotFound(Exception):  # noqa: N818 - it is what the account is
    """There is no such account."""


def shard_of(account_id: str) -> int:
    """The shard that an account lives on; a batch never mixes shards."""
    return crc32(account_id.encode()) % SHARDS if SHARDS > 1 else 0


class Recorder:
    """Store, group commit, relay and sweeps of one process."""

    def __init__(self, settings: Settings) -> None:
        if settings.event_store_url is None or settings.kafka is None:
            message = "the recorder's settings are incomplete"
            raise ValueError(message)
        self.settings = settings
        self.pool = function_pool(settings, settings.event_store_url, "event_store")
        self.store = PostgresEventStore(self.pool)
        self.outbox = PostgresOutbox(self.pool)
        self.relay = Relay(self.outbox, asyncio.sleep)
        self.sender = KafkaSender(settings.kafka, self.relay.delivered)
        self.relay.use(self.sender)
        self.sweeper = Sweeper("outbox", self._sweep, SWEEP_INTERVAL_S)
        self.clock = StoreClock()
        # Rows and age in seconds, as the last sweep found them; None while the store is away.
        self.outbox_depth: tuple[int, float] | None = None
        self.authenticator = authenticator_of(settings.callers)
        self.sources = authenticator_of(settings.sources, settings.source_subjects)
        self.around = Surroundings(
            store=self.store,
            monotonic=time.monotonic,
            sleep=asyncio.sleep,
            default_currency=settings.default_currency,
        )
        self.commits = [
            GroupCommit[Intent, list[Recorded]](
                self._record,
                name="record",
                queue_weight_max=QUEUE_LINES_MAX,
                batch_weight_max=BATCH_LINES_MAX,
                batches_max=BATCHES_IN_FLIGHT_MAX,
                further_weight_min=FURTHER_BATCH_LINES_MIN,
            )
            for _ in range(SHARDS)
        ]
        self.singles = 0
        self.bulks = 0
        self.arrivals = Arrivals(ARRIVING_BYTES_MAX)
        self._tell()

    def _tell(self) -> None:
        """Let the metrics read what is counted here."""
        relay = self.relay
        metrics.OUTBOX_ROWS.observe_one(lambda: self.outbox_depth and self.outbox_depth[0])
        metrics.OUTBOX_AGE.observe_one(lambda: self.outbox_depth and self.outbox_depth[1])
        metrics.CLOCK_AHEAD.observe_one(lambda: self.clock.ahead_s)
        metrics.RELAY_IN_FLIGHT.observe_one(lambda: relay.in_flight)
        metrics.RELAY_RECORDS.observe(
            lambda: {
                ("sent",): relay.sent,
                ("acknowledged",): relay.acknowledged,
                ("failed",): relay.failed,
                ("swept",): relay.swept,
            }
        )

    async def _sweep(self) -> int:
        """Measure the outbox, then send what waits in it."""
        try:
            await self.clock.read(self.outbox.store_now)
            self.outbox_depth = await self.outbox.depth()
        except BaseException:
            self.outbox_depth = None  # better not known than as it was once
            raise
        return await self.relay.sweep()

    async def _record(self, intents: Sequence[Intent]) -> Sequence[list[Recorded] | Exception]:
        outcomes: list[Outcome] = await record_batch(intents, self.around, self._committed)
        replayed = sum(
            each.replayed for outcome in outcomes if isinstance(outcome, list) for each in outcome
        )
        metrics.REPLAYS.add(amount=replayed)
        return outcomes

    def _committed(self, decided: Decided) -> None:
        metrics.EVENTS_RECORDED.add(amount=len(decided.events))
        self.relay.send_committed(decided.events, decided.traceparents)

    async def record_single(self, intent: Intent) -> Recorded:
        """Record an intent of one line; raises TooBusy, a Refused or a store's error."""
        if self.singles >= SINGLES_WAITING_MAX:
            raise TooBusy
        account_id = intent.lines[0].command.account_id
        self.singles += 1
        try:
            commit = self.commits[shard_of(account_id)]
            recorded = await commit.submit(intent, (account_id,))
        except QueueFull as full:
            raise TooBusy from full
        finally:
            self.singles -= 1
        return recorded[0]

    async def record_bulk(self, intent: Intent) -> list[Recorded]:
        """Record an intent of many lines; raises as record_single."""
        account_ids = intent.account_ids()
        shards = {shard_of(account_id) for account_id in account_ids}
        if len(shards) > 1:
            raise Invalid([FieldError("accountId", "must be of one shard within a bulk request")])
        try:
            commit = self.commits[shards.pop()]
            return await commit.submit(intent, account_ids, len(intent.lines))
        except QueueFull as full:
            raise TooBusy from full

    @contextlib.contextmanager
    def bulk_place(self) -> Iterator[None]:
        """Hold one of the few places for bulk requests; raise TooBusy when all are taken."""
        if self.bulks >= BULK_REQUESTS_MAX:
            raise TooBusy
        self.bulks += 1
        try:
            yield
        finally:
            self.bulks -= 1

    def known_caller(self, request: EdgeRequest) -> Caller | None:
        """Who sends ``request``, where that is known already: the same as caller, at once."""
        if self.authenticator is None:
            return ANYONE
        return self.authenticator.remembered(request.header(b"authorization"))

    async def caller(self, request: EdgeRequest) -> Caller:
        """Who sends ``request``; raises Unauthenticated."""
        if self.authenticator is None:
            return ANYONE
        return await self.authenticator.authenticate(request.header(b"authorization"))

    async def close(self) -> None:
        """Record what waits, send what was recorded, and let go."""
        for commit in self.commits:
            await commit.drain()
        await self.sweeper.stop()
        await self.relay.drain()
        await self.sender.close()
        await close_pool(self.pool, CLOSE_POOL_S)


async def open_recorder() -> Recorder:
    """The recorder of this process, its sweeps started."""
    recorder = Recorder(read_settings("record_transaction"))
    await recorder.pool
    recorder.sweeper.start()
    return recorder


RECORDER: Resident[Recorder] = Resident(open_recorder)

# The query parameters of GET /accounts/{id}/events, and how often each may stand.
EVENTS_QUERY = {"after": 1, "limit": 1}


async def post_transactions(request: EdgeRequest, prefix: str) -> Response:
    """``POST /transactions``: one transaction, many, or a CloudEvent."""
    recorder = RECORDER.held or await RECORDER.get()
    if is_cloud_event(request):
        return await _post_cloud_event(recorder, request, prefix)
    caller = recorder.known_caller(request) or await recorder.caller(request)
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
    return _created(recorded, prefix)


async def post_reversal(request: EdgeRequest, prefix: str, transaction_id: str) -> Response:
    """``POST /transactions/{id}/reversal``: record the transaction that undoes it, once."""
    recorder = await RECORDER.get()
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
    return _created(await _record_one(recorder, request, caller, command), prefix)


async def put_limit(request: EdgeRequest, _prefix: str, account_id: str) -> Response:
    """``PUT /accounts/{id}/limit``: set or lift the overdraft limit."""
    recorder = await RECORDER.get()
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


async def get_limit(request: EdgeRequest, _prefix: str, account_id: str) -> Response:
    """``GET /accounts/{id}/limit``: the overdraft limit in force, from the event store."""
    recorder = await RECORDER.get()
    caller = await recorder.caller(request)
    checked_account_id(account_id)
    caller.require(READ, account_id)
    account = await recorder.store.find_account(account_id)
    if account is None or account.currency is None:
        raise AccountNotFound
    tag = tag_of(account.position, account.hash)
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    if is_held(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return _json(limit_json(account, account.currency), 200, headers)


async def get_transaction(request: EdgeRequest, _prefix: str, transaction_id: str) -> Response:
    """``GET /transactions/{id}``: the event, from the store itself, with what proves it."""
    recorder = await RECORDER.get()
    caller = await recorder.caller(request)
    stored = await _find(recorder, transaction_id, caller, READ)
    reversal = await recorder.store.find_reversal(stored.account_id, stored.event_id)
    previous = await _hash_before(recorder, stored.account_id, stored.position)
    reversed_by = None if reversal is None else str(reversal.event_id)
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


async def get_events(request: EdgeRequest, _prefix: str, account_id: str) -> Response:
    """``GET /accounts/{id}/events``: the exact texts and hashes after a position."""
    recorder = await RECORDER.get()
    caller = await recorder.caller(request)
    checked_account_id(account_id)
    caller.require(READ, account_id)
    after = whole_number(request, "after", 0, 0, 2**62)
    limit = whole_number(request, "limit", 100, 1, EVENTS_PAGE_MAX)
    events = await recorder.store.events_after(account_id, after, limit)
    previous = await _hash_before(recorder, account_id, after + 1)
    # No event after that position: nothing is there, or nothing yet; its first event tells which.
    if not events and (after == 0 or await recorder.store.hash_at(account_id, 1) is None):
        raise AccountNotFound
    return _json(events_json(events, previous), 200)


async def delete_private(request: EdgeRequest, _prefix: str, transaction_id: str) -> Response:
    """``DELETE /transactions/{id}/private``: forget the private text; the chain still verifies.

    The projector learns of it as of an event, and its sweep finds it too, should that be lost.
    """
    recorder = await RECORDER.get()
    caller = await recorder.caller(request)
    stored = await _find(recorder, transaction_id, caller, ADMIN)
    refuse_if_match(request, "is not known here: an event never changes but by this")
    await recorder.store.erase_private(stored.account_id, stored.position)
    return Response(status_code=204)


def _record_one(
    recorder: Recorder, request: EdgeRequest, caller: Caller, command: Command
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
    request: EdgeRequest,
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
    try:
        recorded = await recorder.record_bulk(
            Intent(lines=lines, traceparent=traceparent_of(request))
        )
    except LinesRefused as refused:
        # A key of the whole request that was used for another one says it of every line.
        if key is not None and any(
            isinstance(e, IdempotencyKeyReused) for _, e in refused.refusals
        ):
            raise IdempotencyKeyReused from refused
        raise
    except IdempotencyKeyReused as refusal:
        if key is not None:
            raise
        raise LinesRefused([(1, refusal)]) from refusal
    except Refused as refusal:  # a request of one line is decided as a single transaction is
        raise LinesRefused([(1, refusal)]) from refusal
    headers = {}
    if all(each.replayed for each in recorded):
        headers["Idempotency-Replayed"] = "true"
    return _json(bulk_json(recorded), 201, headers)


async def _post_cloud_event(recorder: Recorder, request: EdgeRequest, prefix: str) -> Response:
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
    headers = _headers(recorded) | {"Location": _location(recorded, prefix)}
    if asked.is_structured:
        content = structured(recorded.stored, asked.traceparent)
        return Response(content, 201, headers, "application/cloudevents+json")
    for name, text in attributes_of(recorded.stored, asked.traceparent).items():
        headers["content-type" if name == "datacontenttype" else f"ce-{name}"] = text
    return Response(data_of(recorded.stored), 201, headers)


async def _ping(recorder: Recorder, request: EdgeRequest) -> Response:
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
    stored = await recorder.store.find_event(UUID(transaction_id))
    if stored is None or (caller.accounts is not None and stored.account_id not in caller.accounts):
        raise TransactionNotFound
    return stored


async def _hash_before(recorder: Recorder, account_id: str, position: int) -> str | None:
    if position <= 1:
        return genesis_hash(account_id).hex()
    found = await recorder.store.hash_at(account_id, position - 1)
    return None if found is None else found.hex()


def _json_of(request: EdgeRequest, body: bytes) -> object:
    if media_type(request) != "application/json":
        raise Problem(UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json.")
    return read_json(body)


def _optional_json_of(request: EdgeRequest, body: bytes) -> object:
    """The body's JSON, or an empty object where there is no body."""
    return _json_of(request, body) if body.strip() else {}


def _location(recorded: Recorded, prefix: str) -> str:
    return f"{prefix}/transactions/{recorded.stored.event_id}"


def _tag(recorded: Recorded) -> str:
    return tag_of(recorded.stored.position, recorded.stored.hash)


def _headers(recorded: Recorded) -> dict[str, str]:
    headers = {"ETag": f'"{_tag(recorded)}"'}
    if recorded.replayed:
        headers["Idempotency-Replayed"] = "true"
    return headers


def _created(recorded: Recorded, prefix: str) -> Response:
    headers = [(b"etag", f'"{_tag(recorded)}"'.encode())]
    if recorded.replayed:
        headers.append((b"idempotency-replayed", b"true"))
    headers.append((b"location", _location(recorded, prefix).encode()))
    return Answer(transaction_json(recorded.stored), 201, headers)


def _json(body: bytes, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, "application/json")
