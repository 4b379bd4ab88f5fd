"""Handlers of get_balance: balances, statements, accounts and the stream of changes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec
from cloudevents.conversion import to_binary
from cloudevents.http import CloudEvent
from msgspec import UNSET
from msgspec.structs import replace
from starlette.responses import Response

from saldo.domain.commands import ACCOUNT_ID
from saldo.domain.events import format_time
from saldo.domain.tag import read_tag
from saldo.query.balances import Standing
from saldo.query.errors import AccountNotFound, PositionNotFound, ProjectionBehind
from saldo.query.prefer import wait_asked_for
from saldo.query.responses import Balance, Balances, NoBalance, balance_of
from saldo.query.server_sent_events import EventStream, balance_events
from saldo.query.statement import read_accounts, read_days, read_filters, read_statement
from saldo.serve.http.auth import READ, SYSTEM
from saldo.serve.http.cloud_events import STRUCTURED, read_cloud_event
from saldo.serve.http.json_reader import Number
from saldo.serve.http.problems import FieldError, Invalid
from saldo.serve.http.request import TIME_FAULT, Answer, is_held, parse_time, whole_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saldo.query.reader import Reader
    from saldo.serve.http.auth import Caller
    from saldo.serve.http.members import Body
    from saldo.serve.http.request import Request

ACCOUNTS_A_REQUEST_MAX = 100
LINES_DEFAULT = 50
LINES_MAX = 500
DAYS_DEFAULT = 366
DAYS_MAX = 1_500
POSITION_MAX = 10**18 - 1

REQUESTED = "saldo.balance.requested"
# A PingSource cannot choose its event's type. The data name the account.
PING = "dev.knative.sources.ping"
RESPONDED = "saldo.balance"
SOURCE = "/saldo/balances"

# The query parameters of each route, and how often each may be given.
BALANCES_QUERY = {
    "accountId": ACCOUNTS_A_REQUEST_MAX,
    **dict.fromkeys(("asOf", "position", "effectiveAt", "minPosition"), 1),
}
PAGE_QUERY = {"limit": 1, "cursor": 1}
STREAM_QUERY = {"accountId": 1}
DAILY_QUERY = {**STREAM_QUERY, "limit": 1}
STATEMENT_QUERY = {
    **STREAM_QUERY,
    **PAGE_QUERY,
    **dict.fromkeys(("type", "from", "before", "text"), 1),
}


async def get_balances(reader: Reader, request: Request) -> Response:
    """Respond to ``GET /balances``: one account, as it stands or stood, or several."""
    account_ids = _accounts(request, await reader.caller(request))
    past = [name for name in request.parameters if name != "accountId"]
    if past and len(account_ids) > 1:
        raise Invalid([FieldError(past[0], "is for one accountId at a time")])
    if len(past) > 1:
        raise Invalid([FieldError(past[1], f"cannot be combined with {past[0]}: give one")])
    if len(account_ids) > 1:
        return await _several(reader, account_ids)
    wait_s = None
    if past == ["minPosition"]:
        wait_s = wait_asked_for(request.headers_named(b"prefer"))
        standing = await _own_write(reader, request, account_ids[0], wait_s)
    else:
        standing = await reader.read(account_ids[0])
    standing.require_projected()
    if past and past != ["minPosition"]:
        balance = await _past(reader, request, standing, past[0])
        return _json(balance, standing.behind)
    etag = f'"{standing.tag}"'
    headers = [
        (b"saldo-behind", b"%d" % standing.behind),
        (b"etag", etag.encode()),
        (b"cache-control", b"private, no-cache"),
    ]
    if wait_s is not None:
        headers.append((b"preference-applied", b"wait=%d" % wait_s))
    if is_held(request, etag):
        response = Response(status_code=304)
        response.raw_headers += headers
        return response
    return Answer(msgspec.json.encode(balance_of(standing)), headers=headers)


async def _several(reader: Reader, account_ids: Sequence[str]) -> Response:
    standings = await asyncio.gather(*(reader.read(account_id) for account_id in account_ids))
    balances = [
        balance_of(each, behind=each.behind)
        if each.is_projected
        else NoBalance(
            account_id=each.account_id,
            status="projection-behind" if each.stream_position else "unknown",
        )
        for each in standings
    ]
    return _json(Balances(balances), max(each.behind for each in standings))


async def _own_write(
    reader: Reader, request: Request, account_id: str, wait_s: int | None
) -> Standing:
    """Return the balance once it has reached ``minPosition``, after at most ``wait_s``.

    Where ``minPosition`` is a tag, the account's stream must have that state.
    """
    wanted = read_tag(request.parameters["minPosition"][0])
    if wanted is None:
        fault = "must be a position, or an ETag without its quotes"
        raise Invalid([FieldError("minPosition", fault)])
    ends_at = time.monotonic() + (wait_s or 0)
    seen = ""
    while (standing := await reader.read(account_id)).position < wanted.position:
        if standing.stream_position == 0:
            raise AccountNotFound
        left_s = ends_at - time.monotonic()
        reached = None
        if left_s > 0:
            reached = await reader.watch.reach(account_id, wanted.position, left_s, seen)
        if reached is None:
            raise ProjectionBehind(
                position=standing.position, wanted=wanted.position, wait_s=wait_s
            )
        seen = reached
    if wanted.hash_start and not wanted.names(standing.position, standing.hash or b""):
        row = await reader.balances.at_position(account_id, wanted.position)
        if row is None or not wanted.names(row["position"], row["hash"]):
            raise PositionNotFound
    return standing


async def _past(reader: Reader, request: Request, standing: Standing, how: str) -> Balance:
    """Return a balance of the past, by position, recorded time or occurred time."""
    account_id, end = standing.account_id, standing.stream_position
    if how == "position":
        position = whole_number(request, "position", 0, 1, POSITION_MAX)
        row = await reader.balances.at_position(account_id, position)
        if row is not None:
            return balance_of(Standing(account_id=account_id, stream_position=end, **row))
        if position <= end:
            raise ProjectionBehind(position=standing.position, wanted=position)
        raise PositionNotFound
    moment = parse_time(request.parameters[how][0])
    if moment is None:
        raise Invalid([FieldError(how, TIME_FAULT)])
    if how == "effectiveAt":
        minor = await reader.balances.effective_at(account_id, moment)
        stood = replace(standing, balance_minor=minor, blocked_at=None)
        balance = balance_of(stood, effective_at=format_time(moment))
        balance.hash = balance.recorded_at = UNSET
        return balance
    line = dict(await reader.balances.as_of(account_id, moment, standing.now))
    is_final = line.pop("is_final")
    if line["position"] is None:
        line = {"currency": standing.currency}
    stood = Standing(account_id=account_id, stream_position=end, **line)
    return balance_of(stood, as_of=format_time(moment), final=is_final)


async def get_statement(reader: Reader, request: Request) -> Response:
    """Respond to ``GET /transactions?accountId=``: the statement, newest first."""
    [account_id] = _accounts(request, await reader.caller(request))
    limit = whole_number(request, "limit", LINES_DEFAULT, 1, LINES_MAX)
    filters = read_filters(request)
    standing = await reader.read(account_id)
    standing.require_projected()
    cursor = request.parameter("cursor")
    page = await read_statement(reader.balances, standing, filters, limit, cursor)
    return _json(page, standing.behind)


async def get_accounts(reader: Reader, request: Request) -> Response:
    """Respond to ``GET /accounts``: the accounts that the caller may see."""
    caller = await reader.caller(request)
    caller.require(READ)
    limit = whole_number(request, "limit", LINES_DEFAULT, 1, LINES_MAX)
    cursor = request.parameter("cursor")
    page = await read_accounts(reader.balances, caller.accounts, limit, cursor)
    return Answer(msgspec.json.encode(page))


async def get_daily(reader: Reader, request: Request) -> Response:
    """Respond to ``GET /balances/daily?accountId=``: what each day brought."""
    [account_id] = _accounts(request, await reader.caller(request))
    limit = whole_number(request, "limit", DAYS_DEFAULT, 1, DAYS_MAX)
    standing = await reader.read(account_id)
    standing.require_projected()
    days = await read_days(reader.balances, account_id, standing.currency or "XXX", limit)
    return _json(days, standing.behind)


async def get_system(reader: Reader, request: Request) -> Response:
    """Respond to ``GET /system``: how the whole system stands."""
    caller = await reader.caller(request)
    caller.require(SYSTEM)
    return Answer(await reader.system.json())


async def get_stream(reader: Reader, request: Request) -> Response:
    """Respond to ``GET /balances/stream?accountId=``: the balance as server-sent events."""
    caller = await reader.caller(request)
    [account_id] = _accounts(request, caller)
    if (await reader.read(account_id)).stream_position == 0:
        raise AccountNotFound
    reader.streams.require_room(caller)
    last_tag = request.header(b"last-event-id") or ""
    return EventStream(balance_events(reader, account_id, last_tag), reader.streams, caller)


async def post_cloud_event(reader: Reader, request: Request) -> Response:
    """Respond to a CloudEvent ``saldo.balance.requested`` by ``saldo.balance``, in its mode."""
    caller = await reader.caller(request)
    caller.require(READ)
    event = await read_cloud_event(request)
    if event.type not in {REQUESTED, PING}:
        raise Invalid([FieldError("type", f"of the CloudEvent must be {REQUESTED} or {PING}")])
    account_id = _account_id_of(event.data)
    caller.require(READ, account_id)
    standing = await reader.read(account_id)
    standing.require_projected()
    attributes = {
        "type": RESPONDED,
        "source": SOURCE,
        "id": f"{account_id}/{standing.tag}",
        "subject": account_id,
        "sequence": str(standing.position),
        "datacontenttype": "application/json",
    }
    if event.traceparent is not None:
        attributes["traceparent"] = event.traceparent
    balance = balance_of(standing)
    response = CloudEvent(attributes, balance)
    if event.is_structured:
        # The package would read and write the amounts as floats.
        headers = {"content-type": STRUCTURED}
        body = msgspec.json.encode({**response.get_attributes(), "data": balance})
    else:
        headers, body = to_binary(response, data_marshaller=msgspec.json.encode)
    return Response(body, 200, {**headers, "Saldo-Behind": str(standing.behind)})


def _accounts(request: Request, caller: Caller) -> Sequence[str]:
    """Return the accounts that the request names, each of which ``caller`` may read."""
    account_ids = request.parameters.get("accountId", ())
    for account_id in account_ids or ("",):
        _check_account_id(account_id)
        caller.require(READ, account_id)
    return account_ids


def _account_id_of(data: object) -> str:
    """Return the account that a CloudEvent's data name; raises Invalid."""
    if not isinstance(data, dict):
        raise Invalid([FieldError("data", 'must be a JSON object such as {"accountId": "wesley"}')])
    errors = [
        FieldError(name[:80].encode("utf-8", "replace").decode(), "is not known; give accountId")
        for name in data
        if name != "accountId"
    ]
    del errors[1:]
    account_id = data.get("accountId")
    if not isinstance(account_id, str) or isinstance(account_id, Number):
        errors.append(FieldError("accountId", "must be a string"))
    if errors:
        raise Invalid(errors)
    _check_account_id(str(account_id))
    return str(account_id)


def _check_account_id(text: str) -> None:
    if not ACCOUNT_ID.fullmatch(text):
        raise Invalid([FieldError("accountId", "must be an account id of 1 to 128 characters")])


def _json(body: Body, behind: int) -> Response:
    return Answer(msgspec.json.encode(body), headers=[(b"saldo-behind", b"%d" % behind)])
