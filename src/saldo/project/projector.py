"""The projector: what project_balance holds between deliveries."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from saldo.project.catch_up import Surroundings
from saldo.project.dead_letters import park_delivered
from saldo.project.deliveries import RECORDED
from saldo.project.lag_sweep import PostgresLagTables
from saldo.project.postgres import FAILURES, PostgresReadModel, PostgresStreamReader
from saldo.project.projection import BadDelivery, BeyondStore, GivenUp, Projection
from saldo.serve.clock import StoreClock
from saldo.serve.database import close_pool, function_pool, translating
from saldo.serve.http.auth import authenticator_of, caller_of
from saldo.serve.sweeper import Sweeper
from saldo.serve.telemetry import metrics

if TYPE_CHECKING:
    from saldo.project.deliveries import Delivery
    from saldo.serve.http.request import Request
    from saldo.serve.settings import Settings

log = logging.getLogger(__name__)

PING = "dev.knative.sources.ping"
SWEEP_INTERVAL_S = 5.0
CLOSE_POOL_S = 5.0


GIVEN_UP = "SELECT dead_letters, blocked_accounts FROM read_model.system"


# What a delivery came to that was refused; any other error is `failed`.
_FAILED: dict[type[Exception], str] = {
    BadDelivery: "refused",
    BeyondStore: "beyond-store",
    GivenUp: "given-up",
}


class Projector(Projection):
    """The projection of one process, with its pools and its sweep's timer."""

    def __init__(self, settings: Settings) -> None:
        if settings.event_store_url is None or settings.read_model_url is None:
            message = "the projector's settings are incomplete"
            raise ValueError(message)
        self.settings = settings
        self.streams = function_pool(settings, settings.event_store_url, "event_store")
        self.read_model = function_pool(settings, settings.read_model_url, "read_model")
        clock = StoreClock()
        super().__init__(
            Surroundings(
                read_model=PostgresReadModel(self.read_model),
                streams=PostgresStreamReader(self.streams),
                sleep=asyncio.sleep,
            ),
            PostgresLagTables(self.streams, self.read_model),
            clock=clock,
            monotonic=time.monotonic,
        )
        self._sweeping = asyncio.Lock()
        self.sweeper = Sweeper("lag", self.sweep, SWEEP_INTERVAL_S)
        self.authenticator = authenticator_of(settings.sources, settings.source_subjects)
        # Dead letters and blocked accounts, as the last sweep found them.
        self.given_up: tuple[int, int] | None = None
        metrics.CLOCK_AHEAD.observe_one(lambda: clock.ahead_s)
        self._tell()

    def _tell(self) -> None:
        """Let the metrics read what is counted here."""
        sweep = self.lag_sweep
        metrics.EVENTS_PROJECTED.observe(lambda: {(): self.projected})
        metrics.REFOLDS.observe(lambda: {(): self.refolded})
        metrics.LAG_POSITIONS.observe_one(
            lambda: None if sweep.lag is None else sweep.lag.positions
        )
        metrics.LAG_SECONDS.observe_one(lambda: None if sweep.lag is None else sweep.lag.seconds)
        metrics.HEALS.observe(lambda: {(): sweep.healed})
        metrics.DEAD_LETTERS.observe_one(lambda: self.given_up and self.given_up[0])
        metrics.BLOCKED_ACCOUNTS.observe_one(lambda: self.given_up and self.given_up[1])

    async def check_sender(self, request: Request) -> None:
        """Refuse a request of what is not one of the sources."""
        await caller_of(self.authenticator, request)

    async def take(self, delivery: Delivery) -> None:
        """Do what a delivery asks for; raises projection's errors, or a store's."""
        try:
            with translating(FAILURES):
                outcome = await self._take(delivery)
        except Exception as error:
            metrics.DELIVERIES.add((_FAILED.get(type(error), "failed"),))
            raise
        metrics.DELIVERIES.add((outcome,))

    async def _take(self, delivery: Delivery) -> str:
        """Return what was done with a delivery, in a word of the metrics."""
        attributes = delivery.attributes
        kind = attributes.get("type")
        if attributes.get("knativeerrordest"):
            await park_delivered(self.read_model, attributes, delivery.public_text)
            return "dead-letter"
        if kind == PING:
            await self.sweep()
            return "ping"
        if kind == RECORDED:
            return await self.take_recorded(attributes, erased=delivery.says_erased)
        raise BadDelivery(f"the type {str(kind)[:80]} is not known here")

    async def sweep(self) -> int:
        """One lag sweep at a time a process."""
        if self._sweeping.locked():
            return 0
        async with self._sweeping:
            try:
                found = await self.lag_sweep.sweep()
                row = await self.read_model.fetchrow(GIVEN_UP)
            except BaseException:
                # Better not known than as it was once.
                self.lag_sweep.lag = self.given_up = None
                raise
            if row is not None:
                self.given_up = (row["dead_letters"], row["blocked_accounts"])
            return found

    def drain(self) -> None:
        """Nothing waits here but for the stores, which is bounded."""

    async def close(self) -> None:
        """Finish what was begun, sweep once more, and let go."""
        await self.commit.drain()
        await self.sweeper.stop()
        await close_pool(self.streams, CLOSE_POOL_S)
        await close_pool(self.read_model, CLOSE_POOL_S)


async def open_projector(settings: Settings) -> Projector:
    """Return the projector of this process, its sweep started."""
    projector = Projector(settings)
    await projector.streams
    await projector.read_model
    projector.sweeper.start()
    return projector
