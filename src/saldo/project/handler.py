"""The projector: what project_balance holds between deliveries, and what it does with each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from saldo.domain.commands import ACCOUNT_ID
from saldo.project.catch_up import CaughtUp, Surroundings, catch_up
from saldo.project.dead_letters import park_delivered
from saldo.project.read_model import PostgresReadModel, PostgresStreamReader
from saldo.project.sweep import LagSweep
from saldo.serve import metrics
from saldo.serve.app import Resident, is_gated
from saldo.serve.auth import authenticator_of
from saldo.serve.database import close_pool, function_pool
from saldo.serve.group_commit import GroupCommit
from saldo.serve.logs import about_account
from saldo.serve.settings import BadSetting, read_settings
from saldo.serve.sweeps import Sweeper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cloudevents.http import CloudEvent

    from saldo.serve.settings import Settings

log = logging.getLogger(__name__)

RECORDED = "saldo.transaction.recorded"
PING = "dev.knative.sources.ping"
QUEUE_MAX = 5_000
BATCH_ACCOUNTS_MAX = 200
BATCHES_IN_FLIGHT_MAX = 2
FURTHER_BATCH_ACCOUNTS_MIN = 32
# An event of a position that the store does not hold: perhaps it is about to (a restore, a replica
# that lags). Beyond this age it is given up.
BEYOND_AGE_MAX = timedelta(minutes=5)
ROUNDS_MAX = 10_000
KNOWN_ACCOUNTS_MAX = 50_000
# How long a position is taken as read from memory. Short, so that a read model that was restored or
# rebuilt under a living process is looked at again soon.
KNOWN_S = 5.0
SWEEP_INTERVAL_S = 5.0
CLOSE_POOL_S = 5.0


GIVEN_UP = "SELECT dead_letters, blocked_accounts FROM read_model.system"


class BadDelivery(Exception):  # noqa: N818 - it is what the delivery is
    """The event is not one that this function takes; no retry will change that."""


class BeyondStore(Exception):  # noqa: N818 - it says where the event is
    """The event store does not hold this event yet."""


class GivenUp(Exception):  # noqa: N818 - it is what was done
    """The event store has not held this event for too long."""


# What a delivery came to that was refused; any other error is `failed`.
_FAILED: dict[type[Exception], str] = {
    BadDelivery: "refused",
    BeyondStore: "beyond-store",
    GivenUp: "given-up",
}


class Projector:
    """Pools, group commit, memory of positions, and sweeps of one process."""

    def __init__(self, settings: Settings) -> None:
        if settings.event_store_url is None or settings.read_model_url is None:
            message = "the projector's settings are incomplete"
            raise ValueError(message)
        self.settings = settings
        self.streams = function_pool(settings, settings.event_store_url, "event_store")
        self.read_model = function_pool(settings, settings.read_model_url, "read_model")
        self.around = Surroundings(
            read_model=PostgresReadModel(self.read_model),
            streams=PostgresStreamReader(self.streams),
            sleep=asyncio.sleep,
        )
        self.commit = GroupCommit[str, CaughtUp](
            self._catch_up_batch,
            name="project",
            queue_weight_max=QUEUE_MAX,
            batch_weight_max=BATCH_ACCOUNTS_MAX,
            batches_max=BATCHES_IN_FLIGHT_MAX,
            further_weight_min=FURTHER_BATCH_ACCOUNTS_MIN,
        )
        self.known: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self.lag_sweep = LagSweep(self.streams, self.read_model, self.catch_up_to)
        self._sweeping = asyncio.Lock()
        self.sweeper = Sweeper("lag", self.sweep, SWEEP_INTERVAL_S)
        self.authenticator = authenticator_of(settings.sources, settings.source_subjects)
        self.projected = 0
        self.duplicates = 0
        self.refolded = 0
        # Dead letters and blocked accounts, as the last sweep found them.
        self.given_up: tuple[int, int] | None = None
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

    async def take(self, event: CloudEvent) -> None:
        """Do what a delivered CloudEvent asks for; raises the errors above, or a store's."""
        try:
            outcome = await self._take(event)
        except Exception as error:
            metrics.DELIVERIES.add((_FAILED.get(type(error), "failed"),))
            raise
        metrics.DELIVERIES.add((outcome,))

    async def _take(self, event: CloudEvent) -> str:
        """What was done with a delivery, in a word of the metrics."""
        attributes = event.get_attributes()
        kind = attributes.get("type")
        if attributes.get("knativeerrordest"):
            await park_delivered(self.read_model, attributes, event.data)
            return "dead-letter"
        if kind == PING:
            await self.sweep()
            return "ping"
        if kind == RECORDED:
            return await self._take_recorded(attributes, event.data)
        raise BadDelivery(f"the type {str(kind)[:80]!r} is not known here")

    async def _take_recorded(self, attributes: Mapping[str, Any], data: object) -> str:
        account_id = attributes.get("subject")
        sequence = attributes.get("sequence")
        if not isinstance(account_id, str) or not ACCOUNT_ID.fullmatch(account_id):
            raise BadDelivery("subject must be an account id")
        if not isinstance(sequence, str) or not sequence.isdecimal() or len(sequence) > 18:  # noqa: PLR2004 - a bigint
            raise BadDelivery("sequence must be a position")
        position = int(sequence)
        if isinstance(data, dict) and data.get("event") and data.get("private") is None:
            await self.lag_sweep.erase_copy(account_id, position)
        reached = await self.catch_up_to(account_id, position)
        if reached.position < position and not reached.blocked:
            if _age(attributes.get("time")) > BEYOND_AGE_MAX:
                raise GivenUp
            raise BeyondStore
        if reached.blocked:
            return "blocked"
        if not reached.projected:
            return "duplicate"
        metrics.PROJECTION_DELAY.record(max(0.0, _age(attributes.get("time")).total_seconds()))
        return "projected"

    async def catch_up_to(self, account_id: str, position: int) -> CaughtUp:
        """Catch an account up at least to ``position``, or as far as its stream reaches."""
        known = self.known.get(account_id)
        if known is not None and known[0] >= position and known[1] > time.monotonic():
            self.duplicates += 1
            return CaughtUp(
                position=known[0],
                blocked=False,
                more=False,
                refolded=False,
                projected=0,
            )
        for _ in range(ROUNDS_MAX):
            reached = await self.commit.submit(account_id, (account_id,))
            if reached.position >= position or not reached.more:
                break
        self.known[account_id] = (reached.position, time.monotonic() + KNOWN_S)
        self.known.move_to_end(account_id)
        if len(self.known) > KNOWN_ACCOUNTS_MAX:
            self.known.popitem(last=False)
        return reached

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

    async def _catch_up_batch(self, account_ids: Sequence[str]) -> Sequence[CaughtUp]:
        reached = await catch_up(account_ids, self.around)
        for account_id, each in zip(account_ids, reached, strict=True):
            if each.refolded:
                self.refolded += 1
                log.error(
                    "the balance of an account had diverged from its stream and was refolded",
                    extra=about_account(account_id),
                )
                self.known.pop(account_id, None)
        self.projected += sum(
            each.projected for each in dict(zip(account_ids, reached, strict=True)).values()
        )
        return reached

    async def close(self) -> None:
        """Finish what was begun, sweep once more, and let go."""
        await self.commit.drain()
        await self.sweeper.stop()
        await close_pool(self.streams, CLOSE_POOL_S)
        await close_pool(self.read_model, CLOSE_POOL_S)


def _age(text: object) -> timedelta:
    try:
        return datetime.now(UTC) - datetime.fromisoformat(str(text))
    except (ValueError, TypeError):
        return BEYOND_AGE_MAX * 2


async def open_projector() -> Projector:
    """The projector of this process, its sweep started."""
    settings = read_settings("project_balance")
    if settings.sources is not None and not is_gated():
        raise BadSetting("AUTH", "is oidc, which needs `python -m saldo.serve` to check the sender")
    projector = Projector(settings)
    await projector.streams
    await projector.read_model
    projector.sweeper.start()
    return projector


PROJECTOR: Resident[Projector] = Resident(open_projector)
