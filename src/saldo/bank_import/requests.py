"""The request bodies of the imported lines, each with its idempotency key.

A line is known by what the bank says about it in every file that shows it: reference, day and
amount, or without a reference day, amount and description. Its place in the file and the file
itself take no part. Equal lines of one day (two coffees) are numbered 1, 2, 3, so the account holds
as many of them as the file that shows most. Files may overlap in any way, and even cut a day, as
long as one of them shows the whole of that day.

- A reference is not trusted alone. Banks use one twice (a batch, a document number, a fee).
- The running balance of a CSV file takes no part. Many banks print it on the last line of a day
  only, or post a line to an earlier day later on. The next file then shows other balances beside
  the same lines, and each of them would be recorded twice. Without it the worst case is rarer: two
  files that cut a day between equal lines lack one, which the closing balance shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from saldo.bank_import.statement import BankStatement, StatementLine
from saldo.domain.money import format_minor

# One for each account, whatever the file: an opening balance stands for all that was before, so a
# second one would count the same past again.
OPENING_KEY = "import:opening-balance"

# Part of what is hashed: another way of telling lines apart must not meet the keys of this one.
KEY_VERSION = "1"
KEY_DIGEST_BYTES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One line as it is sent, and the line of the file that it came from (0: the opening)."""

    number: int
    body: bytes


def idempotency_keys(lines: Sequence[StatementLine]) -> list[str]:
    """Return the key of each line, in their order. Give all lines of a file at once."""
    keys: list[str] = []
    seen: dict[str, int] = {}
    for line in lines:
        what = ("content", line.description)
        if line.reference is not None:
            what = ("reference", line.reference)
        known_by = "\0".join((*what, line.occurred_on.isoformat(), str(line.amount_minor)))
        seen[known_by] = seen.get(known_by, 0) + 1
        text = f"{KEY_VERSION}\0{known_by}\0{seen[known_by]}"
        digest = hashlib.blake2b(text.encode(), digest_size=KEY_DIGEST_BYTES).hexdigest()
        keys.append(f"import:{digest}")
    return keys


def outgoing_lines(
    statement: BankStatement, account_id: str, *, with_opening_balance: bool
) -> list[Outgoing]:
    """Return the NDJSON line of each transaction, the opening balance first where it is recorded.

    A line has neither the file's name nor its own number: the same transaction of another file must
    be the same request.
    """
    keyed = list(zip(idempotency_keys(statement.lines), statement.lines, strict=True))
    opening = statement.opening
    if with_opening_balance and opening is not None and opening.amount_minor:
        first = StatementLine(
            number=0,
            occurred_on=opening.on,
            amount_minor=opening.amount_minor,
            description="Opening balance",
            reference=None,
        )
        keyed.insert(0, (OPENING_KEY, first))
    encode = msgspec.json.Encoder().encode
    return [
        Outgoing(number=line.number, body=encode(_members(line, key, statement, account_id)))
        for key, line in keyed
    ]


def _members(
    line: StatementLine, key: str, statement: BankStatement, account_id: str
) -> dict[str, object]:
    members: dict[str, object] = {
        "accountId": account_id,
        "type": "INCOME" if line.amount_minor > 0 else "EXPENSE",
        # a string, since an encoder would write a JSON number from a float
        "value": format_minor(abs(line.amount_minor), statement.currency),
        "currency": statement.currency,
        # the bank's calendar day, so that a day of the statement is a day of effective time
        "occurredAt": f"{line.occurred_on.isoformat()}T00:00:00Z",
        "idempotencyKey": key,
    }
    if line.description:
        members["description"] = line.description
    if line.reference is not None:
        members["metadata"] = {"bankReference": line.reference}
    return members
