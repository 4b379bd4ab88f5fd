"""The recording of a batch: optimistically first, then under row locks after a conflict.

Optimistically: look, decide in arrival order, append if every account is still as it was looked at.
Under locks: lock, look, decide, append, commit. Only the store's protocols are used here, so
tests/reliability/simulation runs this very code.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from saldo.domain.commands import ReverseTransaction
from saldo.record.decision import Decided, Ledger, Outcome, decide_batch
from saldo.record.errors import (
    CommitUnknown,
    Contradicted,
    OutcomeUnknown,
    StoreBusy,
    StoreRefused,
    StoreUnavailable,
    Unusable,
)
from saldo.record.ports import EventStore, Looked, Lookup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from uuid import UUID

    from saldo.record.intent import Intent

log = logging.getLogger(__name__)

# How often a batch is tried, and for how long. With these pauses the deadline comes first, also
# where every try fails at once: a database that restarts is waited for.
ATTEMPTS_MAX = 20
DEADLINE_S = 10.0
BACKOFF_FIRST_S = 0.02
BACKOFF_MAX_S = 1.0
# After another process was quicker, so many batches of this one lock at once: to lose again costs
# more than to wait. A batch loses as a whole, so under contention most would.
LOCKING_BATCHES = 32


class Contention:
    """Whether other processes record on the same accounts at this time."""

    __slots__ = ("_locking",)

    def __init__(self) -> None:
        self._locking = 0

    def met(self) -> None:
        """Note that another process was quicker."""
        self._locking = LOCKING_BATCHES

    def locks(self) -> bool:
        """Return whether the next batch locks at once."""
        if not self._locking:
            return False
        self._locking -= 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What a batch needs from outside: the store, a way to wait, the settings.

    The time of what is recorded comes from the store: it is one clock for all recorders.
    """

    store: EventStore
    monotonic: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    default_currency: str
    contention: Contention = field(default_factory=Contention)


async def record_batch(
    intents: Sequence[Intent], deps: Dependencies, committed: Callable[[Decided], None]
) -> list[Outcome]:
    """Record `intents` in one database transaction and return the outcome of each.

    `committed` gets what was appended, right after the commit. Where one account makes the batch
    fail, the intents are recorded one by one, so that the others are not refused for it.
    """
    try:
        return await _Batch(intents, deps).record(committed)
    except (Contradicted, Unusable) as error:
        log.warning("a contradicted or unusable batch is recorded singly: %s", error)
    outcomes: list[Outcome] = []
    for intent in intents:
        try:
            outcomes += await _Batch([intent], deps).record(committed)
        except Contradicted:
            log.exception("contradicted again")
            outcomes.append(StoreBusy())
        except (StoreBusy, StoreUnavailable, Unusable) as error:
            outcomes.append(error)
    return outcomes


