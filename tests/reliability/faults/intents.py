"""A client's intent as an HTTP request, and the content of its response."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.reliability.history.history import Receipt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.reliability.history.history import Kind, Outcome

# Problems that say "nothing was recorded". Any other 5xx, and no answer at all, says nothing.
BUSY = frozenset({"too-busy", "store-busy", "store-unavailable"})
REFUSALS = BUSY | {
    "already-reversed",
    "insufficient-funds",
    "lines-refused",
    "position-conflict",
    "transaction-not-found",
}
# A limit that the load's own expenses keep to, and an expense beyond it.
LIMIT_MINOR = 1_000_000
LARGE_MINOR = 10_000_000_000
FINAL = frozenset({200, 201, 404, 409, 412, 422})


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What a client wants recorded, once.

    One that is not keyed bears its key in the description alone: the client cannot attempt it
    again, and nothing but the recorder's own care keeps it from being recorded twice.
    """

    account_id: str
    kind: Kind
    amount_minor: int
    key: str
    keyed: bool = True
    reverses: str | None = None
    expected: str = ""  # the state in which the account must be: a tag, or a bare position


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A transaction that was recorded and may be reversed."""

    account_id: str
    receipt: Receipt
    amount_minor: int


def dependent(known: Known, other_account_id: str, key: str) -> list[tuple[Intent, ...]]:
    """Return requests that depend on one another when one batch decides them.

    A repeat, two reversals of one transaction, a limit and an expense beyond it, an expected
    position, and a bulk request whose first line repeats the first request.
    """
    account_id = known.account_id

    def intent(ending: str, kind: Kind = "INCOME", amount_minor: int = 100) -> Intent:
        return Intent(
            account_id=account_id, kind=kind, amount_minor=amount_minor, key=f"{key}-{ending}"
        )

    first = intent("first", amount_minor=300)
    undo = [
        Intent(
            account_id=account_id,
            kind="EXPENSE",
            amount_minor=known.amount_minor,
            key=f"{key}-{ending}",
            reverses=known.receipt.event_id,
        )
        for ending in ("undo", "undo-too")
    ]
    expected = str(known.receipt.position + 1)
    matched = Intent(
        account_id=account_id,
        kind="INCOME",
        amount_minor=100,
        key=f"{key}-match",
        expected=expected,
    )
    other = Intent(account_id=other_account_id, kind="INCOME", amount_minor=200, key=f"{key}-other")
    return [
        (first,),
        (first,),
        *((each,) for each in undo),
        (intent("limit", "LIMIT", LIMIT_MINOR),),
        (intent("beyond", "EXPENSE", LARGE_MINOR),),
        (matched,),
        (first, other, intent("third")),
    ]


def request_of(intents: Sequence[Intent]) -> tuple[str, str, str, dict[str, str]]:
    """Return method, path, body and headers; several intents make a bulk request."""
    headers = {"Content-Type": "application/json"}
    if len(intents) > 1:
        lines = [_transaction(each) | {"idempotencyKey": each.key} for each in intents]
        return "POST", "/transactions", json.dumps(lines), headers
    [intent] = intents
    if intent.keyed:
        headers["Idempotency-Key"] = intent.key
    if intent.expected:
        headers["If-Match"] = f'"{intent.expected}"'
    if intent.reverses is not None:
        return "POST", f"/transactions/{intent.reverses}/reversal", "", headers
    if intent.kind == "LIMIT":
        body = f'{{"overdraftLimit":{_value(intent)}}}'
        return "PUT", f"/accounts/{intent.account_id}/limit", body, headers
    return "POST", "/transactions", json.dumps(_transaction(intent)), headers


def _transaction(intent: Intent) -> dict[str, str]:
    body = {"accountId": intent.account_id, "type": intent.kind, "value": _value(intent)}
    return body if intent.keyed else body | {"description": intent.key}


def _value(intent: Intent) -> str:
    return f"{intent.amount_minor // 100}.{intent.amount_minor % 100:02d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a response says: a receipt for each line, or why there is none."""

    outcome: Outcome
    said: str = ""
    receipts: tuple[Receipt, ...] = ()
    named: str | None = None
    stated: tuple[int, int | None] | None = None


def response_of(status: int, text: str) -> Response:
    """Read a response; AssertionError for one that no client can go on from."""
    content = json.loads(text, parse_float=str)
    if status in {200, 201}:
        lines = content.get("transactions", [content])
        return Response(outcome="recorded", receipts=tuple(map(_receipt_of, lines)))
    problem = content["type"].rpartition(":")[2]
    # Anything else, an internal error above all, is a finding.
    assert problem in REFUSALS | {"outcome-unknown"}, text
    stated: tuple[int, int | None] | None = None
    if problem == "position-conflict":
        stated = (content["actual"], None)
    elif problem == "insufficient-funds":
        stated = (content["position"], minor(content["balance"]))
    return Response(
        outcome="refused" if problem in REFUSALS else "unknown",
        said=f"{status} {problem}",
        named=content.get("reversedBy"),
        stated=stated,
    )


def _receipt_of(content: Any) -> Receipt:
    return Receipt(
        event_id=content["id"],
        position=content["position"],
        balance_minor=minor(content.get("balance", 0)),
        hash=content["hash"],
    )


def minor(value: int | str) -> int:
    """Return the minor units of a JSON number of two digits or none."""
    whole, _, digits = str(value).partition(".")
    sign = -1 if whole.startswith("-") else 1
    return int(whole) * 100 + sign * int(digits or "0")
