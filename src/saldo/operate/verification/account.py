"""One account: its chain and the stamps of its events, and beside them the read model's rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from saldo.operate.verification.chain import Chain
from saldo.operate.verification.findings import (
    CLOCK_AHEAD_MAX,
    NO_EVENT,
    Counts,
    Fault,
    FaultError,
    event_fault,
    line_fault,
    shown,
)
from saldo.operate.verification.projection import Projection
from saldo.operate.verification.rules import Rules

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from datetime import datetime
    from uuid import UUID

    from saldo.domain.events import Event
    from saldo.operate.verification.findings import Row

# The recorder's database transaction ends within 15 s of the moment that it records, and an append
# without locks follows its read within milliseconds. The rest is for a process or a machine that
# was stopped in between, and for clocks that were set.
STAMPS_APART_MAX = timedelta(minutes=5)
# Of rules that were broken and of stamps, so many an account are kept: one may bring many with it.
BREACHES_MAX = 5
# One account's values must not end the verification of the others.
UNCHECKABLE = (FaultError, ArithmeticError, RecursionError)


@dataclass(slots=True)
class Stamps:
    """Checks the stamps of one account's events, and notes those that a wrong clock explains.

    Such events are in the chain and cannot be put right: they are no fault.
    """

    now: datetime
    # The latest time that the store's clock is known to have shown: now, or what it has dated.
    latest: datetime
    # Events recorded long "after" or "before" they were stored: how many, the first position, and
    # by how much at most.
    apart: dict[str, tuple[int, int, timedelta]] = field(default_factory=dict)

    def check(self, row: Row, fact: Event) -> None:
        """Check against recordedAt, the erasure's trace and the clock; raise FaultError."""
        appended_at, restored_at = row["appended_at"], row["restored_at"]
        if appended_at > self.latest + CLOCK_AHEAD_MAX:
            raise event_fault("appended_at", "it is in the future")
        if restored_at not in {None, appended_at}:
            raise event_fault("restored_at", "it is not when the event was appended again")
        late = appended_at - fact.recorded_at
        if late > STAMPS_APART_MAX and restored_at is None:
            self._note("before", fact.position, late)
        ahead = fact.recorded_at - min(appended_at, self.now)
        if ahead > CLOCK_AHEAD_MAX:
            self._note("after", fact.position, ahead)
        erased_at, traced_at = row["erased_at"], row["traced_at"]
        if erased_at is not None and traced_at is None:
            raise event_fault("erased_at", "the private part is gone, and no erasure was traced")
        if erased_at is None and traced_at is not None:
            raise FaultError("erasure", "position", "the private part is still there")
        if erased_at != traced_at:
            raise event_fault("erased_at", f"the erasure was at {shown(traced_at)}")
        if erased_at is not None and erased_at > self.latest + CLOCK_AHEAD_MAX:
            raise event_fault("erased_at", "it is in the future")

    def _note(self, how: str, position: int, by: timedelta) -> None:
        events, first, furthest = self.apart.get(how, (0, position, by))
        self.apart[how] = (events + 1, first, max(furthest, by))

    def findings(self, account_id: str) -> list[Fault]:
        """Name the events at a wrong time, once for all of the account."""
        return [
            Fault(
                "event",
                "appended_at",
                f"recordedAt of {events} events from here on is up to {furthest} {how} they were "
                "stored: see docs/how-to/verify.md, Events at a wrong time",
                account_id,
                first,
                kind="clock",
            )
            for how, (events, first, furthest) in sorted(self.apart.items())
        ]


class AccountCheck:
    """Checks one account's events in order, with the statement lines of the same positions.

    Of the chain and of the read model the first fault is kept: what follows a wrong row is wrong
    because of it. A broken rule or a wrong stamp leaves the rest to be judged.
    """

    def __init__(
        self,
        account_id: str,
        balance: Row | None,
        reversed_ids: Container[UUID],
        now: datetime,
        latest: datetime,
    ) -> None:
        self.account_id = account_id
        self.faults: list[Fault] = []
        self.counts = Counts()
        self._chain = Chain(account_id)
        self._rules = Rules(reversed_ids)
        self._stamps = Stamps(now, latest)
        self._projection = Projection(self._chain, balance, self.counts, now)
        self._breaches = 0
        self._store_wrong = self._model_wrong = False

    def event(self, row: Row, line: Row | None) -> None:
        """Check the next event row, with its statement line if there is one."""
        self.counts.events += 1
        if self._store_wrong:
            return
        try:
            fact, private = self._chain.check(row)
        except UNCHECKABLE as wrong:
            self._store_wrong = True
            self._found(wrong, row["position"])
            return
        self.counts.erased += private is None
        rules, stamps = partial(self._rules.check, self._chain.account), self._stamps.check
        for check in (rules, partial(stamps, row)):
            try:
                check(fact)
            except UNCHECKABLE as wrong:
                self._breaches += 1
                if self._breaches <= BREACHES_MAX:
                    self._found(wrong, fact.position)
        self._chain.evolve(fact, row["hash"])
        if self._model_wrong:
            return
        try:
            self._projection.check(row, fact, private, line)
        except UNCHECKABLE as wrong:
            self._model_wrong = True
            self._found(wrong, fact.position)

    def line_without_event(self, line: Row) -> None:
        """Report a statement line at whose position there is no event."""
        if not self._model_wrong and not self._store_wrong:
            self._model_wrong = True
            self._found(line_fault("position", NO_EVENT), line["position"])

    def finish(self, stream: Row | None, totals: Sequence[Row]) -> None:
        """Check what is stored of the account as a whole."""
        self.counts.accounts += 1
        self.faults += self._stamps.findings(self.account_id)
        if not self._store_wrong:
            try:
                self._chain.check_stream(stream)
            except UNCHECKABLE as wrong:
                self._store_wrong = True
                self._found(wrong, self._chain.account.position or None)
        if not self._model_wrong and not (self._store_wrong and self._chain.unreadable is None):
            try:
                self._projection.finish(totals)
            except UNCHECKABLE as wrong:
                self._found(wrong, None)

    def _found(self, wrong: Exception, position: int | None) -> None:
        if not isinstance(wrong, FaultError):
            reason = f"it cannot be checked: {type(wrong).__name__}"
            wrong = FaultError("event", "public_text", reason)
        self.faults.append(wrong.fault(self.account_id, position))
