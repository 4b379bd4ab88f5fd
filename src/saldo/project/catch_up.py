"""Catching accounts up: the one path by which the read model is ever written.

A delivered event only says how far its account's stream reaches. Whatever it said, the balances are
locked, the events after them are read from the event store, checked, folded and written. So a
duplicate, a reordering or a lost record needs no branch, and a forged one changes nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from saldo.project.fold import Balance, Diverged, Folded, fold_account, new_balance
from saldo.project.postgres import ReadModelBusy, ReadModelRefused
from saldo.serve.telemetry.logs import about_account

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from saldo.project.postgres import ReadModel, ReadModelTransaction, StreamReader

log = logging.getLogger(__name__)

# Events read in one round, altogether and for one account; what is left is the next round's.
ROUND_EVENTS_MAX = 5_000
CATCH_UP_EVENTS_MAX = 1_000
CATCH_UP_EVENTS_MIN = 25
ATTEMPTS_MAX = 5
BACKOFF_FIRST_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class CaughtUp:
    """Where an account stands after a round."""

    position: int
    blocked: bool
    more: bool  # the stream goes on beyond what one round may read
    refolded: bool
    projected: int
    # Those of the events that were read, as far as the balance has come: also the one it stood at.
    event_ids: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a round takes from outside."""

    read_model: ReadModel
    streams: StreamReader
    sleep: Callable[[float], Awaitable[None]]


async def catch_up(
    account_ids: Sequence[str], around: Surroundings, events_max: int = CATCH_UP_EVENTS_MAX
) -> list[CaughtUp]:
    """Catch ``account_ids`` up by one round; return where each stands after it.

    It is one database transaction, unless the read model refuses to hold one of the events.
    """
    ordered = sorted(set(account_ids))
    try:
        caught_up = await _attempt(ordered, around, events_max)
    except ReadModelRefused as refused:
        caught_up = await _isolate(ordered, around, events_max, refused.reason)
    return [caught_up[account_id] for account_id in account_ids]


async def _isolate(
    account_ids: Sequence[str], around: Surroundings, events_max: int, reason: str
) -> dict[str, CaughtUp]:
    """Catch up one by one what could not be together; suspend the one that cannot be at all.

    Which value was refused is not said. So a round is cut to one account, then to half its events
    again and again, until it is one event: that one suspends its account.
    """
    if len(account_ids) > 1:
        return {each: (await catch_up([each], around))[0] for each in account_ids}
    [account_id] = account_ids
    if events_max > 1:
        return {account_id: (await catch_up(account_ids, around, events_max // 2))[0]}
    try:
        return await _attempt(account_ids, around, 1, refused=reason)
    except ReadModelRefused:
        # The others must go on all the same. `saldo verify` names what this account holds.
        log.exception("an account cannot even be suspended", extra=about_account(account_id))
        return {account_id: _blocked(0)}


async def _attempt(
    ordered: Sequence[str], around: Surroundings, events_max: int, refused: str | None = None
) -> dict[str, CaughtUp]:
    """Run a round; after a deadlock or a lock wait again, ATTEMPTS_MAX times in all.

    ``refused`` says why each account's next event cannot be projected.
    """
    backoff_s = BACKOFF_FIRST_S
    for attempt in range(1, ATTEMPTS_MAX + 1):
        transaction = await around.read_model.begin()
        try:
            caught_up = await _round(transaction, ordered, around.streams, events_max, refused)
            await transaction.commit()
        except ReadModelBusy:
            await transaction.roll_back()
            if attempt == ATTEMPTS_MAX:
                raise
            await around.sleep(backoff_s)
            backoff_s *= 2
        except BaseException:
            await transaction.roll_back()
            raise
        else:
            return caught_up
    raise ReadModelBusy


async def _round(
    transaction: ReadModelTransaction,
    account_ids: Sequence[str],
    streams: StreamReader,
    events_max: int,
    refused: str | None,
) -> dict[str, CaughtUp]:
    balances = await transaction.lock(account_ids)
    events_max = min(events_max, max(CATCH_UP_EVENTS_MIN, ROUND_EVENTS_MAX // len(account_ids)))
    active = {a: balances[a] for a in account_ids if not balances[a].blocked}
    caught_up = {a: _blocked(balances[a].position) for a in account_ids if a not in active}
    folded = Folded()
    fold = partial(_fold, streams, events_max, folded, caught_up, refused)
    diverged = await fold(active, refolded=False)
    if diverged:
        await transaction.clear(diverged)
        await fold({each: new_balance(each) for each in diverged}, refolded=True)
    if folded.balances:
        await transaction.write(folded)
    return caught_up


def _blocked(position: int) -> CaughtUp:
    return CaughtUp(position=position, blocked=True, more=False, refolded=False, projected=0)


async def _fold(  # noqa: PLR0913 - what it reads from and writes to
    streams: StreamReader,
    events_max: int,
    folded: Folded,
    caught_up: dict[str, CaughtUp],
    refused: str | None,
    balances: dict[str, Balance],
    *,
    refolded: bool,
) -> list[str]:
    """Fold each account's further events into ``folded``; the accounts that have diverged."""
    if not balances:
        return []
    events = await streams.read_from(
        [(b.account_id, b.position) for b in balances.values()], events_max
    )
    diverged: list[str] = []
    for account_id, balance in balances.items():
        found = events.get(account_id, [])
        # At position 0 there is no event of the balance's own: one more was read.
        further = found[: events_max + (balance.position > 0)]
        try:
            after = fold_account(balance, further, folded, refused)
        except Diverged:
            diverged.append(account_id)
            continue
        if after is not balance or after.position == 0:
            folded.balances.append(after)
        caught_up[account_id] = CaughtUp(
            position=after.position,
            blocked=after.blocked,
            more=len(found) > events_max and not after.blocked,
            refolded=refolded,
            projected=after.position - balance.position,
            event_ids=tuple(e.event_id for e in further if e.position <= after.position),
        )
    return diverged
