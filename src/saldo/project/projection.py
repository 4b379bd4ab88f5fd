"""What becomes of a delivery, and of an account that lags: the projector without its database.

A delivery only says how far its account's stream reaches. Only protocols and clocks that are handed
in are seen here, so that the simulation runs this very code.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from saldo.domain.commands import ACCOUNT_ID
from saldo.project.catch_up import CaughtUp, Surroundings, catch_up
from saldo.project.lag_sweep import LagSweep
from saldo.serve.group_commit import GroupCommit
from saldo.serve.telemetry import metrics
from saldo.serve.telemetry.logs import about_account

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from saldo.project.lag_sweep import LagTables
    from saldo.serve.clock import StoreClock

log = logging.getLogger(__name__)

QUEUE_MAX = 5_000
BATCH_ACCOUNTS_MAX = 200
BATCHES_IN_FLIGHT_MAX = 2
FURTHER_BATCH_ACCOUNTS_MIN = 32
# An event of a position that the store does not hold: perhaps it is about to (a restore, a replica
# that lags). Beyond this age it is given up.
BEYOND_AGE_MAX = timedelta(minutes=5)
ROUNDS_MAX = 10_000
KNOWN_EVENTS_MAX = 50_000
# How long an event is taken as projected from memory. Short, so that a read model that was restored
# or rebuilt under a living process is looked at again soon. The memory is of events, not of
# positions: after a restore of the event store a position may be another event.
KNOWN_S = 5.0


class BadDelivery(Exception):
    """The event is not one that this function takes; no retry will change that."""


class BeyondStore(Exception):
    """The event store does not hold this event yet."""


class GivenUp(Exception):
    """The event store has not held this event for too long."""


class Projection:
    """Group commit, memory of projected events, and the lag sweep of one process."""

    def __init__(
        self,
        around: Surroundings,
        lag_tables: LagTables,
        *,
        clock: StoreClock,
        monotonic: Callable[[], float],
    ) -> None:
        self.around = around
        self._lag_tables = lag_tables
        self._clock = clock
        self._monotonic = monotonic
        self.commit = GroupCommit[str, CaughtUp](
            self._catch_up_batch,
            name="project",
            queue_weight_max=QUEUE_MAX,
            batch_weight_max=BATCH_ACCOUNTS_MAX,
            batches_max=BATCHES_IN_FLIGHT_MAX,
            further_weight_min=FURTHER_BATCH_ACCOUNTS_MIN,
        )
        self._known: OrderedDict[str, float] = OrderedDict()  # event ids, and until when
        self.lag_sweep = LagSweep(lag_tables, self.catch_up_to, clock)
        self.projected = 0
        self.duplicates = 0
        self.refolded = 0

    async def take_recorded(self, attributes: Mapping[str, str], *, erased: bool) -> str:
        """Do what the delivery of a recorded event asks for; return what was done, in a word.

        ``erased``: the delivery says that the event's private text was erased. Raises the errors
        above, or a store's.
        """
        account_id = attributes.get("subject")
        sequence = attributes.get("sequence")
        if not isinstance(account_id, str) or not ACCOUNT_ID.fullmatch(account_id):
            raise BadDelivery("subject must be an account id")
        if not isinstance(sequence, str) or not sequence.isdecimal() or len(sequence) > 18:  # noqa: PLR2004 - a bigint
            raise BadDelivery("sequence must be a position")
        position = int(sequence)
        if erased:
            await self._lag_tables.erase_copy(account_id, position)
        if self._known.get(str(attributes.get("id")), 0.0) > self._monotonic():
            self.duplicates += 1
            return "duplicate"
        reached = await self.catch_up_to(account_id, position)
        if reached.position < position and not reached.blocked:
            await self._clock.read(self._lag_tables.store_now)
            if self._age(attributes.get("time")) > BEYOND_AGE_MAX:
                raise GivenUp
            raise BeyondStore
        if reached.blocked:
            return "blocked"
        if not reached.projected:
            return "duplicate"
        metrics.PROJECTION_DELAY.record(max(0.0, self._age(attributes.get("time")).total_seconds()))
        return "projected"

    async def catch_up_to(self, account_id: str, position: int) -> CaughtUp:
        """Catch an account up at least to ``position``, or as far as its stream reaches."""
        for _ in range(ROUNDS_MAX):
            reached = await self.commit.submit(account_id, (account_id,))
            if reached.position >= position or not reached.more:
                break
        return reached

    def _remember(self, caught_up: CaughtUp) -> None:
        until_s = self._monotonic() + KNOWN_S
        for event_id in map(str, caught_up.event_ids):
            self._known[event_id] = until_s
            self._known.move_to_end(event_id)
        while len(self._known) > KNOWN_EVENTS_MAX:
            self._known.popitem(last=False)

    async def _catch_up_batch(self, account_ids: Sequence[str]) -> Sequence[CaughtUp]:
        reached = await catch_up(account_ids, self.around)
        for account_id, each in zip(account_ids, reached, strict=True):
            if each.refolded:
                self.refolded += 1
                log.error(
                    "the balance of an account had diverged from its stream and was refolded",
                    extra=about_account(account_id),
                )
        for each in dict(zip(account_ids, reached, strict=True)).values():
            self.projected += each.projected
            self._remember(each)
        return reached

    def _age(self, text: object) -> timedelta:
        """The age of what was recorded at that time, by the event store's clock.

        It is none until that clock was read.
        """
        try:
            recorded_at = datetime.fromisoformat(str(text))
            return (self._clock.now() or recorded_at) - recorded_at
        except (ValueError, TypeError):
            return BEYOND_AGE_MAX * 2
