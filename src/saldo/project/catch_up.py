"""Catching accounts up: the one path by which the read model is ever written.

A delivered event only says how far its account's stream reaches. Whatever it said, the balances are
locked, the events after them are read from the event store, checked, folded and written. So a
duplicate, a reordering or a lost record needs no branch, and a forged one changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from saldo.project.fold import Balance, Diverged, Folded, fold_account, new_balance
from saldo.project.read_model import ReadModelBusy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from saldo.project.read_model import ReadModel, ReadModelTransaction, StreamReader

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a round takes from outside."""

    read_model: ReadModel
    streams: StreamReader
    sleep: Callable[[float], Awaitable[None]]


async def catch_up(account_ids: Sequence[str], around: Surroundings) -> list[CaughtUp]:
    """One round for ``account_ids``, in one database transaction; where each stands after it.

    A deadlock or a lock wait runs the round again, ATTEMPTS_MAX times.
    """
    ordered = sorted(set(account_ids))
    backoff_s = BACKOFF_FIRST_S
    for attempt in range(1, ATTEMPTS_MAX + 1):
        transaction = await around.read_model.begin()
        try:
            caught_up = await _round(transaction, ordered, around.streams)
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
            return [caught_up[account_id] for account_id in account_ids]
    raise ReadModelBusy


async def _round(
    transaction: ReadModelTransaction, account_ids: Sequence[str], streams: StreamReader
) -> dict[str, CaughtUp]:
    balances = await transaction.lock(account_ids)
    events_max = min(
        CATCH_UP_EVENTS_MAX,
        max(CATCH_UP_EVENTS_MIN, ROUND_EVENTS_MAX // len(account_ids)),
    )
    active = {a: balances[a] for a in account_ids if not balances[a].blocked}
    caught_up = {
        a: CaughtUp(
            position=balances[a].position,
            blocked=True,
            more=False,
            refolded=False,
            projected=0,
        )
        for a in account_ids
        if a not in active
    }
    folded = Folded()
    diverged = await _fold(active, streams, events_max, folded, caught_up, refolded=False)
    if diverged:
        await transaction.clear(diverged)
        anew = {account_id: new_balance(account_id) for account_id in diverged}
        await _fold(anew, streams, events_max, folded, caught_up, refolded=True)
    if folded.balances:
        await transaction.write(folded)
    return caught_up


async def _fold(  # noqa: PLR0913 - what it reads from and writes to
    balances: dict[str, Balance],
    streams: StreamReader,
    events_max: int,
    folded: Folded,
    caught_up: dict[str, CaughtUp],
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
        further = events.get(account_id, [])
        try:
            after = fold_account(balance, further, folded)
        except Diverged:
            diverged.append(account_id)
            continue
        if after is not balance or after.position == 0:
            folded.balances.append(after)
        caught_up[account_id] = CaughtUp(
            position=after.position,
            blocked=after.blocked,
            more=len(further) > events_max and not after.blocked,
            refolded=refolded,
            projected=after.position - balance.position,
        )
    return diverged