class _Batch:
    """A batch on its way to a certain outcome."""

    def __init__(self, intents: Sequence[Intent], deps: Dependencies) -> None:
        self._intents = intents
        self._deps = deps
        self._lookup = _lookup_of(intents)
        # What was written and may have been committed, or may still be. There is never more than
        # one: it is written again as it was decided, or it is known to be lost.
        self._in_doubt: Decided | None = None

    async def record(self, committed: Callable[[Decided], None]) -> list[Outcome]:
        """Try until the outcome is certain, within ATTEMPTS_MAX and DEADLINE_S."""
        deps = self._deps
        deadline = deps.monotonic() + DEADLINE_S
        backoff_s = BACKOFF_FIRST_S
        failure: Exception = StoreUnavailable()
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                await deps.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
                if deps.monotonic() > deadline:
                    break
            try:
                decided = await self._attempt(first=not attempt)
            except (CommitUnknown, StoreBusy, StoreUnavailable) as error:
                failure = error
                if isinstance(error, StoreRefused) and self._in_doubt is None:
                    break  # certain, and trying again at once is of no use
            else:
                if decided.events:
                    committed(decided)
                return decided.outcomes
        if self._in_doubt is None:
            raise failure
        return _outcomes_in_doubt(self._intents, self._in_doubt)

    async def _attempt(self, *, first: bool) -> Decided:
        decided = None
        if first and not self._deps.contention.locks():
            decided = await self._without_locks()
        return decided or await self._under_locks()

    async def _without_locks(self) -> Decided | None:
        """Look, decide and append; return None where it takes locks.

        What is looked at is of one moment, so refusals and replays hold for that moment. The append
        holds as long as no account of the batch has moved on since. It checks that itself, however
        late it is carried out.
        """
        with _nothing_written():
            looked = await self._deps.store.look(self._lookup)
        if looked is None:
            return None  # a stream is missing: it is created under locks
        decided = self._decide(looked)
        try:
            if decided.events:
                await self._deps.store.append(decided)
        except Contradicted:
            self._deps.contention.met()
            return None
        except CommitUnknown:
            self._in_doubt = decided
            raise
        return decided

    async def _under_locks(self) -> Decided:
        """Lock and look; find what is in doubt or write it again; otherwise decide and write.

        What is in doubt may be an append without locks that is still on its way. As long as no
        account has moved on, the same events are written again, and whichever comes first keeps
        the other out. Where one has moved on and the events are not there, the append can only
        fail.
        """
        transaction = await self._deps.store.begin()
        decided: Decided | None = None
        try:
            with _nothing_written():
                looked = await transaction.look(self._lookup)
            decided = self._in_doubt
            if decided is not None and not decided.fits(looked.accounts):
                ids = [event.event_id for event in decided.events]
                own = await transaction.find_own(ids, self._lookup.account_ids)
                if all(event.hash in own for event in decided.events):
                    return decided
                decided = self._in_doubt = None
            if decided is None:
                decided = self._decide(looked)
            if decided.events:
                await transaction.append(decided)
                await transaction.commit()
        except CommitUnknown:
            self._in_doubt = decided
            raise
        finally:
            await transaction.roll_back()
        return decided

    def _decide(self, looked: Looked) -> Decided:
        with _nothing_written():
            ledger = Ledger(looked.accounts, looked.repeated)
            return decide_batch(self._intents, ledger, looked.now, self._deps.default_currency)


@contextlib.contextmanager
def _nothing_written() -> Iterator[None]:
    """Raise Unusable for an unexpected error of a part that writes nothing."""
    try:
        yield
    except (CommitUnknown, Contradicted, StoreBusy, StoreUnavailable):
        raise
    except Exception as error:
        raise Unusable from error


def _outcomes_in_doubt(intents: Sequence[Intent], decided: Decided) -> list[Outcome]:
    """Return the outcomes that hold whether `decided` was committed or not; others are in doubt.

    A repeat of an event in doubt names that event: it has none of its own. A refusal on an account
    that has an event in doubt recorded nothing either way, but might not be one the next time.
    """
    ids = {event.event_id for event in decided.events}
    touched: set[str] = set()
    outcomes: list[Outcome] = []
    for intent, outcome in zip(intents, decided.outcomes, strict=True):
        if isinstance(outcome, Exception):
            certain = touched.isdisjoint(intent.account_ids())
            outcomes.append(outcome if certain else StoreBusy())
            continue
        doubtful = [each.stored for each in outcome if each.stored.event_id in ids]
        touched.update(stored.account_id for stored in doubtful)
        outcomes.append(
            OutcomeUnknown(transaction_id=doubtful[0].event_id) if doubtful else outcome
        )
    return outcomes


def _lookup_of(intents: Sequence[Intent]) -> Lookup:
    account_ids: set[str] = set()
    keys: dict[tuple[str, bytes], None] = {}
    reversals: list[tuple[str, UUID]] = []
    for intent in intents:
        for line in intent.lines:
            account_id = line.command.account_id
            account_ids.add(account_id)
            for key_hash in (line.key_hash, line.old_key_hash):
                if key_hash is not None:
                    keys[account_id, key_hash] = None
            if isinstance(line.command, ReverseTransaction):
                reversals.append((account_id, line.command.original_id))
    return Lookup(sorted(account_ids), list(keys), reversals)
