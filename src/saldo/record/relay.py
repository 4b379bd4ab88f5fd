"""The relay: sends what was just committed to Kafka, and later what is left in the outbox.

A 201 never waits for it. What does not fit, what Kafka refuses and what a crash leaves stays in the
outbox and is sent by the sweep. Rows leave the outbox only once Kafka has acknowledged them.
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

    from opentelemetry.trace import Span

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
SETTLE_S = 1.0

Key = tuple[str, int]  # account id and position


class Relay:
    """Sends, remembers what is in flight, and deletes what was acknowledged."""

    def __init__(self, outbox: Outbox, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._outbox = outbox
        self._sleep = sleep
        self._sender: Sender | None = None
        # Whether each was sent as erased, and the span of a sampled one.
        self._in_flight: dict[Key, tuple[bool, Span | None]] = {}
        self._acknowledged: list[tuple[str, int, bool]] = []
        self._deleting: asyncio.Task[None] | None = None
        self._sweeping = asyncio.Lock()
        # What the sweep's round, or the drain, waits for.
        self._awaited: set[Key] = set()
        self._awaited_acknowledged = 0
        self._none_awaited = asyncio.Event()
        self.sent = 0
        self.acknowledged = 0
        self.failed = 0
        self.swept = 0

    def use(self, sender: Sender) -> None:
        """Send through `sender`, which reports to :meth:`delivered`."""
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
        """Take Kafka's outcomes: account id, position, acknowledged. On the loop's thread."""
        for account_id, position, acknowledged in outcomes:
            key = (account_id, position)
            erased, span = self._in_flight.pop(key, (False, None))
            if acknowledged:
                self._acknowledged.append((account_id, position, erased))
                self.acknowledged += 1
            else:
                self.failed += 1
            if span is not None:
                tracing.end(span, failed=not acknowledged)
            if key in self._awaited:
                self._awaited.discard(key)
                self._awaited_acknowledged += acknowledged
        if not self._awaited:
            self._none_awaited.set()
        if self._acknowledged and self._deleting is None:
            self._deleting = asyncio.create_task(self._delete_acknowledged())

    async def sweep(self) -> int:
        """Send what the outbox still holds beyond its first seconds; return how many rows.

        One sweep at a time a process; several processes share the rows by their claims.
        """
        if self._sweeping.locked():
            return 0
        async with self._sweeping:
            found = unsendable = 0
            for _ in range(SWEEP_ROUNDS_MAX):
                rows = await self._outbox.claim()
                if not rows:
                    break
                sent: set[Key] = set()
                refused = False
                for row in rows:
                    key = (row.account_id, row.position)
                    if key in self._in_flight:
                        continue  # handed over already, its outcome is still to come
                    try:
                        refused = not self._send(row)
                    except ValueError:
                        # A damaged or too large text makes no record. Its row stays, for the
                        # operator to see; the others must not wait for it.
                        unsendable += 1
                        continue
                    if refused:
                        break
                    sent.add(key)
                found += len(sent)
                # Only the rows of this round: under load something else is always in flight.
                taken = await self._wait_for(sent, SWEEP_WAIT_S)
                if refused or self._awaited or (sent and not taken):
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
        await self._wait_for(set(self._in_flight), SETTLE_S)
        if self._deleting is not None:
            await asyncio.wait([self._deleting], timeout=DRAIN_S)

    def _send(self, stored: StoredEvent) -> bool:
        """Hand an event to the sender; return False when it does not fit now."""
        if self._sender is None or len(self._in_flight) >= IN_FLIGHT_MAX:
            return False
        span = tracing.begin_send(stored.traceparent)
        traceparent = stored.traceparent if span is None else tracing.traceparent_of(span)
        if not self._sender.send(kafka_record(stored, traceparent)):
            if span is not None:
                tracing.end(span, failed=True)
            return False
        erased = stored.private_text is None
        self._in_flight[stored.account_id, stored.position] = (erased, span)
        self.sent += 1
        return True

    async def _wait_for(self, keys: set[Key], timeout_s: float) -> int:
        """Wait for the outcome of `keys`, up to `timeout_s`; return how many were acknowledged."""
        self._awaited = self._in_flight.keys() & keys
        self._awaited_acknowledged = 0
        if self._awaited:
            self._none_awaited.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._none_awaited.wait()
        return self._awaited_acknowledged

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
