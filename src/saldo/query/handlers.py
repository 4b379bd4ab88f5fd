"""Handlers of get_balance: balances, statements, accounts and the stream of changes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent
from starlette.responses import Response

from saldo.domain.commands import ACCOUNT_ID, Kind
from saldo.domain.events import format_time
from saldo.domain.money import value_members
from saldo.domain.tag import read_tag
from saldo.query.balances import (
    AccountNotFound,
    PositionNotFound,
    ProjectionBehind,
    ReadModelUnavailable,
    Standing,
    balance_id,
)
from saldo.query.position_watch import TooManyWaiters
from saldo.query.prefer import wait_asked_for
from saldo.query.server_sent_events import EventStream, balance_events
from saldo.query.statement import (
    STATEMENT_LIMIT_DEFAULT,
    STATEMENT_LIMIT_MAX,
    Filters,
    accounts_json,
    daily_json,
    statement_json,
)
from saldo.serve.http.auth import READ, SYSTEM, Caller
from saldo.serve.http.cloud_events import read_cloud_event
from saldo.serve.http.json_reader import Number
from saldo.serve.http.problems import FieldError, Invalid, TooBusy
from saldo.serve.http.request import TIME_FAULT, Answer, is_held, parse_time, whole_number

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from datetime import datetime

    from saldo.query.reader import Reader
    from saldo.serve.http.request import Request

ACCOUNTS_A_REQUEST_MAX = 100
TEXT_FILTER_CHARACTERS_MAX = 100
DAYS_DEFAULT = 366
DAYS_MAX = 1_500

REQUESTED = "saldo.balance.requested"
# A PingSource cannot name a type of its own: its event asks for the account in its data.
PING = "dev.knative.sources.ping"
ANSWERED = "saldo.balance"
SOURCE = "/saldo/balances"


# The query parameters of each route, and how often each may stand.
PAST = ("asOf", "position", "effectiveAt", "minPosition")
BALANCES_QUERY = {"accountId": ACCOUNTS_A_REQUEST_MAX, **dict.fromkeys(PAST, 1)}
STATEMENT_QUERY = dict.fromkeys(
    ("accountId", "limit", "cursor", "type", "from", "before", "text"), 1
)
ACCOUNTS_QUERY = {"limit": 1, "cursor": 1}
DAILY_QUERY = {"accountId": 1, "limit": 1}
STREAM_QUERY = {"accountId": 1}


async def get_balances(reader: Reader, request: Request) -> Response:
    """``GET /balances``: one account, as it stands or stood, or several as they stand."""
    caller = await reader.caller(request)
    only = request.only_parameter()
    if only is not None and only[0] == "accountId":
        account_id, past = only[1], None
        _check_account_id(account_id)
        caller.require(READ, account_id)
    else:
        account_ids = request.parameters.getlist("accountId")
        past = _past_asked_for(request, caller, account_ids)
        if len(account_ids) > 1:
            return await _several(reader, account_ids)
        account_id = account_ids[0]
    applied: Mapping[str, str] = {}
    if past == "minPosition":
        standing, applied = await _own_write(reader, request, account_id)
    else:
        standing = await reader.read(account_id)
    standing.require_projected()
    if past is not None and past != "minPosition":
        body = await _past(reader, standing, past, request.parameters[past])
        headers = {"Saldo-Behind": str(standing.behind)}
        return Response(body, 200, headers, "application/json")
    etag = f'"{standing.tag()}"'
    if b"if-none-match" in request.first and is_held(request, etag):
        headers = {
            "Saldo-Behind": str(standing.behind),
            "ETag": etag,
            "Cache-Control": "private, no-cache",
        }
        return Response(status_code=304, headers={**headers, **applied})
    laid_down = [
        (b"saldo-behind", b"%d" % standing.behind),
        (b"etag", etag.encode()),
        (b"cache-control", b"private, no-cache"),
        *((name.encode(), text.encode()) for name, text in applied.items()),
    ]
    return Answer(standing.json().encode(), 200, laid_down)


def _past_asked_for(request: Request, caller: Caller, account_ids: Sequence[str]) -> str | None:
    """The one parameter beside ``accountId``, if there is one; raises Invalid or Forbidden."""
    if not 1 <= len(account_ids) <= ACCOUNTS_A_REQUEST_MAX:
        raise Invalid(
            [FieldError("accountId", f"must be given 1 to {ACCOUNTS_A_REQUEST_MAX} times")]
        )
    for account_id in account_ids:
        _check_account_id(account_id)
        caller.require(READ, account_id)
    past = [name for name in PAST if name in request.parameters]
    if past and len(account_ids) > 1:
        raise Invalid([FieldError(past[0], "is for one accountId at a time")])
    if len(past) > 1:
        raise Invalid([FieldError(past[1], f"cannot be combined with {past[0]}: give one")])
    return past[0] if past else None


async def _several(reader: Reader, account_ids: Sequence[str]) -> Response:
    standings = await asyncio.gather(*(reader.read(account_id) for account_id in account_ids))
    shown: list[str] = []
    for standing in standings:
        if standing.is_projected:
            shown.append(f'{standing.json()[:-1]},"behind":{standing.behind}}}')
        else:
            status = "unknown" if standing.stream_position == 0 else "projection-behind"
            shown.append(f'{{"accountId":"{standing.account_id}","status":"{status}"}}')
    behind = max(standing.behind for standing in standings)
    body = f'{{"balances":[{",".join(shown)}]}}'
    return Response(body, 200, {"Saldo-Behind": str(behind)}, "application/json")


async def _own_write(
    reader: Reader, request: Request, account_id: str
) -> tuple[Standing, Mapping[str, str]]:
    """Return the balance once it has reached ``minPosition``, as far as ``Prefer: wait=`` allows.

    Where ``minPosition`` is a tag, the account's stream must have that state. The headers say for
    how long it was waited.
    """
    wanted = read_tag(request.parameters["minPosition"])
    if wanted is None:
        fault = "must be a position, or an ETag without its quotes"
        raise Invalid([FieldError("minPosition", fault)])
    wait_s = wait_asked_for(request.headers_named(b"prefer"))
    applied = {} if wait_s is None else {"preference-applied": f"wait={wait_s}"}
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
                position=standing.position, wanted=wanted.position, applied=applied
            )
        seen = reached
    if wanted.hash_start and not wanted.names(standing.position, standing.hash or b""):
        row = await reader.balances.at_position(account_id, wanted.position)
        if row is None or not wanted.names(row["position"], row["hash"]):
            raise PositionNotFound
    return standing, applied


async def _past(reader: Reader, standing: Standing, how: str, text: str) -> str:
    """A balance of the past, by position, recorded time or occurred time."""
    account_id, currency = standing.account_id, standing.currency or "XXX"
    head = f'{{"id":"{balance_id(account_id)}","accountId":"{account_id}"'
    if how == "position":
        position = _position(text)
        row = await reader.balances.at_position(account_id, position)
        if row is None:
            if position <= standing.stream_position:
                raise ProjectionBehind(position=standing.position, wanted=position)
            raise PositionNotFound
        return f"{head}{_line_members(row)}}}"
    moment = _moment(how, text)
    if how == "effectiveAt":
        balance_minor = await reader.balances.effective_at(account_id, moment)
        return (
            f'{head},{value_members(balance_minor, standing.currency)},"currency":"{currency}",'
            f'"position":{standing.position},"effectiveAt":"{format_time(moment)}"}}'
        )
    row = await reader.balances.as_of(account_id, moment, standing.now)
    members = (
        f',{value_members(0, None)},"currency":"{currency}",'
        '"position":0,"hash":"","recordedAt":null'
        if row["position"] is None
        else _line_members(row)
    )
    final = "true" if row["is_final"] else "false"
    return f'{head}{members},"asOf":"{format_time(moment)}","final":{final}}}'


def _line_members(row: Any) -> str:
    return (
        f",{value_members(row['balance_minor'], row['currency'])},"
        f'"currency":"{row["currency"]}","position":{row["position"]},'
        f'"hash":"{row["hash"].hex()}","recordedAt":"{format_time(row["recorded_at"])}"'
    )


async def get_statement(reader: Reader, request: Request) -> Response:
    """``GET /transactions?accountId=``: the statement, newest first."""
    caller = await reader.caller(request)
    query = request.parameters
    account_id = query.get("accountId", "")
    _check_account_id(account_id)
    caller.require(READ, account_id)
    limit = whole_number(request, "limit", STATEMENT_LIMIT_DEFAULT, 1, STATEMENT_LIMIT_MAX)
    filters = _filters(query)
    standing = await reader.read(account_id)
    standing.require_projected()
    body = await statement_json(reader.balances, standing, filters, limit, query.get("cursor"))
    return Response(body, 200, {"Saldo-Behind": str(standing.behind)}, "application/json")


async def get_accounts(reader: Reader, request: Request) -> Response:
    """``GET /accounts``: the accounts that the caller may see."""
    caller = await reader.caller(request)
    caller.require(READ)
    limit = whole_number(request, "limit", STATEMENT_LIMIT_DEFAULT, 1, STATEMENT_LIMIT_MAX)
    cursor = request.parameters.get("cursor")
    body = await accounts_json(reader.balances, caller.accounts, limit, cursor)
    return Response(body, 200, media_type="application/json")


async def get_daily(reader: Reader, request: Request) -> Response:
    """``GET /balances/daily?accountId=``: what each day brought, and the balance at its end."""
    caller = await reader.caller(request)
    account_id = request.parameters.get("accountId", "")
    _check_account_id(account_id)
    caller.require(READ, account_id)
    limit = whole_number(request, "limit", DAYS_DEFAULT, 1, DAYS_MAX)
    standing = await reader.read(account_id)
    standing.require_projected()
    body = await daily_json(reader.balances, account_id, standing.currency or "XXX", limit)
    return Response(body, 200, {"Saldo-Behind": str(standing.behind)}, "application/json")


async def get_system(reader: Reader, request: Request) -> Response:
    """``GET /system``: how the whole system stands."""
    caller = await reader.caller(request)
    caller.require(SYSTEM)
    return Response(await reader.system.json(), 200, media_type="application/json")


async def get_stream(reader: Reader, request: Request) -> Response:
    """``GET /balances/stream?accountId=``: the balance as server-sent events."""
    caller = await reader.caller(request)
    account_id = request.parameters.get("accountId", "")
    _check_account_id(account_id)
    caller.require(READ, account_id)
    last_tag = request.header(b"last-event-id") or ""
    if (await reader.read(account_id)).stream_position == 0:
        raise AccountNotFound
    reader.streams.require_room(caller)

    async def events() -> AsyncIterator[bytes]:
        try:
            async for text in balance_events(
                account_id,
                last_tag,
                reader.read,
                reader.watch,
                lambda: reader.stopping,
            ):
                yield text
        except (ReadModelUnavailable, TooBusy, TooManyWaiters):
            return  # the stream ends, and the client comes back by itself

    return EventStream(events(), reader.streams, caller)


async def post_cloud_event(reader: Reader, request: Request) -> Response:
    """A CloudEvent ``saldo.balance.requested`` is answered by ``saldo.balance``, in its mode."""
    caller = await reader.caller(request)
    caller.require(READ)
    asked = await read_cloud_event(request)
    if asked.type not in {REQUESTED, PING}:
        raise Invalid([FieldError("type", f"of the CloudEvent must be {REQUESTED} or {PING}")])
    account_id = _asked_account_id(asked.data)
    _check_account_id(account_id)
    caller.require(READ, account_id)
    standing = await reader.read(account_id)
    standing.require_projected()
    answer = CloudEvent(
        {
            "type": ANSWERED,
            "source": SOURCE,
            "id": f"{account_id}/{standing.tag()}",
            "subject": account_id,
            "sequence": str(standing.position),
            "datacontenttype": "application/json",
        }
        | ({} if asked.traceparent is None else {"traceparent": asked.traceparent}),
        standing.json(),
    )
    if asked.is_structured:
        # The data is a JSON text already; the package would quote it as a string.
        headers, text = to_structured(answer, data_marshaller=lambda _: "\0")
        text = text.replace(b'"\\u0000"', standing.json().encode())
    else:
        headers, text = to_binary(answer, data_marshaller=lambda data: data)
    return Response(text, 200, {**headers, "Saldo-Behind": str(standing.behind)})


def _asked_account_id(data: object) -> str:
    """The account that a CloudEvent's data name; raises Invalid."""
    if not isinstance(data, dict):
        raise Invalid([FieldError("data", 'must be a JSON object such as {"accountId": "wesley"}')])
    errors: list[FieldError] = []
    unknown = next((name for name in data if name != "accountId"), None)
    if unknown is not None:
        shown = unknown[:80].encode("utf-8", "replace").decode()
        errors.append(FieldError(shown, "is not known; give accountId"))
    account_id = data.get("accountId")
    if not isinstance(account_id, str) or isinstance(account_id, Number):
        errors.append(FieldError("accountId", "must be a string"))
    if errors:
        raise Invalid(errors)
    return str(account_id)


