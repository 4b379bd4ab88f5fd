"""The request bodies for the recorder: a line of NDJSON for each transaction, in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from saldo.bank_import.keys import OPENING_KEY, idempotency_keys
from saldo.domain.money import format_minor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from saldo.bank_import.statement import BankStatement

# The recorder takes 10,000 lines in 8 MiB a request, and two such requests at a time. Smaller ones
# are no slower, hold less in memory on both sides, and let the progress be seen.
CHUNK_LINES_MAX = 5_000
CHUNK_BYTES_MAX = 6 * 1024 * 1024
# The first request is small and goes alone: what would refuse all of them (a token, the currency)
# shows before much is sent.
FIRST_CHUNK_LINES_MAX = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One line as it is sent, and the line of the file that it came from (0: the opening)."""

    number: int
    body: bytes


def outgoing_lines(
    statement: BankStatement, account_id: str, *, with_opening_balance: bool
) -> list[Outgoing]:
    """Return the NDJSON line of each transaction, the opening balance first where it is recorded.

    A line has neither the file's name nor its own number: the same transaction of another file must
    be the same request.
    """
    encode = msgspec.json.Encoder().encode

    def outgoing(number: int, amount_minor: int, on: date, key: str, **more: object) -> Outgoing:
        members = {
            "accountId": account_id,
            "type": "INCOME" if amount_minor > 0 else "EXPENSE",
            # a string, since an encoder would write a JSON number from a float
            "value": format_minor(abs(amount_minor), statement.currency),
            "currency": statement.currency,
            # the bank's calendar day, so that a day of the statement is a day of effective time
            "occurredAt": f"{on.isoformat()}T00:00:00Z",
            "idempotencyKey": key,
            **more,
        }
        return Outgoing(number=number, body=encode(members))

    lines: list[Outgoing] = []
    opening = statement.opening
    if with_opening_balance and opening is not None and opening.amount_minor:
        lines.append(
            outgoing(
                0, opening.amount_minor, opening.on, OPENING_KEY, description="Opening balance"
            )
        )
    for line, key in zip(statement.lines, idempotency_keys(statement.lines), strict=True):
        more: dict[str, object] = {}
        if line.description:
            more["description"] = line.description
        if line.reference is not None:
            more["metadata"] = {"bankReference": line.reference}
        lines.append(outgoing(line.number, line.amount_minor, line.occurred_on, key, **more))
    return lines


def chunks_of(lines: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Yield the lines of each request, within the bounds; those of the first are few."""
    chunk: list[Outgoing] = []
    size = 0
    lines_max = FIRST_CHUNK_LINES_MAX
    for line in lines:
        if chunk and (len(chunk) == lines_max or size + len(line.body) + 1 > CHUNK_BYTES_MAX):
            yield chunk
            chunk, size, lines_max = [], 0, CHUNK_LINES_MAX
        chunk.append(line)
        size += len(line.body) + 1
    if chunk:
        yield chunk
