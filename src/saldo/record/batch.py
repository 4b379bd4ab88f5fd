"""Recording a batch: first without locks, which nearly always does, and otherwise under locks.

Without: look, decide in arrival order, append where every account stands as it was looked at. Under
locks: lock, look up, decide, append, commit. Only the store's protocols are seen here:
tests/reliability/simulation runs this very code under every fault that a seed can think of.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from saldo.domain.account import Account, decide, evolve
from saldo.domain.commands import ReverseTransaction
from saldo.domain.errors import (
    AlreadyReversed,
    IdempotencyKeyReused,
    PositionConflict,
    Refused,
)
from saldo.domain.events import (
    TransactionRecorded,
    chain_hash,
    format_time,
    public_text,
)
from saldo.record.intent import Intent, Line, LinesRefused, Recorded, StoredEvent
from saldo.record.postgres import (
    CommitUnknown,
    Contradicted,
    EventStore,
    StoreBusy,
    StoreRefused,
    StoreUnavailable,
    Transaction,
    Unusable,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

log = logging.getLogger(__name__)

# How often a batch that lost a deadlock, a lock wait or its connection is run again, and for how
# long at the most from its first try. With these pauses the deadline comes first, also where every
# try fails at once: a database that restarts is waited for.
ATTEMPTS_MAX = 20
DEADLINE_S = 10.0
BACKOFF_FIRST_S = 0.02
BACKOFF_MAX_S = 1.0
# After another process was quicker, so many batches of this one lock at once: to lose again costs
# more than to wait. A batch loses as a whole, so under contention most would.
LOCKING_BATCHES = 32

Outcome = list[Recorded] | Exception


class OutcomeUnknown(Exception):
    """Whether the transaction was recorded could not be found out in time."""

    def __init__(self, *, transaction_id: UUID) -> None:
        super().__init__(
            f"Whether transaction {transaction_id} was recorded could not be found out in time: "
            "ask for it, or repeat the request with the same idempotency key."
        )
        self.transaction_id = transaction_id


class Contention:
    """Whether other processes record on the same accounts at this time."""

    __slots__ = ("_locking",)

    def __init__(self) -> None:
        self._locking = 0

    def met(self) -> None:
        """Another process was quicker."""
        self._locking = LOCKING_BATCHES

    def locks(self) -> bool:
        """Whether the next batch had better lock at once."""
        if not self._locking:
            return False
        self._locking -= 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a batch takes from outside: the store, a way to wait, the settings.

    The time of what is recorded comes from the store: it is one clock for all recorders.
    """

    store: EventStore
    monotonic: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    default_currency: str
    contention: Contention = field(default_factory=Contention)


@dataclass(slots=True)
class Decided:
    """What a batch came to before it is written."""

    outcomes: list[Outcome]
    events: list[StoredEvent]
    traceparents: list[str | None]
    accounts: dict[str, Account]
    # All accounts of the batch as they were read, and the store's time then.
    read: dict[str, Account]
    decided_at: datetime

    def fits(self, accounts: Mapping[str, Account]) -> bool:
        """Whether the accounts that it changes stand as they were read: none has moved on."""
        return all(accounts[each].hash == self.read[each].hash for each in self.accounts)

    async def append_to(self, store: EventStore | Transaction) -> None:
        """Write it."""
        await store.append(
            self.events,
            list(self.accounts.values()),
            self.traceparents,
            read=[self.read[each] for each in self.accounts],
            decided_at=self.decided_at,
        )


@dataclass(slots=True, kw_only=True)
class _Batch:
    """A batch on its way to a certain outcome."""

    intents: Sequence[Intent]
    account_ids: Sequence[str]
    around: Surroundings
    # What was written and may have been committed, or may still be. There is never more than one:
    # it is written once more as it was decided, or it is known to be lost.
    in_doubt: Decided | None = None


class Ledger:
    """What is known under the locks, and grows as the batch is decided."""

    def __init__(self, accounts: dict[str, Account], repeated: Iterable[StoredEvent]) -> None:
        self.accounts = accounts
        self.changed: dict[str, Account] = {}
        self.by_key: dict[tuple[str, bytes], dict[int, StoredEvent]] = {}
        self.reversed_by: dict[UUID, UUID] = {}
        for stored in repeated:
            self.remember(stored)

    def remember(self, stored: StoredEvent) -> None:
        """Let later lines of the batch find ``stored`` as they would find a committed event."""
        if stored.key_hash is not None:
            lines = self.by_key.setdefault((stored.account_id, stored.key_hash), {})
            lines[stored.key_line or 0] = stored
        if stored.reverses is not None:
            self.reversed_by[stored.reverses] = stored.event_id


