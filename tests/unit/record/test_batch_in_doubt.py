"""Batches whose commit stays in doubt: every outcome but a 503 holds in both cases."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from saldo.domain.account import Account, new_account
from saldo.domain.commands import Kind
from saldo.domain.errors import (
    AlreadyReversed,
    IdempotencyKeyReused,
    InsufficientFunds,
    PositionConflict,
)
from saldo.domain.events import chain_hash, genesis_hash
from saldo.record.batch import (
    ATTEMPTS_MAX,
    DEADLINE_S,
    Contention,
    Dependencies,
    record_batch,
)
from saldo.record.decision import Decided, Ledger, decide_batch
from saldo.record.errors import (
    STREAM_POSITION,
    CommitUnknown,
    Contradicted,
    OutcomeUnknown,
    StoreBusy,
    StoreUnavailable,
)
from saldo.record.intent import Intent
from saldo.record.ports import Looked, Lookup
from tests.support.controls import BRL, NOW, Clock, expense, income, intent, limit, reversal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from saldo.record.decision import Outcome
    from saldo.record.intent import StoredEvent

ANA, BIA, CLEO = "ana", "bia", "cleo"
# How a commit ends: with a response; without one, carried out, undone or on its way still; refused.
Ending: TypeAlias = Literal["answered", "kept", "undone", "late", "busy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What happens at one attempt of a batch.

    First, in this order: ``others`` are recorded by another process, and an append that is on its
    way is carried out where ``late_comes``.
    """

    ending: Ending
    others: tuple[Intent, ...] = ()
    late_comes: bool = False
    locks: bool = False


@dataclass(slots=True)
class Tables:
    """What is committed, and an append that may still be."""

    accounts: dict[str, Account] = field(default_factory=dict)
    events: list[StoredEvent] = field(default_factory=list)
    on_its_way: Decided | None = None

    def copied(self) -> Tables:
        """Return a copy that may go on without this one."""
        return replace(self, accounts=dict(self.accounts), events=list(self.events))

    def record(self, one: Intent) -> None:
        """Record it as another process does that meets no fault."""
        accounts = {
            each: self.accounts.get(each) or new_account(each) for each in one.account_ids()
        }
        decided = decide_batch([one], Ledger(accounts, self.events), NOW, BRL)
        self.commit(decided)

    def commit(self, decided: Decided) -> None:
        self.events += decided.events
        self.accounts |= decided.accounts

    def stand_as_read(self, decided: Decided) -> bool:
        """Return whether none of the accounts has moved on since it was read."""
        return decided.accounts.keys() <= self.accounts.keys() and decided.fits(self.accounts)

    def late_comes(self) -> bool:
        """Carry out the append on its way, and return whether it wrote something."""
        late, self.on_its_way = self.on_its_way, None
        if late is None or not self.stand_as_read(late):
            return False
        self.commit(late)
        return True


class Store:
    """The EventStore of one batch: it follows ``attempts``, and then it is gone."""

    def __init__(self, tables: Tables, attempts: Sequence[Attempt], clock: Clock) -> None:
        self.tables = tables
        self.attempts = list(attempts)
        self.clock = clock
        self.at: Attempt | None = None
        self.begun_s: list[float] = []
        self.written: set[UUID] = set()

    def next_attempt(self) -> None:
        """Begin the next attempt; raise StoreUnavailable when none is left."""
        self.begun_s.append(self.clock.seconds)
        if not self.attempts:
            raise StoreUnavailable
        self.at = self.attempts.pop(0)
        for each in self.at.others:
            self.tables.record(each)
        if self.at.late_comes:
            self.tables.late_comes()

    def end(self, decided: Decided) -> None:
        """End a commit as the attempt says."""
        assert self.at is not None
        if self.at.ending == "busy":
            raise StoreBusy
        if self.at.ending in {"answered", "kept"}:
            self.tables.commit(decided)
        if self.at.ending != "answered":
            raise CommitUnknown

    async def begin(self) -> Locked:
        if self.at is None or self.at.locks:  # without locks it has begun by looking
            self.next_attempt()
        self.at = self.at and replace(self.at, locks=True)
        return Locked(self)

    async def look(self, lookup: Lookup) -> Looked | None:
        self.next_attempt()
        accounts = self.tables.accounts
        found = {each: accounts[each] for each in lookup.account_ids if each in accounts}
        if len(found) < len(lookup.account_ids):
            return None
        return Looked(found, self.repeated(lookup), self.clock.now())

    async def append(self, decided: Decided) -> None:
        assert self.at is not None
        self.written.update(each.event_id for each in decided.events)
        assert decided.decided_at <= self.clock.now()
        if not self.tables.stand_as_read(decided):
            raise Contradicted(STREAM_POSITION)
        self.at = replace(self.at, locks=True)
        if self.at.ending == "late":
            self.tables.on_its_way = decided
        self.end(decided)

    def repeated(self, lookup: Lookup) -> list[StoredEvent]:
        return [
            each
            for each in self.tables.events
            if (each.account_id, each.key_hash) in lookup.keys
            or (each.account_id, each.reverses) in lookup.reversals
        ]


