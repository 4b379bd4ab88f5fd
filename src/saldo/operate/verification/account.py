"""One account: its chain, and beside it the rows of the read model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from saldo.operate.verification.chain import Chain
from saldo.operate.verification.findings import NO_EVENT, Counts, FaultError
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


@dataclass(slots=True)
class AccountCheck:
    """Walks one account's events in order, beside the rows of the same positions.

    Of the chain and of the read model the first fault is kept: what follows a wrong row is wrong
    because of it. A broken rule or a wrong stamp leaves the rest to be judged.
    """

    account_id: str
    balance: Row | None
    now: datetime
    latest: datetime
    reversed_ids: Container[UUID] = ()
    faults: list[Fault] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    chain: Chain = field(init=False)
    rules: Rules = field(init=False)
    projection: Projection = field(init=False)
    breaches: int = 0
    stamps: Stamps = field(init=False)
    store_wrong: bool = False
    model_wrong: bool = False

    def __post_init__(self) -> None:
        self.chain = Chain(self.account_id)
        self.rules = Rules(self.reversed_ids)
        self.stamps = Stamps(self.now, self.latest)
        self.projection = Projection(self.chain, self.balance, self.counts, self.now)

    def event(self, row: Row, line: Row | None, erasure: Row | None) -> None:
        """Check the next event row, with its statement line and its erasure if there are any."""
        self.counts.events += 1
        if self.store_wrong:
            return
        try:
            fact, private = self.chain.check(row)
        except UNCHECKABLE as wrong:
            self.store_wrong = True
            self._found(wrong, row["position"])
            return
        self.counts.erased += private is None
        try:
            self.rules.check(self.chain, fact)
        except UNCHECKABLE as wrong:
            self._breach(wrong, fact.position)
        try:
            self.stamps.check(row, fact, erasure)
        except UNCHECKABLE as wrong:
            self._breach(wrong, fact.position)
        self.chain.evolve(fact, row["hash"])
        if self.model_wrong:
            return
        try:
            self.projection.check(row, fact, private, line)
        except UNCHECKABLE as wrong:
            self.model_wrong = True
            self._found(wrong, fact.position)

    def line_without_event(self, line: Row) -> None:
        """Report a statement line at whose position there is no event."""
        if not self.model_wrong and not self.store_wrong:
            self.model_wrong = True
            wrong = FaultError("statement", "position", NO_EVENT)
            self._found(wrong, line["position"])

    def finish(self, stream: Row | None, totals: Sequence[Row]) -> None:
        """Check what is stored of the account as a whole."""
        self.counts.accounts += 1
        self.faults += self.stamps.findings(self.account_id)
        if not self.store_wrong:
            try:
                self.chain.check_stream(stream)
            except UNCHECKABLE as wrong:
                self.store_wrong = True
                self._found(wrong, self.chain.position or None)
        if not self.model_wrong and not (self.store_wrong and self.chain.unreadable is None):
            try:
                self.projection.finish(totals)
            except UNCHECKABLE as wrong:
                self.model_wrong = True
                self._found(wrong, None)

    def _breach(self, wrong: Exception, position: int) -> None:
        self.breaches += 1
        if self.breaches <= BREACHES_MAX:
            self._found(wrong, position)

    def _found(self, wrong: Exception, position: int | None) -> None:
        if not isinstance(wrong, FaultError):
            wrong = FaultError(
                "event", "public_text", f"it cannot be checked: {type(wrong).__name__}"
            )
        self.faults.append(wrong.fault(self.account_id, position))