def decide_batch(
    intents: Sequence[Intent], ledger: Ledger, now: datetime, default_currency: str
) -> Decided:
    """Decide the intents in arrival order. One's refusal does not touch the others."""
    decided = Decided(
        outcomes=[],
        events=[],
        traceparents=[],
        accounts=ledger.changed,
        read=dict(ledger.accounts),
        decided_at=now,
    )
    times = _Times()
    for intent in intents:
        try:
            recorded = _decide_intent(intent, ledger, now, default_currency, times)
        except Refused as refusal:
            decided.outcomes.append(refusal)
            continue
        except Exception as error:
            # What is stored of an account makes no state: its requests fail, the others go on.
            log.exception("an account's stored state cannot be used")
            decided.outcomes.append(error)
            continue
        decided.outcomes.append(recorded)
        fresh = [each.stored for each in recorded if not each.replayed]
        for stored in fresh:
            ledger.remember(stored)
        decided.events += fresh
        decided.traceparents += [intent.traceparent] * len(fresh)
    return decided


class _Times:
    """Formats a time once, however many events of the batch share it."""

    __slots__ = ("_texts",)

    def __init__(self) -> None:
        # At most two for each line of the batch: its own time and its client's.
        self._texts: dict[datetime, str] = {}

    def text(self, moment: datetime) -> str:
        text = self._texts.get(moment)
        if text is None:
            text = self._texts[moment] = format_time(moment)
        return text


def _decide_intent(
    intent: Intent, ledger: Ledger, now: datetime, default_currency: str, times: _Times
) -> list[Recorded]:
    if len(intent.lines) == 1:
        line = intent.lines[0]
        replay = _find_replay(line, ledger)
        if replay is not None:
            return [Recorded(replay, replayed=True)]
        account = ledger.accounts[line.command.account_id]
        expected = intent.expected
        if expected is not None and not expected.names(account.position, account.hash):
            raise PositionConflict(
                expected=expected, position=account.position, state_hash=account.hash
            )
        stored, account = _decide_line(line, account, ledger, now, default_currency, times)
        ledger.accounts[account.account_id] = account
        ledger.changed[account.account_id] = account
        return [Recorded(stored, replayed=False)]
    return _decide_bulk(intent, ledger, now, default_currency, times)


def _decide_bulk(
    intent: Intent, ledger: Ledger, now: datetime, default_currency: str, times: _Times
) -> list[Recorded]:
    """All lines or none; every refused line is named, by its number from 1."""
    accounts: dict[str, Account] = {}
    recorded: list[Recorded] = []
    refusals: list[tuple[int, Refused]] = []
    own: dict[tuple[str, bytes], StoredEvent] = {}
    for number, line in enumerate(intent.lines, start=1):
        account_id = line.command.account_id
        try:
            if line.key_hash is not None:
                replay = _find_replay(line, ledger) or _find_own_line(line, own)
                if replay is not None:
                    recorded.append(Recorded(replay, replayed=True))
                    continue
            account = accounts.get(account_id) or ledger.accounts[account_id]
            stored, accounts[account_id] = _decide_line(
                line, account, ledger, now, default_currency, times
            )
        except Refused as refusal:
            refusals.append((number, refusal))
            continue
        recorded.append(Recorded(stored, replayed=False))
        if line.key_hash is not None and line.key_line == 0:
            own[account_id, line.key_hash] = stored
    if refusals:
        raise LinesRefused(refusals)
    ledger.accounts.update(accounts)
    ledger.changed.update(accounts)
    return recorded


def _find_replay(line: Line, ledger: Ledger) -> StoredEvent | None:
    """The event that an earlier request of the same key recorded for this line.

    All events under one key have the fingerprint of the request that first used it; another
    fingerprint means another request, whichever line of it this is.
    """
    if line.key_hash is None:
        return None
    account_id = line.command.account_id
    lines = ledger.by_key.get((account_id, line.key_hash))
    if lines is None and line.old_key_hash is not None:
        lines = ledger.by_key.get((account_id, line.old_key_hash))
    if lines is None:
        return None
    if next(iter(lines.values())).fingerprint != line.fingerprint:
        raise IdempotencyKeyReused
    return lines.get(line.key_line)