class Locked:
    """The Transaction of one attempt: its accounts are locked, so no append comes meanwhile."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: Decided | None = None

    async def look(self, lookup: Lookup) -> Looked:
        accounts = self._store.tables.accounts
        found = {each: accounts.get(each) or new_account(each) for each in lookup.account_ids}
        return Looked(found, self._store.repeated(lookup), self._store.clock.now())

    async def find_own(self, event_ids: Sequence[UUID], _: Sequence[str]) -> set[bytes]:
        events = self._store.tables.events
        return {each.hash for each in events if each.event_id in event_ids}

    async def append(self, decided: Decided) -> None:
        self._store.written.update(each.event_id for each in decided.events)
        assert decided.read
        assert decided.decided_at <= self._store.clock.now()
        self._pending = decided

    async def commit(self) -> None:
        assert self._pending is not None
        self._store.end(self._pending)

    async def roll_back(self) -> None:
        pass


@dataclass(slots=True)
class Came:
    """What a batch came to: its outcomes, or what was raised for all of them."""

    tables: Tables
    store: Store
    outcomes: list[Outcome]
    committed: list[Decided]


def run(intents: Sequence[Intent], attempts: Sequence[Attempt], *, locks: bool = False) -> Came:
    """Record the batch; only the given attempts reach the store."""
    tables, clock = PRIOR.copied(), Clock()
    store = Store(tables, attempts, clock)
    contention = Contention()
    if locks:
        contention.met()
    deps = Dependencies(
        store=store,
        monotonic=clock.monotonic,
        sleep=clock.sleep,
        default_currency=BRL,
        contention=contention,
    )
    committed: list[Decided] = []
    outcomes: list[Outcome]
    try:
        outcomes = asyncio.run(record_batch(intents, deps, committed.append))
    except (StoreBusy, StoreUnavailable) as error:
        outcomes = [error] * len(intents)
    return Came(tables, store, outcomes, committed)


# --- what must hold ---------------------------------------------------------------------------


def check_world(tables: Tables, intents: Sequence[Intent], outcomes: Sequence[Outcome]) -> None:
    """Check that every stream is complete, and every outcome but a 503 agrees with the store."""
    ends: dict[str, StoredEvent] = {}
    for each in tables.events:
        before = ends.get(each.account_id)
        position, previous = (before.position, before.hash) if before else (0, None)
        assert each.position == position + 1
        assert each.hash == chain_hash(previous or genesis_hash(each.account_id), each.public_text)
        ends[each.account_id] = each
    stored = {each.event_id: each for each in tables.events}
    assert len(stored) == len(tables.events)
    for one, outcome in zip(intents, outcomes, strict=True):
        if isinstance(outcome, list):
            assert [stored.get(each.stored.event_id) for each in outcome] == [
                each.stored for each in outcome
            ]
        elif not isinstance(outcome, OutcomeUnknown):
            assert not {line.event_id for line in one.lines} & stored.keys()
            check_refusal(one, outcome, tables)


def check_refusal(one: Intent, outcome: Exception, tables: Tables) -> None:
    """Check that the reason of a refusal is stored."""
    if len(one.lines) > 1:
        return
    [line] = one.lines
    own = [each for each in tables.events if each.account_id == line.command.account_id]
    if isinstance(outcome, AlreadyReversed):
        [undone] = [each for each in own if each.event_id == outcome.reversed_by]
        assert undone.reverses == line.command.original_id  # type: ignore[union-attr]
    elif isinstance(outcome, PositionConflict):
        assert outcome.actual <= len(own)
    elif isinstance(outcome, InsufficientFunds):
        assert outcome.balance_minor == ([0] + [e.balance_minor for e in own])[outcome.position]
    elif isinstance(outcome, IdempotencyKeyReused):
        used = [each for each in own if each.key_hash == line.key_hash]
        assert used
        assert used[0].fingerprint != line.fingerprint


def check(came: Came, intents: Sequence[Intent]) -> None:
    """Check that the outcomes hold now, and after the appends still on their way."""
    check_world(came.tables, intents, came.outcomes)
    after = came.tables.copied()
    if after.late_comes():
        check_world(after, intents, came.outcomes)
    stored = {each.event_id for each in came.tables.events}
    assert {each.event_id for decided in came.committed for each in decided.events} <= stored
    for outcome in came.outcomes:
        if isinstance(outcome, OutcomeUnknown):
            assert outcome.transaction_id in came.store.written


# --- what is tried ----------------------------------------------------------------------------


def prior() -> Tables:
    """Return two accounts with a reversible transaction and a limit; the third account is new."""
    tables = Tables()
    for account_id in (ANA, BIA):
        tables.record(intent(income("2", account_id), key="prior"))
        tables.record(intent(limit("1", account_id)))
    return tables


PRIOR = prior()
UNDO = [reversal(each, Kind.INCOME, 200) for each in PRIOR.events if each.position == 1]
ACCOUNT_IDS = st.sampled_from([ANA, ANA, BIA, CLEO])
VALUES = st.sampled_from(["1", "2", "3"])
COMMANDS = st.one_of(
    st.builds(income, VALUES, ACCOUNT_IDS),
    st.builds(expense, VALUES, ACCOUNT_IDS),
    st.builds(limit, VALUES, ACCOUNT_IDS),
    st.sampled_from(UNDO),
)
KEYS = st.sampled_from([None, "k", "l"])


def bulk(lines: list[Intent]) -> Intent:
    """Return one request of these lines, each with its own key or none."""
    return Intent(lines=tuple(line for each in lines for line in each.lines), is_bulk=True)


SINGLES = st.builds(
    intent, COMMANDS, key=KEYS, expected=st.one_of(st.none(), st.none(), st.integers(0, 4))
)
LINES = st.builds(
    intent,
    st.one_of(st.builds(income, VALUES, ACCOUNT_IDS), st.builds(expense, VALUES, ACCOUNT_IDS)),
    key=KEYS,
)
INTENTS = st.one_of(SINGLES, SINGLES, st.lists(LINES, min_size=2, max_size=3).map(bulk))
ATTEMPTS = st.builds(
    Attempt,
    ending=st.sampled_from(["kept", "undone", "late", "busy", "answered"]),
    others=st.lists(SINGLES, max_size=1).map(tuple),
    late_comes=st.booleans(),
)


@given(
    intents=st.lists(INTENTS, min_size=1, max_size=6),
    attempts=st.lists(ATTEMPTS, min_size=1, max_size=4),
    locks=st.booleans(),
)
def test_outcomes_hold_whether_or_not_the_commit_succeeded(
    intents: list[Intent], attempts: list[Attempt], *, locks: bool
) -> None:
    came = run(intents, attempts, locks=locks)
    for outcome in came.outcomes:
        event(type(outcome).__name__)
    check(came, intents)


# --- each kind by its name --------------------------------------------------------------------

LOST: list[Ending] = ["undone", "kept", "late"]


def doubted(*intents: Intent, ending: Ending = "undone") -> list[Outcome]:
    """Return the outcomes of a batch whose only attempt stays in doubt."""
    came = run(intents, [Attempt(ending=ending)])
    check(came, intents)
    return came.outcomes


def unknown(outcome: Outcome) -> UUID:
    """Return the transaction that an unknown outcome names."""
    assert isinstance(outcome, OutcomeUnknown), outcome
    return outcome.transaction_id


@pytest.mark.parametrize("ending", LOST)
def test_a_repeat_of_an_event_in_doubt_is_in_doubt_too(ending: Ending) -> None:
    """It names the same event: if that was committed, the repeat has no other."""
    first, again = intent(income("1", ANA), key="k"), intent(income("1", ANA), key="k")
    outcomes = doubted(first, again, ending=ending)
    assert [unknown(each) for each in outcomes] == [first.lines[0].event_id] * 2


@pytest.mark.parametrize(
    "refused",
    [
        intent(UNDO[0], key="another"),
        intent(income("9", ANA), key="k"),
        intent(expense("9", ANA)),
        intent(income("1", ANA), expected=99),
        intent(income("1", ANA, currency="USD")),
        bulk([intent(income("1", BIA)), intent(expense("9", ANA))]),
    ],
    ids=["reversal", "key", "limit", "if-match", "currency", "bulk"],
)
def test_a_refusal_on_an_account_in_doubt_is_store_busy(refused: Intent) -> None:
    undone = intent(UNDO[0], key="k")
    outcomes = doubted(undone, refused)
    assert unknown(outcomes[0]) == undone.lines[0].event_id
    assert isinstance(outcomes[1], StoreBusy)


def test_an_independent_request_keeps_its_outcome() -> None:
    """A refusal before its account's first event in doubt or elsewhere, and an older replay."""
    early, _, elsewhere, replay = doubted(
        intent(income("1", ANA), expected=99),
        intent(income("1", ANA)),
        intent(expense("9", BIA)),
        intent(income("2", ANA), key="prior"),
    )
    assert isinstance(early, PositionConflict)
    assert isinstance(elsewhere, InsufficientFunds)
    assert isinstance(replay, list)
    assert replay[0].stored == PRIOR.events[0]


