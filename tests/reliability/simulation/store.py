"""The simulated event store: READ COMMITTED, row locks, and COMMITs whose response may be lost.

It gives the guarantees of PostgreSQL that the product relies on, and no others: a batch's writes
are invisible before its commit, a lock is waited for up to a timeout, unique constraints hold, and
a lost session is rolled back after a while, or has committed nevertheless.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from saldo.domain.account import Account, new_account
from saldo.record.errors import (
    STREAM_POSITION,
    CommitUnknown,
    Contradicted,
    StoreBusy,
    StoreUnavailable,
)
from saldo.record.ports import APPEND_DELAY_MAX, Looked, Lookup
from saldo.record.postgres import CLAIM_S, SWEEP_AGE_S
from tests.reliability.simulation.loop import OWNER
from tests.reliability.simulation.world import COMMIT_S_MAX, DOWN_S_MAX, Process, World

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from saldo.record.decision import Decided
    from saldo.record.intent import StoredEvent

# As in sql/roles.sql.
LOCK_TIMEOUT_S = 3.0
TRANSACTION_TIMEOUT_S = 15.0
# How long a server may take to find out that a client is gone, or to end a COMMIT without one.
NOTICED_S = 2.0
CLAIM_ROWS_MAX = 5
# How often a statement whose connection is gone tries its locks.
LATE_S = 0.1


class LockTimeout(Exception):
    """The lock was not let go of in time."""


class Locks:
    """Row locks: one holder each, who waits is served in the order of arrival."""

    def __init__(self) -> None:
        self._held: dict[str, object] = {}
        self._waiting: dict[str, deque[tuple[object, asyncio.Future[None]]]] = {}
        self.waits = 0

    async def take(self, holder: object, key: str) -> None:
        """Hold ``key``; raises LockTimeout."""
        if self._held.get(key, holder) is holder:
            self._held[key] = holder
            return
        self.waits += 1
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append((holder, turn))
        try:
            async with asyncio.timeout(LOCK_TIMEOUT_S):
                await turn
        except TimeoutError as error:
            self._forget(holder, key)
            raise LockTimeout from error
        except asyncio.CancelledError:
            self._forget(holder, key)
            raise

    def are_free(self, holder: object, keys: Sequence[str]) -> bool:
        """Return whether no other session holds one of ``keys``."""
        return all(self._held.get(key, holder) is holder for key in keys)

    def let_go(self, holder: object) -> None:
        """Let go of all that ``holder`` holds, and hand each to the next who waits."""
        for key in [key for key, held_by in self._held.items() if held_by is holder]:
            self._hand_on(key)

    def _forget(self, holder: object, key: str) -> None:
        waiting = self._waiting.get(key, deque())
        self._waiting[key] = deque(each for each in waiting if each[0] is not holder)
        if self._held.get(key) is holder:  # it was its turn at the very moment
            self._hand_on(key)

    def _hand_on(self, key: str) -> None:
        del self._held[key]
        waiting = self._waiting.get(key, deque())
        while waiting:
            holder, turn = waiting.popleft()
            if not turn.done():
                self._held[key] = holder
                turn.set_result(None)
                return


class Session:
    """One database transaction, on a connection that may break."""

    def __init__(self, world: World, locks: Locks, name: str) -> None:
        process = OWNER.get()
        assert isinstance(process, Process)
        self._world = world
        self._process = process
        self._locks = locks
        self._name = name
        self._is_over = False  # the server has ended it
        self._is_cut = False
        self._is_committing = False
        process.connections[self] = None
        world.loop.call_later(TRANSACTION_TIMEOUT_S, self._time_out)

    async def _arrive(self, what: str, unavailable: type[Exception], busy: type[Exception]) -> None:
        """Deliver a statement to the server, or fail."""
        await self._world.step(f"{self._name} {what}")
        world = self._world
        if self._is_over or self._is_cut or world.database_is_down:
            self.cut()
            raise unavailable
        if world.happens(world.faults.cut):
            world.note("cut", self._name)
            self.cut()
            raise unavailable
        if world.happens(world.faults.busy):
            world.note("busy", self._name)
            raise busy

    def cut(self) -> None:
        """Cut the connection; the server ends the database transaction when it notices."""
        if self._is_cut or self._is_over:
            return
        self._is_cut = True
        world = self._world
        # A COMMIT that was on its way is carried out or not; anything else is undone.
        commits = self._is_committing and world.chance.random() < 1 / 2
        if self._is_committing:
            world.note("commit-cut-kept" if commits else "commit-cut-undone", self._name)
            if world.happens(world.faults.failover):
                world.note("failover")
                until_s = world.loop.time() + world.chance.random() * DOWN_S_MAX
                world.database_down_until_s = max(world.database_down_until_s, until_s)
        world.loop.call_later(world.chance.random() * NOTICED_S, self._end, commits)

    async def _commit(self, unknown: type[Exception], busy: type[Exception]) -> None:
        """Commit; the response may be lost, whether it succeeded or not."""
        self._is_committing = True
        await self._arrive("COMMIT", unknown, busy)
        if self._world.happens(self._world.faults.commit_slow):
            self._world.note("commit-slow", self._name)
            await asyncio.sleep(self._world.chance.random() * COMMIT_S_MAX)
            if self._is_over or self._is_cut:
                raise unknown
        if self._world.happens(self._world.faults.cut):
            self.cut()
            raise unknown
        self._end(commits=True)
        await self._world.step(f"{self._name} committed")
        if self._world.happens(self._world.faults.cut):
            self._world.note("commit-answer-lost", self._name)
            raise unknown

    async def roll_back(self) -> None:
        """Undo all; never raises."""
        if not (self._is_over or self._is_cut or self._process.is_dead):
            self._end(commits=False)

    def _time_out(self) -> None:
        if not self._is_over and not self._is_cut:
            self._world.note("transaction-timeout", self._name)
            self._end(commits=False)

    def _end(self, commits: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._process.connections.pop(self, None)
        if commits:
            self._apply()
        self._locks.let_go(self)

    def _apply(self) -> None:
        raise NotImplementedError


@dataclass(slots=True)
class Queued:
    """A row of the outbox."""

    appended_at: datetime
    claimed_until: datetime | None = None


@dataclass(slots=True)
class EventStore:
    """The tables, as far as they are committed."""

    world: World
    locks: Locks = field(default_factory=Locks)
    accounts: dict[str, Account] = field(default_factory=dict)
    events: dict[str, list[StoredEvent]] = field(default_factory=dict)
    appended: list[tuple[datetime, str, int, bytes]] = field(default_factory=list)
    outbox: dict[tuple[str, int], Queued] = field(default_factory=dict)
    ids: dict[UUID, StoredEvent] = field(default_factory=dict)
    # Ids of all events that a recorder ever sent to be written, whether they were committed or not.
    written: set[UUID] = field(default_factory=set)
    by_key: dict[tuple[str, bytes], list[StoredEvent]] = field(default_factory=dict)
    by_reversed: dict[tuple[str, UUID], StoredEvent] = field(default_factory=dict)

    async def begin(self) -> Transaction:
        await self.world.step("store BEGIN")
        if self.world.database_is_down:
            raise StoreUnavailable
        return Transaction(self)

    async def look(self, lookup: Lookup) -> Looked | None:
        await self.world.step("store look")
        if self.world.database_is_down or self.world.happens(self.world.faults.cut):
            raise StoreUnavailable
        wanted = lookup.account_ids
        found = {each: self.accounts[each] for each in wanted if each in self.accounts}
        repeated = self.repeated(lookup)
        now = self.world.database_now()
        await self.world.step("store looked")  # the answer is on its way, others go on
        return Looked(found, repeated, now) if len(found) == len(wanted) else None

    async def append(self, decided: Decided) -> None:
        await self.world.step("store connect")
        if self.world.database_is_down:
            raise StoreUnavailable
        await Statement(self).run(decided)

    def repeated(self, lookup: Lookup) -> list[StoredEvent]:
        """Return what is recorded under the keys, and as reversals."""
        found = [event for key in lookup.keys for event in self.by_key.get(key, ())]
        reversals = (self.by_reversed.get(each) for each in lookup.reversals)
        return found + [each for each in reversals if each is not None]

    def stands(self, decided: Decided) -> bool:
        """Return whether every account is as it was read, not too long ago."""
        if self.world.database_now() > decided.decided_at + APPEND_DELAY_MAX:
            self.world.note("append-too-old")
            return False
        known = self.accounts
        return decided.fits(
            {each: known.get(each) or new_account(each) for each in decided.accounts}
        )

    def contradiction(self, event: StoredEvent) -> str | None:
        """Return the unique constraint that forbids ``event``, or None."""
        if event.position <= len(self.events.get(event.account_id, ())):
            return "event_position"
        if event.key_hash is not None:
            known = self.by_key.get((event.account_id, event.key_hash), ())
            if any(each.key_line == event.key_line for each in known):
                return "event_idempotency_key"
        if event.reverses is not None and (event.account_id, event.reverses) in self.by_reversed:
            return "event_reversed_once"
        return None

    def add(self, event: StoredEvent, appended_at: datetime) -> None:
        """Make a committed event visible."""
        if self.contradiction(event) is not None:
            # Its locks forbid it, and append() found nothing; the constraint would have waited.
            self.world.note("contradicted", event.account_id)
            return
        self.events.setdefault(event.account_id, []).append(event)
        self.ids[event.event_id] = event
        insort(self.appended, (appended_at, event.account_id, event.position, event.hash))
        self.outbox[event.account_id, event.position] = Queued(appended_at)
        if event.key_hash is not None:
            self.by_key.setdefault((event.account_id, event.key_hash), []).append(event)
        if event.reverses is not None:
            self.by_reversed[event.account_id, event.reverses] = event

    def walked(
        self, since: datetime, until: datetime, limit: int
    ) -> list[tuple[datetime, str, int, bytes]]:
        """Return the events stamped from ``since`` up to ``until``."""
        start = bisect_left(self.appended, (since, "", 0, b""))
        return [each for each in self.appended[start : start + limit] if each[0] <= until]


class Transaction(Session):
    """The recorder's Transaction."""

    def __init__(self, store: EventStore) -> None:
        super().__init__(store.world, store.locks, "store")
        self._store = store
        self._decided: Decided | None = None
        self._stood = False
        self._appended_at = store.world.database_now()

    async def look(self, lookup: Lookup) -> Looked:
        """Create the missing streams and lock all, in the order of account ids; then read."""
        await self._arrive("lock", StoreUnavailable, StoreBusy)
        await self._take(lookup.account_ids)
        await self._arrive("look under locks", StoreUnavailable, StoreBusy)
        known = self._store.accounts
        locked = {each: known.get(each) or new_account(each) for each in lookup.account_ids}
        return Looked(locked, self._store.repeated(lookup), self._world.database_now())

    async def _take(self, account_ids: Sequence[str]) -> None:
        for account_id in sorted(account_ids):
            try:
                await self._locks.take(self, account_id)
            except LockTimeout as error:  # or a deadlock, which takes less time
                self._world.note("lock-timeout", account_id)
                raise StoreBusy from error
        if self._is_over or self._is_cut:
            self._locks.let_go(self)

    async def append(self, decided: Decided) -> None:
        self._store.written.update(event.event_id for event in decided.events)
        await self._arrive("append", StoreUnavailable, StoreBusy)
        if not self._store.stands(decided):
            raise Contradicted(STREAM_POSITION)
        for event in decided.events:
            constraint = self._store.contradiction(event)
            if constraint is not None:
                self._world.note("contradicted", constraint)
                raise Contradicted(constraint)
        self._decided = decided
        # Stamped now, visible only with the commit, which may come much later.
        self._appended_at = self._world.database_now()

    async def find_own(self, event_ids: Sequence[UUID], account_ids: Sequence[str]) -> set[bytes]:
        assert account_ids
        await self._arrive("find own", StoreUnavailable, StoreBusy)
        ids = self._store.ids
        found = {ids[event_id].hash for event_id in event_ids if event_id in ids}
        self._world.note("outcome-found" if found else "outcome-none")
        return found

    async def commit(self) -> None:
        await self._commit(CommitUnknown, StoreBusy)

    def _apply(self) -> None:
        if self._decided is None:
            return
        for event in self._decided.events:
            self._store.add(event, self._appended_at)
        self._store.accounts |= self._decided.accounts


