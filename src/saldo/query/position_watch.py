"""Waiting for a balance to reach a position, or to change.

One query per process every 10 ms, none when no reader waits. It serves ``minPosition`` and the
event streams.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from saldo.query.errors import TooManyWaiters
from saldo.serve.telemetry.tracing import NO_REQUEST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from saldo.query.balances import Standing

log = logging.getLogger(__name__)

POLL_S = 0.01
POLL_AFTER_FAILURE_S = 0.5
WAITERS_MAX = 2_000


class _Waiter(NamedTuple):
    position: int
    seen: str
    outcome: asyncio.Future[str | None]


class Watch:
    """Polls the states of the accounts that readers wait for."""

    def __init__(self, states: Callable[[Sequence[str]], Awaitable[dict[str, Standing]]]) -> None:
        self._states = states
        self._waiters: defaultdict[str, set[_Waiter]] = defaultdict(set)
        self.waiting = 0
        self._released = False
        self._poller: asyncio.Task[None] | None = None

    async def reach(
        self, account_id: str, position: int, timeout_s: float, seen: str = ""
    ) -> str | None:
        """Return the account's tag once its position is at least ``position``.

        A state whose tag is ``seen`` does not count. None after ``timeout_s``.
        """
        if self.waiting >= WAITERS_MAX:
            raise TooManyWaiters
        if self._released:
            return None
        waiter = _Waiter(position, seen, asyncio.get_running_loop().create_future())
        self._waiters[account_id].add(waiter)
        self.waiting += 1
        if self._poller is None:
            # It polls for all readers, so it has none's context.
            self._poller = asyncio.create_task(self._poll(), context=NO_REQUEST.copy())
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter.outcome
        except TimeoutError:
            return None
        finally:
            self.waiting -= 1
            waiters = self._waiters[account_id]
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[account_id]

    async def _poll(self) -> None:
        try:
            while self._waiters:
                delay_s = POLL_S
                try:
                    states = await self._states(list(self._waiters))
                except Exception:  # noqa: BLE001 - the waiters run into their own timeouts
                    log.warning("positions cannot be read; waiting readers wait on")
                    states, delay_s = {}, POLL_AFTER_FAILURE_S
                for account_id, state in states.items():
                    for wanted, seen, outcome in self._waiters.get(account_id, ()):
                        reached = state.position >= wanted and state.tag != seen
                        if reached and not outcome.done():
                            outcome.set_result(state.tag)
                await asyncio.sleep(delay_s)
        finally:
            self._poller = None

    def release(self) -> None:
        """Let all waiters go with what they have, and keep no new one: the process stops."""
        self._released = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.outcome.done():
                    waiter.outcome.set_result(None)

    async def close(self) -> None:
        """Stop polling."""
        if self._poller is not None:
            self._poller.cancel()
