"""Handlers that read what is recorded, from the event store itself, and erase private texts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import UUID

from starlette.responses import Response

from saldo.domain.events import genesis_hash
from saldo.domain.tag import tag_of
from saldo.record.errors import AccountNotFound, TransactionNotFound
from saldo.record.requests import check_account_id
from saldo.record.responses import events_json, found_json, limit_json
from saldo.serve.http.auth import ADMIN, READ
from saldo.serve.http.request import Answer, is_held, refuse_if_match, whole_number

if TYPE_CHECKING:
    from saldo.record.intent import StoredEvent
    from saldo.record.recorder import Recorder
    from saldo.serve.http.auth import Caller
    from saldo.serve.http.request import Request

EVENTS_PAGE_MAX = 1_000
# The query parameters of GET /accounts/{id}/events, and how often each may be given.
EVENTS_QUERY = {"after": 1, "limit": 1}
_TRANSACTION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


async def get_transaction(recorder: Recorder, request: Request, transaction_id: str) -> Response:
    """Return the event with what proves it: ``GET /transactions/{id}``."""
    caller = await recorder.caller(request)
    stored = await find_transaction(recorder, transaction_id, caller, READ)
    reversal = await recorder.events.find_reversal(stored.account_id, stored.event_id)
    previous = await _hash_before(recorder, stored.account_id, stored.position)
    reversed_by = None if reversal is None else reversal.event_id
    tag = tag_of(stored.position, stored.hash)
    # All of an event that can change: by what it was reversed, and that its text was erased.
    if reversal is not None:
        tag += f"-reversed-{tag_of(reversal.position, reversal.hash)}"
    if stored.private_text is None:
        tag += "-erased"
    return _tagged(request, tag, found_json(stored, previous, reversed_by))


async def get_limit(recorder: Recorder, request: Request, account_id: str) -> Response:
    """Return the overdraft limit in force: ``GET /accounts/{id}/limit``."""
    caller = await recorder.caller(request)
    check_account_id(account_id)
    caller.require(READ, account_id)
    account = await recorder.events.find_account(account_id)
    if account is None or account.currency is None:
        raise AccountNotFound
    tag = tag_of(account.position, account.hash)
    return _tagged(request, tag, limit_json(account, account.currency))


async def get_events(recorder: Recorder, request: Request, account_id: str) -> Response:
    """Return the exact texts and hashes after a position: ``GET /accounts/{id}/events``."""
    caller = await recorder.caller(request)
    check_account_id(account_id)
    caller.require(READ, account_id)
    after = whole_number(request, "after", 0, 0, 2**62)
    limit = whole_number(request, "limit", 100, 1, EVENTS_PAGE_MAX)
    events = await recorder.events.after(account_id, after, limit)
    previous = await _hash_before(recorder, account_id, after + 1)
    # No event after that position: an account without events, or the end of its stream.
    if not events and (after == 0 or await recorder.events.hash_at(account_id, 1) is None):
        raise AccountNotFound
    return Answer(events_json(events, previous))


async def delete_private(recorder: Recorder, request: Request, transaction_id: str) -> Response:
    """Erase the private text; the chain still verifies: ``DELETE /transactions/{id}/private``.

    The projector erases its copy by the record that is sent again. If that is lost, its sweep does.
    """
    caller = await recorder.caller(request)
    stored = await find_transaction(recorder, transaction_id, caller, ADMIN)
    refuse_if_match(request, "is not known here: an event never changes but by this")
    await recorder.events.erase_private(stored.account_id, stored.position)
    return Response(status_code=204)


async def find_transaction(
    recorder: Recorder, transaction_id: str, caller: Caller, scope: str
) -> StoredEvent:
    """Return the event of that id. The event of another's account is not found either."""
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


def _tagged(request: Request, tag: str, body: bytes) -> Response:
    """Return `body` with its ETag, or 304 if the client holds it."""
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    if is_held(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, "application/json")