class Statement(Transaction):
    """An append that commits by itself: its whole way is a COMMIT of unknown outcome."""

    async def run(self, decided: Decided) -> None:
        """Append; if cut off, the server may execute it later, or never."""
        self._decided = decided
        self._store.written.update(event.event_id for event in decided.events)
        self._is_committing = True
        try:
            await self._run(decided)
        except StoreBusy:  # the server has refused it
            self._end(commits=False)
            raise

    async def _run(self, decided: Decided) -> None:
        await self._arrive("append and commit", CommitUnknown, StoreBusy)
        await self._take(list(decided.accounts))
        if self._is_over or self._is_cut:
            raise CommitUnknown
        if not self._store.stands(decided):
            self._world.note("overtaken")
            self._end(commits=False)
            raise Contradicted(STREAM_POSITION)
        self._stood = True  # and its locks keep it so
        self._appended_at = self._world.database_now()
        await self._commit(CommitUnknown, StoreBusy)

    def _end(self, commits: bool) -> None:
        if not commits or self._is_over or self._decided is None:
            super()._end(commits=False)
        elif not self._locks.are_free(self, list(self._decided.accounts)):
            # It waits for who holds them now: carried out later than anybody may think.
            self._world.loop.call_later(LATE_S, self._end, commits)
        else:
            late = not self._stood and not self._store.stands(self._decided)
            self._world.note("append-came-too-late" if late else "append-carried-out")
            self._appended_at = self._world.database_now()
            super()._end(commits=not late)