def test_a_bulk_request_in_doubt_names_an_event_that_may_exist() -> None:
    """Its first line is a replay, whose new id is never written."""
    request = bulk([intent(income("2", ANA), key="prior"), intent(income("1", BIA))])
    [outcome] = doubted(request)
    assert unknown(outcome) == request.lines[1].event_id


def test_a_bulk_request_of_replays_in_doubt_is_in_doubt() -> None:
    lines = [intent(income("1", ANA), key="k"), intent(income("3", BIA), key="l")]
    again = bulk([intent(income("1", ANA), key="k"), intent(income("3", BIA), key="l")])
    outcomes = doubted(*lines, again)
    assert unknown(outcomes[2]) == lines[0].lines[0].event_id


def test_the_last_attempt_in_doubt_decides_the_outcomes() -> None:
    """Refused at first, accepted by the attempt that was committed without a response."""
    intents = [intent(income("1", BIA)), intent(expense("9", ANA))]
    moved = (intent(income("9", ANA)), intent(income("1", BIA)))
    came = run(intents, [Attempt(ending="late"), Attempt(ending="kept", others=moved)])
    check(came, intents)
    assert [unknown(each) for each in came.outcomes] == [i.lines[0].event_id for i in intents]


def test_an_event_in_doubt_is_written_again_unchanged() -> None:
    """Decided again, the bulk request would be accepted while the other append may still come."""
    request = bulk([intent(expense("1", ANA)), intent(expense("9", BIA))])
    intents = [request, intent(expense("2", ANA))]
    moved = (intent(income("9", BIA)),)
    endings: tuple[Ending, ...] = ("undone", "kept", "answered")
    for ending in endings:
        came = run(intents, [Attempt(ending="late"), Attempt(ending=ending, others=moved)])
        check(came, intents)
        assert not isinstance(came.outcomes[0], (list, OutcomeUnknown))


def test_a_new_account_in_doubt_is_in_doubt_under_locks() -> None:
    outcomes = doubted(intent(income("1", CLEO), key="k"), intent(income("2", CLEO), key="k"))
    assert isinstance(outcomes[0], OutcomeUnknown)
    assert isinstance(outcomes[1], StoreBusy)


def test_no_attempt_starts_past_the_deadline() -> None:
    """While the outcome is in doubt as well as while nothing was written."""
    for attempts in ([Attempt(ending="undone")] * ATTEMPTS_MAX, []):
        came = run([intent(income("1", ANA))], attempts)
        assert 5 < len(came.store.begun_s) < ATTEMPTS_MAX
        assert max(came.store.begun_s) <= DEADLINE_S
