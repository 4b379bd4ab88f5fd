"""The projector: what project_balance does with a delivery, and with an account that lags.

A delivery only says how far its account's stream reaches. Only ports and clocks that are passed in
are used here, so the simulation runs this code.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from saldo.domain.commands import ACCOUNT_ID
from saldo.project.catch_up import CatchUp, CaughtUp
from saldo.project.dead_letters import RECORDED
from saldo.project.errors import BadDelivery, BeyondStore, GivenUp
from saldo.project.lag_sweep import LagSweep
from saldo.serve.group_commit import GroupCommit
from saldo.serve.sweeper import Sweeper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from saldo.project.deliveries import Delivery
    from saldo.project.metrics import ProjectMetrics
    from saldo.project.ports import Databases
    from saldo.serve.clock import StoreClock
    from saldo.serve.http.auth import Authenticator

log = logging.getLogger(__name__)

PING = "dev.knative.sources.ping"
SWEEP_INTERVAL_S = 5.0
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
# or rebuilt under a living process is read again soon. The memory is of events, not of positions:
# after a restore of the event store a position may be another event.
KNOWN_S = 5.0
# The metrics' word for a delivery that was refused; any other error is `failed`.
_REFUSED: dict[type[Exception], str] = {
    BadDelivery: "refused",
    BeyondStore: "beyond-store",
    GivenUp: "given-up",
}


class Projector:
    """One process's group commit, memory of projected events, and lag sweep with its timer."""

    def __init__(
        self,
        databases: Databases,
        clock: StoreClock,
        metrics: ProjectMetrics,
        authenticator: Authenticator | None = None,
    ) -> None:
        self.databases = databases
        self.catch_up = CatchUp(databases)
        self.authenticator = authenticator
        self._clock = clock
        self._commit = GroupCommit[str, CaughtUp](
            self._catch_up_batch,
            name="project",
            metrics=metrics,
            queue_weight_max=QUEUE_MAX,
            batch_weight_max=BATCH_ACCOUNTS_MAX,
            batches_max=BATCHES_IN_FLIGHT_MAX,
            further_weight_min=FURTHER_BATCH_ACCOUNTS_MIN,
        )
        self._known: OrderedDict[str, float] = OrderedDict()  # event ids, and until when
        self.lag_sweep = sweep = LagSweep(self.databases, self.catch_up_to, clock)
        self._sweeping = asyncio.Lock()
        self.sweeper = Sweeper("lag", self.sweep, SWEEP_INTERVAL_S, metrics)
        self.projected = self.duplicates = self.refolded = 0
        # Dead letters and suspended accounts, as the last sweep found them.
        self.given_up: tuple[int, int] | None = None
        self._deliveries, self._delay = metrics.deliveries, metrics.projection_delay
        metrics.clock_ahead.observe(lambda: clock.ahead_s)
        metrics.events_projected.observe(lambda: self.projected)
        metrics.refolds.observe(lambda: self.refolded)
        metrics.lag_positions.observe(lambda: sweep.lag and sweep.lag.positions)
        metrics.lag_seconds.observe(lambda: sweep.lag and sweep.lag.seconds)
        metrics.heals.observe(lambda: sweep.healed)
        metrics.dead_letters.observe(lambda: self.given_up and self.given_up[0])
        metrics.blocked_accounts.observe(lambda: self.given_up and self.given_up[1])

    async def take(self, delivery: Delivery) -> str:
        """Do what a delivery asks for, and count it; return what was done, in the metrics' word.

        Raise BadDelivery, BeyondStore, GivenUp or an error of the databases.
        """
        attributes = delivery.attributes
        try:
            if attributes.get("knativeerrordest"):
                await self.databases.park(attributes, delivery.public_text)
                outcome = "dead-letter"
            elif attributes.get("type") == PING:
                await self.sweep()
                outcome = "ping"
            else:
                outcome = await self._project(delivery)
        except Exception as error:
            self._deliveries.labels(_REFUSED.get(type(error), "failed")).inc()
            raise
        self._deliveries.labels(outcome).inc()
        return outcome

    async def _project(self, delivery: Delivery) -> str:
        attributes = delivery.attributes
        kind = attributes.get("type", "")
        if kind != RECORDED:
            raise BadDelivery(f"the type {kind[:80]} is not known here")
        account_id, sequence = attributes.get("subject", ""), attributes.get("sequence", "")
        if not ACCOUNT_ID.fullmatch(account_id):
            raise BadDelivery("subject must be an account id")
        if not sequence.isdecimal() or len(sequence) > 18:  # noqa: PLR2004 - a bigint
            raise BadDelivery("sequence must be a position")
        position = int(sequence)
        if delivery.says_erased:
            await self.databases.erase_copy(account_id, position)
        if self._known.get(attributes.get("id", ""), 0.0) > self._clock.monotonic():
            self.duplicates += 1
            return "duplicate"
        reached = await self.catch_up_to(account_id, position)
        if reached.blocked:
            return "blocked"
        if reached.position < position:
            await self._clock.read(self.databases.store_now)
            if self._age(attributes.get("time")) > BEYOND_AGE_MAX:
                raise GivenUp
            raise BeyondStore
        if not reached.projected:
            return "duplicate"
        self._delay.observe(max(0.0, self._age(attributes.get("time")).total_seconds()))
        return "projected"

    async def catch_up_to(self, account_id: str, position: int) -> CaughtUp:
        """Catch an account up at least to `position`, or as far as its stream reaches."""
        for _ in range(ROUNDS_MAX):
            reached = await self._commit.submit(account_id, (account_id,))
            if reached.position >= position or not reached.more:
                break
        return reached

    async def _catch_up_batch(self, account_ids: Sequence[str]) -> Sequence[CaughtUp]:
        caught_up = await self.catch_up.round(account_ids)
        until_s = self._clock.monotonic() + KNOWN_S
        for account_id, each in caught_up.items():
            self.projected += each.projected
            if each.refolded:
                self.refolded += 1
                log.error(
                    "the balance of an account had diverged from its stream and was refolded",
                    extra={"account_id": account_id},
                )
            for event_id in map(str, each.event_ids):
                self._known[event_id] = until_s
                self._known.move_to_end(event_id)
        while len(self._known) > KNOWN_EVENTS_MAX:
            self._known.popitem(last=False)
        return [caught_up[account_id] for account_id in account_ids]

    async def sweep(self) -> int:
        """Sweep the accounts that lag, once at a time in a process; return how many there were."""
        if self._sweeping.locked():
            return 0
        async with self._sweeping:
            try:
                found = await self.lag_sweep.sweep()
                self.given_up = await self.databases.given_up()
            except BaseException:
                # Better not known than as it was once.
                self.lag_sweep.lag = self.given_up = None
                raise
            return found

    def drain(self) -> None:
        """Do nothing: deliveries wait only for the databases, and that is bounded."""

    async def close(self) -> None:
        """Finish what is under way, sweep once more, and close the databases."""
        await self._commit.drain()
        await self.sweeper.stop()
        await self.databases.close()

    def _age(self, text: str | None) -> timedelta:
        """Return the age of what was recorded at that time, by the event store's clock.

        It is 0 until that clock was read, and too old if the text is no time.
        """
        try:
            recorded_at = datetime.fromisoformat(text or "")
            return (self._clock.now() or recorded_at) - recorded_at
        except (ValueError, TypeError):
            return BEYOND_AGE_MAX * 2
