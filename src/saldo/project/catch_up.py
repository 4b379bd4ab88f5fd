"""Catching accounts up: the one path by which the read model is written.

A delivered event only says how far its account's stream reaches. Whatever it said, the balances are
locked, the events after them are read from the event store, checked, folded and written. So a
duplicate, a reordering or a lost record needs no branch, and a forged one changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from saldo.project.errors import Diverged, ReadModelBusy, ReadModelRefused
from saldo.project.fold import Balance, Folded, fold_account, new_balance

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    from saldo.project.ports import Databases

log = logging.getLogger(__name__)

# Events read in one round, altogether and for one account; what is left is the next round's.
ROUND_EVENTS_MAX = 5_000
CATCH_UP_EVENTS_MAX = 1_000
CATCH_UP_EVENTS_MIN = 25
# Rounds until an account is at the end of its stream.
ROUNDS_MAX = 100_000
# The pauses before a round that met a deadlock or a lock wait is run again.
BACKOFFS_S = (0.02, 0.04, 0.08, 0.16)


class CaughtUp(NamedTuple):
    """Where an account stands after a round."""

    position: int
    blocked: bool
    more: bool = False  # the stream goes on beyond what one round may read
    refolded: bool = False
    projected: int = 0
    # Of the events that were read, those up to the balance: also the one at which it stood.
    event_ids: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Brings balances to the ends of their streams, in rounds of bounded size."""

    databases: Databases
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def to_end(self, account_ids: Sequence[str]) -> dict[str, CaughtUp]:
        """Run rounds until no stream goes on; `projected` counts the events of all rounds."""
        caught_up: dict[str, CaughtUp] = {}
        remaining = list(account_ids)
        for _ in range(ROUNDS_MAX):
            if not remaining:
                break
            for account_id, each in (await self.round(remaining)).items():
                before = caught_up[account_id].projected if account_id in caught_up else 0
                caught_up[account_id] = each._replace(projected=before + each.projected)
            remaining = [account_id for account_id in remaining if caught_up[account_id].more]
        return caught_up

    async def round(
        self, account_ids: Sequence[str], events_max: int = CATCH_UP_EVENTS_MAX
    ) -> dict[str, CaughtUp]:
        """Catch `account_ids` up by one round; return where each stands after it.

        It is one database transaction, unless the read model refuses one of the events. Which one
        is not known. So the round is cut to one account, then to half of its events again and
        again, until one event is left: that one suspends its account.
        """
        ordered = sorted(set(account_ids))
        try:
            return await self._attempt(ordered, events_max)
        except ReadModelRefused as refused:
            reason = refused.reason
        if len(ordered) > 1:
            return {each: (await self.round([each]))[each] for each in ordered}
        if events_max > 1:
            return await self.round(ordered, events_max // 2)
        try:
            return await self._attempt(ordered, 1, refused=reason)
        except ReadModelRefused:
            # The others must go on all the same. `saldo verify` names what this account holds.
            log.exception("an account cannot even be suspended", extra={"account_id": ordered[0]})
            return {ordered[0]: CaughtUp(position=0, blocked=True)}

    async def _attempt(
        self, account_ids: Sequence[str], events_max: int, refused: str | None = None
    ) -> dict[str, CaughtUp]:
        """Run a database transaction; after a deadlock or a lock wait again."""
        for backoff_s in BACKOFFS_S:
            try:
                return await self._transact(account_ids, events_max, refused)
            except ReadModelBusy:
                await self.sleep(backoff_s)
        return await self._transact(account_ids, events_max, refused)

    async def _transact(
        self, account_ids: Sequence[str], events_max: int, refused: str | None
    ) -> dict[str, CaughtUp]:
        """Run one database transaction. `refused`: why no account's next event can be projected."""
        share = max(CATCH_UP_EVENTS_MIN, ROUND_EVENTS_MAX // len(account_ids))
        events_max = min(events_max, share)
        folded = Folded()
        caught_up: dict[str, CaughtUp] = {}

        async def fold(balances: Sequence[Balance], *, refolded: bool = False) -> list[str]:
            """Fold the balances' further events; return the accounts that have diverged."""
            diverged: list[str] = []
            positions = [(balance.account_id, balance.position) for balance in balances]
            events = await self.databases.read_from(positions, events_max) if positions else {}
            for balance in balances:
                found = events.get(balance.account_id, [])
                # At position 0 there is no event of the balance's own: one more was read.
                further = found[: events_max + (balance.position > 0)]
                try:
                    after = fold_account(balance, further, folded, refused)
                except Diverged:
                    diverged.append(balance.account_id)
                    continue
                if after is not balance or after.position == 0:
                    folded.balances.append(after)
                caught_up[balance.account_id] = CaughtUp(
                    position=after.position,
                    blocked=after.blocked,
                    more=len(found) > events_max and not after.blocked,
                    refolded=refolded,
                    projected=after.position - balance.position,
                    event_ids=tuple(e.event_id for e in further if e.position <= after.position),
                )
            return diverged

        async with self.databases.begin() as transaction:
            balances = await transaction.lock(account_ids)
            for each in balances:
                if each.blocked:
                    caught_up[each.account_id] = CaughtUp(each.position, blocked=True)
            if diverged := await fold([each for each in balances if not each.blocked]):
                await transaction.clear(diverged)
                await fold([new_balance(each) for each in diverged], refolded=True)
            if folded.balances:
                await transaction.write(folded)
        return caught_up