def _find_own_line(line: Line, own: dict[tuple[str, bytes], StoredEvent]) -> StoredEvent | None:
    """The event of an earlier line of the same request that carries the same key of its own."""
    if line.key_hash is None or line.key_line != 0:
        return None
    stored = own.get((line.command.account_id, line.key_hash))
    if stored is not None and stored.fingerprint != line.fingerprint:
        raise IdempotencyKeyReused
    return stored


def _decide_line(  # noqa: PLR0913 - the parts of one decision
    line: Line,
    account: Account,
    ledger: Ledger,
    now: datetime,
    default_currency: str,
    times: _Times,
) -> tuple[StoredEvent, Account]:
    command = line.command
    if isinstance(command, ReverseTransaction):
        reversed_by = ledger.reversed_by.get(command.original_id)
        if reversed_by is not None:
            raise AlreadyReversed(reversed_by=reversed_by)
    event = decide(
        account,
        command,
        now=now,
        event_id=line.event_id,
        default_currency=default_currency,
        private_hash=line.private_hash,
        request_hash=line.request_hash,
    )
    recorded_at = times.text(event.recorded_at)
    occurred_at = recorded_at
    if isinstance(event, TransactionRecorded) and event.occurred_at is not event.recorded_at:
        occurred_at = times.text(event.occurred_at)
    text = public_text(event, occurred_at=occurred_at, recorded_at=recorded_at)
    account = evolve(account, event, chain_hash(account.hash, text))
    stored = StoredEvent(
        account_id=event.account_id,
        position=event.position,
        event_id=event.event_id,
        public_text=text,
        private_text=line.private_text,
        hash=account.hash,
        balance_minor=account.balance_minor,
        key_hash=line.key_hash,
        key_line=None if line.key_hash is None else line.key_line,
        fingerprint=line.fingerprint,
        reverses=event.reverses if isinstance(event, TransactionRecorded) else None,
    )
    return stored, account


async def record_batch(
    intents: Sequence[Intent],
    around: Surroundings,
    committed: Callable[[Decided], None],
) -> list[Outcome]:
    """Record ``intents`` in one database transaction and answer for each.

    ``committed`` is told what was appended, right after the commit. A unique violation, which the
    locks should make impossible, runs the batch once more and then intent by intent, so that one
    contradiction cannot refuse the others. Nor can an account whose stored state is unusable.
    """
    try:
        return await _record_until_decided(intents, around, committed)
    except Unusable:
        log.warning("an account of the batch is unusable: running it singly")
        return await _record_singly(intents, around, committed)
    except Contradicted as first:
        log.warning("batch contradicted by %s: running it once more", first.constraint)
    try:
        return await _record_until_decided(intents, around, committed)
    except (Contradicted, Unusable):
        log.exception("batch contradicted twice: running it singly")
    return await _record_singly(intents, around, committed)


