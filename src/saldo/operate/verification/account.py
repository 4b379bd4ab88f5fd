"""One account: its chain, and beside it the rows of the read model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saldo.operate.verification.chain import Chain
from saldo.operate.verification.findings import NO_EVENT, Counts, FaultError, line_fault
from saldo.operate.verification.projection import Projection
from saldo.operate.verification.rules import Rules
from saldo.operate.verification.stamps import Stamps

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from datetime import datetime
    from uuid import UUID

    from saldo.operate.verification.findings import Fault, Row

# Of rules that were broken and of stamps, so many an account are kept: one may bring many with it.
BREACHES_MAX = 5
# One account's values must not end the verification of the others.
UNCHECKABLE = (FaultError, ArithmeticError, RecursionError)


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
        try:
            self._rules.check(self._chain.account, fact)
        except UNCHECKABLE as wrong:
            self._breach(wrong, fact.position)
        try:
            self._stamps.check(row, fact)
        except UNCHECKABLE as wrong:
            self._breach(wrong, fact.position)
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

    def _breach(self, wrong: Exception, position: int) -> None:
        self._breaches += 1
        if self._breaches <= BREACHES_MAX:
            self._found(wrong, position)

    def _found(self, wrong: Exception, position: int | None) -> None:
        if not isinstance(wrong, FaultError):
            reason = f"it cannot be checked: {type(wrong).__name__}"
            wrong = FaultError("event", "public_text", reason)
        self.faults.append(wrong.fault(self.account_id, position))
