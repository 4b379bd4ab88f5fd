"""The relay: sends what was just committed to Kafka, and sweeps up what that left behind.

A 201 never waits for it. Whatever does not fit, what Kafka refuses and what a crash leaves stays in
the outbox and is sent by the sweep; rows leave the outbox only once Kafka has acknowledged them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from saldo.record.cloud_events import kafka_record
from saldo.serve.telemetry import tracing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from saldo.record.intent import StoredEvent
    from saldo.record.ports import Outbox, Sender

log = logging.getLogger(__name__)

# Sent and not acknowledged, at the most; beyond it rows are left to the sweep.
IN_FLIGHT_MAX = 20_000
ACKNOWLEDGE_ROWS_MAX = 5_000
# Acknowledged rows gather this long before they are deleted: one statement for many. A crash in
# between sends them again, which every consumer must bear anyway.
ACKNOWLEDGE_INTERVAL_S = 0.05
SWEEP_ROUNDS_MAX = 1_000
SWEEP_WAIT_S = 12.0
DRAIN_S = 6.0


class Relay:
    """Sends, remembers what is in flight, and deletes what was acknowledged."""

    def __init__(self, outbox: Outbox, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._outbox = outbox
        self._sleep = sleep
        self._sender: Sender | None = None
        # Whether each was sent as erased.
        self._in_flight: dict[tuple[str, int], bool] = {}
        # Of the sampled ones among them.
        self._spans: dict[tuple[str, int], tracing.Span] = {}
        self._acknowledged: list[tuple[str, int, bool]] = []
        self._deleting: asyncio.Task[None] | None = None
        self._sweeping = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        # What the sweep's round awaits.
        self._awaited: set[tuple[str, int]] = set()
        self._taken_of_round = 0
        self._round_done = asyncio.Event()
        self.sent = 0
        self.acknowledged = 0
        self.failed = 0
        self.swept = 0

    def use(self, sender: Sender) -> None:
        """Send through ``sender``, which reports to :meth:`delivered`."""
        self._sender = sender

    @property
    def in_flight(self) -> int:
        """How many records await Kafka's acknowledgement."""
        return len(self._in_flight)

    def send_committed(self, events: Sequence[StoredEvent]) -> None:
        """Send what was just committed, in order. Returns at once and never raises."""
        for stored in events:
            with contextlib.suppress(ValueError):  # it makes no record, as the sweep will say
                if not self._send(stored):
                    return  # Kafka is behind: the rest is the sweep's, and cannot overtake by much

    def delivered(self, outcomes: Sequence[tuple[str, int, bool]]) -> None:
        """Kafka's word on records: (account id, position, acknowledged). On the loop's thread."""
        taken = 0
        for account_id, position, acknowledged in outcomes:
            erased = self._in_flight.pop((account_id, position), False)
            if acknowledged:
                self._acknowledged.append((account_id, position, erased))
                taken += 1
                self._taken_of_round += (account_id, position) in self._awaited
            self._awaited.discard((account_id, position))
        self.acknowledged += taken
        self.failed += len(outcomes) - taken
        if self._spans:
            for account_id, position, acknowledged in outcomes:
                span = self._spans.pop((account_id, position), None)
                if span is not None:
                    span.end(failed=not acknowledged)
        if not self._in_flight:
            self._idle.set()
        if not self._awaited:
            self._round_done.set()
        if self._acknowledged and self._deleting is None:
            self._deleting = asyncio.create_task(self._delete_acknowledged())

    async def sweep(self) -> int:
        """Send what the outbox still holds beyond its first seconds; how many rows were sent.

        One sweep at a time a process; several processes share the rows by their claims.
        """
        if self._sweeping.locked():
            return 0
        async with self._sweeping:
            found = unsendable = 0
            for _ in range(SWEEP_ROUNDS_MAX):
                self._taken_of_round = 0
                rows = await self._outbox.claim()
                refused = False
                sent: list[tuple[str, int]] = []
                for row in rows:
                    if (row.account_id, row.position) in self._in_flight:
                        continue  # handed over already, its outcome is still to come
                    try:
                        accepted = self._send(row)
                    except ValueError:
                        # A text that was damaged, or is too large, makes no record. Its row stays,
                        # for the operator to see; the others must not wait for it.
                        unsendable += 1
                        continue
                    if not accepted:
                        refused = True
                        break
                    sent.append((row.account_id, row.position))
                if not rows:
                    break
                # Only the rows of this round: under load something else is always in flight.
                found += len(sent)
                self._awaited = self._in_flight.keys() & sent
                await self._wait_for_round(SWEEP_WAIT_S)
                if refused or self._awaited or (sent and not self._taken_of_round):
                    break  # Kafka does not take them now; the next sweep tries again
            if unsendable:
                log.error("%d rows of the outbox make no record: run saldo verify", unsendable)
            self.swept += found
            await self._outbox.note_sweep(found)
            return found

    async def drain(self) -> None:
        """Before the process stops: wait for what is in flight, delete what was acknowledged."""
        if self._sender is not None:
            await self._sender.flush(DRAIN_S)
        await self._settle(1.0)
        if self._deleting is not None:
            await asyncio.wait([self._deleting], timeout=DRAIN_S)

    def _send(self, stored: StoredEvent) -> bool:
        if self._sender is None or len(self._in_flight) >= IN_FLIGHT_MAX:
            return False
        traceparent = stored.traceparent
        span = tracing.begin_send(traceparent)
        if span is not None:
            traceparent = span.traceparent
        if not self._sender.send(kafka_record(stored, traceparent)):
            if span is not None:
                span.end(failed=True)
            return False
        key = (stored.account_id, stored.position)
        if span is not None:
            self._spans[key] = span
        self._in_flight[key] = stored.private_text is None
        self._idle.clear()
        self.sent += 1
        return True

    async def _settle(self, timeout_s: float) -> None:
        """Wait until nothing is in flight, up to ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return

    async def _wait_for_round(self, timeout_s: float) -> None:
        """Wait until Kafka has said its word on what the sweep awaits, up to ``timeout_s``."""
        if self._awaited:
            self._round_done.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._round_done.wait()

    async def _delete_acknowledged(self) -> None:
        try:
            while self._acknowledged:
                await self._sleep(ACKNOWLEDGE_INTERVAL_S)
                sent = self._acknowledged[:ACKNOWLEDGE_ROWS_MAX]
                del self._acknowledged[: len(sent)]
                # In the order of the primary key, as every other writer of these rows, so that two
                # processes that delete the same rows cannot wait for each other in a circle.
                await self._outbox.acknowledge(sorted(sent))
        except Exception:
            # The rows stay: the sweep sends them again, and they are deleted then.
            log.exception("acknowledged rows could not be deleted from the outbox")
        finally:
            self._deleting = None