class Outbox:
    """The relay's Outbox: each of its statements is a separate database transaction."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._world = store.world

    async def claim(self) -> list[StoredEvent]:
        await self._before("claim")
        now = self._world.database_now()
        due = sorted(
            (row.appended_at, key)
            for key, row in self._store.outbox.items()
            if not now - timedelta(seconds=SWEEP_AGE_S) <= row.appended_at <= now
            and (
                row.claimed_until is None
                or not now <= row.claimed_until <= now + timedelta(seconds=CLAIM_S)
            )
        )[:CLAIM_ROWS_MAX]
        for _, key in due:
            self._store.outbox[key].claimed_until = now + timedelta(seconds=CLAIM_S)
        await self._after("claimed")
        keys = sorted(key for _, key in due)
        return [self._store.events[a][position - 1] for a, position in keys]

    async def acknowledge(self, sent: Sequence[tuple[str, int, bool]]) -> None:
        await self._before("acknowledge")
        for account_id, position, erased in sent:
            assert not erased  # no seed erases anything
            self._store.outbox.pop((account_id, position), None)
        await self._after("acknowledged")

    async def note_sweep(self, found: int) -> None:
        await self._before("note sweep")
        if found:
            self._world.note("outbox-swept", found)

    async def _before(self, what: str) -> None:
        await self._world.step(f"outbox {what}")
        if self._world.database_is_down or self._world.happens(self._world.faults.cut):
            raise ConnectionResetError

    async def _after(self, what: str) -> None:
        await self._world.step(f"outbox {what}")
        if self._world.happens(self._world.faults.cut):
            self._world.note("outbox-answer-lost", what)
            raise ConnectionResetError