async def _record_singly(
    intents: Sequence[Intent],
    around: Surroundings,
    committed: Callable[[Decided], None],
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for intent in intents:
        try:
            outcomes += await _record_until_decided([intent], around, committed)
        except Contradicted:
            outcomes.append(StoreBusy())
        except (StoreBusy, StoreUnavailable, Unusable) as error:
            outcomes.append(error)
    return outcomes


@contextlib.contextmanager
def _nothing_written() -> Iterator[None]:
    """Raise Unusable for an unexpected error of a part that writes nothing."""
    try:
        yield
    except (CommitUnknown, Contradicted, StoreBusy, StoreUnavailable):
        raise
    except Exception as error:
        raise Unusable from error


async def _record_until_decided(
    intents: Sequence[Intent],
    around: Surroundings,
    committed: Callable[[Decided], None],
) -> list[Outcome]:
    """Run the batch until its outcome is certain, within ATTEMPTS_MAX and DEADLINE_S."""
    account_ids = sorted({line.command.account_id for i in intents for line in i.lines})
    batch = _Batch(intents=intents, account_ids=account_ids, around=around)
    deadline = around.monotonic() + DEADLINE_S
    decided: Decided | None = None
    backoff_s = BACKOFF_FIRST_S
    failure: Exception = StoreUnavailable()
    for attempt in range(ATTEMPTS_MAX):
        if attempt:
            await around.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
            if around.monotonic() > deadline:
                break
        try:
            decided = await _decide(batch, first=not attempt)
        except (CommitUnknown, StoreBusy, StoreUnavailable) as error:
            failure = error
            if isinstance(error, StoreRefused) and batch.in_doubt is None:
                break  # certain, and to try again at once is of no use
        else:
            break
    if decided is not None:
        if decided.events:
            committed(decided)
        return decided.outcomes
    if batch.in_doubt is None:
        raise failure
    return _in_doubt(intents, batch.in_doubt)


def _in_doubt(intents: Sequence[Intent], decided: Decided) -> list[Outcome]:
    """The outcomes that hold whether ``decided`` was committed or not; the others are in doubt.

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


async def _decide(batch: _Batch, *, first: bool) -> Decided:
    """One try: the ``first`` without locks where that does."""
    decided = None
    if first and not batch.around.contention.locks():
        decided = await _decide_without_locks(batch)
    return decided or await _decide_under_locks(batch)


async def _decide_without_locks(batch: _Batch) -> Decided | None:
    """Look, decide and append; None where it takes locks.

    What is looked at is of one moment, so refusals and repeated answers hold for that moment. What
    is appended holds as long as no account of the batch has moved on since, and the append itself
    sees to that, however late it is carried out.
    """
    around = batch.around
    with _nothing_written():
        looked = await around.store.look(batch.account_ids, *_looked_up(batch.intents))
    if looked is None:
        return None  # a stream is missing: it is created under locks
    accounts, repeated, now = looked
    decided = decide_batch(batch.intents, Ledger(accounts, repeated), now, around.default_currency)
    try:
        if decided.events:
            await decided.append_to(around.store)
    except Contradicted:
        around.contention.met()
        return None
    except CommitUnknown:
        batch.in_doubt = decided
        raise
    return decided


async def _decide_under_locks(batch: _Batch) -> Decided:
    """Lock; find what is in doubt or write it once more; otherwise look up, decide and write.

    What is in doubt may be an append without locks that is still on its way. As long as no account
    has moved on, the same events are written again, and whichever comes first keeps the other out.
    Where one has moved on and the events are not there, the append can only fail.
    """
    transaction = await batch.around.store.begin()
    decided: Decided | None = None
    try:
        with _nothing_written():
            await transaction.lock(batch.account_ids)
            accounts, now = await transaction.read_accounts()
        decided = batch.in_doubt
        if decided is not None and not decided.fits(accounts):
            ids = [event.event_id for event in decided.events]
            own = await transaction.find_own(ids, batch.account_ids)
            if all(event.hash in own for event in decided.events):
                await transaction.roll_back()
                return decided
            decided = batch.in_doubt = None
        if decided is None:
            with _nothing_written():
                decided = await _decide_locked(batch, transaction, accounts, now)
        if decided.events:
            await decided.append_to(transaction)
            await transaction.commit()
        else:
            await transaction.roll_back()
    except CommitUnknown:
        await transaction.roll_back()
        batch.in_doubt = decided
        raise
    except BaseException:
        await transaction.roll_back()
        raise
    return decided


async def _decide_locked(
    batch: _Batch, transaction: Transaction, accounts: dict[str, Account], now: datetime
) -> Decided:
    """Look keys and reversals up, in a statement after the one that locks; decide."""
    keys, reversals = _looked_up(batch.intents)
    repeated = []
    if keys or reversals:
        repeated = await transaction.find_repeated(keys, reversals)
    ledger = Ledger(accounts, repeated)
    return decide_batch(batch.intents, ledger, now, batch.around.default_currency)


def _looked_up(
    intents: Sequence[Intent],
) -> tuple[list[tuple[str, bytes]], list[tuple[str, UUID]]]:
    """The keys (account, hash) and the reversed transactions (account, id) of the batch."""
    keys: dict[tuple[str, bytes], None] = {}
    reversals: list[tuple[str, UUID]] = []
    for intent in intents:
        for line in intent.lines:
            for key_hash in (line.key_hash, line.old_key_hash):
                if key_hash is not None:
                    keys[line.command.account_id, key_hash] = None
            if isinstance(line.command, ReverseTransaction):
                reversals.append((line.command.account_id, line.command.original_id))
    return list(keys), reversals
