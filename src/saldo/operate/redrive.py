"""Dead letters: what the projector gave up on, and redriving it.

A dead letter of one of Saldo's accounts only shows that the account may have stopped. Redriving it
clears the block and catches the account up, in the order of its stream; nothing is applied twice. A
dead letter of no account is delivered again as it was, or dropped, when the operator says so.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from saldo.operate.errors import RedriveError
from saldo.project.catch_up import Surroundings, catch_up
from saldo.project.postgres import PostgresReadModel, PostgresStreamReader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg

LIST_MAX = 1_000
ROUNDS_MAX = 100_000
DELIVERY_TIMEOUT_S = 30.0
# What the KafkaSource added when it gave up.
NOT_REDELIVERED = frozenset({"knativeerrordest", "knativeerrorcode", "knativeerrordata"})

LIST = """
SELECT dead_letter_id, account_id, event_id, position, reason, received_at, redriven_at
FROM read_model.dead_letter WHERE ($1 OR redriven_at IS NULL)
ORDER BY received_at, account_id, event_id LIMIT $2
"""
SHOW = "SELECT * FROM read_model.dead_letter WHERE dead_letter_id = $1"
KNOWN_STREAM = "SELECT position FROM event_store.stream WHERE account_id = $1 AND position > 0"
UNBLOCK = """
UPDATE read_model.balance SET blocked_at = NULL, blocked_reason = NULL, blocked_schema = NULL
WHERE account_id = $1
"""
REDRIVEN = """
UPDATE read_model.dead_letter SET redriven_at = clock_timestamp()
WHERE account_id = $1 AND redriven_at IS NULL AND (position IS NULL OR position <= $2)
"""
REDELIVERED = """
UPDATE read_model.dead_letter SET redriven_at = clock_timestamp() WHERE dead_letter_id = $1
"""
DROP = "DELETE FROM read_model.dead_letter WHERE dead_letter_id = $1"
BLOCKED = """
SELECT account_id FROM read_model.balance WHERE blocked_schema IS NOT NULL
UNION
SELECT account_id FROM read_model.dead_letter WHERE redriven_at IS NULL AND account_id <> ''
ORDER BY 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redriven:
    """An account's position after it was redriven."""

    account_id: str
    position: int
    projected: int
    blocked: bool
    letters: int


class DeadLetters:
    """The dead letters of a read model, with the event store that they came from."""

    def __init__(
        self,
        streams: asyncpg.Pool[asyncpg.Record],
        read_model: asyncpg.Pool[asyncpg.Record],
    ) -> None:
        self._streams = streams
        self._pool = read_model
        self._around = Surroundings(
            read_model=PostgresReadModel(read_model),
            streams=PostgresStreamReader(streams),
            sleep=asyncio.sleep,
        )

    async def waiting(self, *, redriven: bool) -> Sequence[asyncpg.Record]:
        """Return the oldest dead letters; ``redriven`` adds those that were put through."""
        return await self._pool.fetch(LIST, redriven, LIST_MAX)

    async def show(self, dead_letter_id: UUID) -> asyncpg.Record:
        """Return all columns of one; raise RedriveError where there is none."""
        row = await self._pool.fetchrow(SHOW, dead_letter_id)
        if row is None:
            raise RedriveError("there is no such dead letter")
        return row

    async def accounts(self) -> list[str]:
        """Return the accounts that are blocked or have dead letters waiting."""
        return [row["account_id"] for row in await self._pool.fetch(BLOCKED)]

    async def redrive(self, dead_letter_id: UUID, *, to: str | None) -> Redriven | None:
        """Put one through: its account's stream, or, where it is of none, a delivery to ``to``."""
        row = await self.show(dead_letter_id)
        account_id = row["account_id"]
        if account_id and await self._streams.fetchval(KNOWN_STREAM, account_id) is not None:
            return await self.redrive_account(account_id)
        if to is None:
            raise RedriveError(
                "it is of no account of Saldo's: deliver it again with --to URL, or drop it"
            )
        await _deliver(row, to)
        await self._pool.execute(REDELIVERED, dead_letter_id)
        return None

    async def redrive_account(self, account_id: str) -> Redriven:
        """Clear the account's block and catch it up to the end of its stream.

        Interrupted in between, the account is unblocked, and the projector goes on.
        """
        await self._pool.execute(UNBLOCK, account_id)
        projected = 0
        for _ in range(ROUNDS_MAX):
            [reached] = await catch_up([account_id], self._around)
            projected += reached.projected
            if not reached.more:
                break
        done = await self._pool.execute(REDRIVEN, account_id, reached.position)
        return Redriven(
            account_id=account_id,
            position=reached.position,
            projected=projected,
            blocked=reached.blocked,
            letters=int(done.rpartition(" ")[2]),
        )

    async def drop(self, dead_letter_id: UUID) -> None:
        """Forget one for good; raises RedriveError where there is none."""
        await self.show(dead_letter_id)
        await self._pool.execute(DROP, dead_letter_id)


async def _deliver(row: asyncpg.Record, to: str) -> None:
    """Deliver the CloudEvent in binary mode, without its private part, which was never stored."""
    attributes: dict[str, Any] = json.loads(row["attributes"])
    headers = {
        f"ce-{name}": str(value)
        for name, value in attributes.items()
        if name not in NOT_REDELIVERED and name != "datacontenttype"
    }
    headers["content-type"] = "application/json"
    body = "null" if row["data"] is None else f'{{"event":{row["data"]},"private":null}}'
    async with httpx.AsyncClient(timeout=DELIVERY_TIMEOUT_S) as client:
        try:
            response = await client.post(to, content=body.encode(), headers=headers)
        except httpx.HTTPError as error:
            raise RedriveError(f"{to} cannot be reached: {error}") from error
    if not response.is_success:
        raise RedriveError(f"{to} returned {response.status_code}: {response.text[:200]}")