def _filters(query: Any) -> Filters:
    errors: list[FieldError] = []
    kind = query.get("type")
    if kind is not None and kind not in Kind.__members__:
        errors.append(FieldError("type", "must be INCOME or EXPENSE"))
    moments: dict[str, datetime | None] = {}
    for name in ("from", "before"):
        text = query.get(name)
        moments[name] = None if text is None else parse_time(text)
        if text is not None and moments[name] is None:
            errors.append(FieldError(name, TIME_FAULT))
    text = query.get("text")
    if text is not None and (len(text) > TEXT_FILTER_CHARACTERS_MAX or "\0" in text):
        errors.append(
            FieldError("text", f"must have at most {TEXT_FILTER_CHARACTERS_MAX} characters")
        )
    if errors:
        raise Invalid(errors)
    return Filters(
        kind=kind,
        occurred_from=moments["from"],
        occurred_before=moments["before"],
        text=text,
    )


def _position(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18 or int(text) < 1:  # noqa: PLR2004 - a bigint
        raise Invalid([FieldError("position", "must be a whole number from 1")])
    return int(text)


def _moment(name: str, text: str) -> datetime:
    moment = parse_time(text)
    if moment is None:
        raise Invalid([FieldError(name, TIME_FAULT)])
    return moment


def _check_account_id(text: str) -> None:
    if not ACCOUNT_ID.fullmatch(text):
        raise Invalid([FieldError("accountId", "must be an account id of 1 to 128 characters")])
