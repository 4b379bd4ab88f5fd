"""Verifying one account: its chain, its stream's state, and its part of the read model.

Pure: rows come in, faults come out. What an event adds up to is derived here anew, not by the
projector's fold, so that a mistake of the one is seen by the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from saldo.domain.errors import Unreadable
from saldo.domain.events import (
    SCHEMA_NEWEST,
    OverdraftLimitSet,
    TransactionRecorded,
    chain_hash,
    genesis_hash,
    private_hash,
    read_event,
    request_hash,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date
    from uuid import UUID

    from saldo.domain.events import Event

# The clocks of the recorder, which stamps recorded_at, and of the database, which stamps
# appended_at, may differ by so much. An event is stamped by the database last.
CLOCK_SKEW_MAX = timedelta(hours=1)
# The projector erases its copy by the record's second delivery, or by the next sweep.
ERASURE_PENDING_MAX = timedelta(minutes=10)
# Version 1 did not bind the idempotency columns; see the upcaster.
UNBOUND_SCHEMA = '{"schema":1,'


class Row(Protocol):
    """A row by the names of its columns: the database's, or one read from a file."""

    def __getitem__(self, name: str, /) -> Any:  # noqa: ANN401 - columns differ in type
        """One column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something stored that is not what it must be."""

    table: str
    column: str
    reason: str
    account_id: str | None = None
    position: int | None = None

    def text(self) -> str:
        """One line for a person."""
        where = "" if self.account_id is None else f"{self.account_id}"
        if self.position is not None:
            where += f" position {self.position}"
        return f"{where or '-'}: {self.table}.{self.column}: {self.reason}"


@dataclass(slots=True)
class Counts:
    """What was walked, and what is no fault but worth knowing."""

    accounts: int = 0
    events: int = 0
    lines: int = 0
    erased: int = 0
    lagging_accounts: int = 0
    lagging_positions: int = 0
    blocked_accounts: int = 0
    erasures_pending: int = 0

    def add(self, other: Counts) -> None:
        """Add another range's counts."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class _Day:
    income_minor: int = 0
    expense_minor: int = 0
    transactions: int = 0


class Wrong(Exception):  # noqa: N818 - it is what the row is
    """A row is wrong; the rest of its account cannot be judged on that side."""

    def __init__(self, table: str, column: str, reason: str) -> None:
        super().__init__(table, column, reason)
        self.table = table
        self.column = column
        self.reason = reason


@dataclass(slots=True)
class AccountCheck:
    """Walks one account's events in order, beside the statement lines that stand for them.

    The first fault of each side is kept: what follows a wrong row is wrong because of it.
    """

    account_id: str
    balance: Row | None
    now: datetime
    faults: list[Fault] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    position: int = 0
    balance_minor: int = 0
    currency: str | None = None
    limit_minor: int | None = None
    recorded_at: datetime | None = None
    hash: bytes = b""
    store_wrong: bool = False
    model_wrong: bool = False
    # The read model's standing, and what its rows claim and ought to claim of reversals.
    projected: int = 0
    unreadable: str | None = None
    days: dict[date, _Day] = field(default_factory=dict)
    reversed_by: dict[UUID, UUID] = field(default_factory=dict)
    claimed: dict[UUID, tuple[int, UUID]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hash = genesis_hash(self.account_id) if self.account_id.isascii() else b""
        self.projected = 0 if self.balance is None else self.balance["position"]

    def event(self, row: Row, line: Row | None) -> None:
        """Check the next event row, and the statement line of the same position if there is one."""
        self.counts.events += 1
        if self.store_wrong:
            return
        try:
            fact, private = self._check_event(row)
        except Wrong as wrong:
            self.store_wrong = True
            self._fault(wrong, row["position"])
            return
        self._evolve(fact, row["hash"])
        if self.model_wrong:
            return
        try:
            self._check_model(row, fact, private, line)
        except Wrong as wrong:
            self.model_wrong = True
            self._fault(wrong, self.position)

    def line_without_event(self, line: Row) -> None:
        """A statement line at whose position there is no event."""
        if not self.model_wrong and not self.store_wrong:
            self.model_wrong = True
            wrong = Wrong("statement", "position", "the store has no such event")
            self._fault(wrong, line["position"])

    def finish(self, stream: Row | None, totals: Sequence[Row]) -> None:
        """Check what is stored of the account as a whole."""
        self.counts.accounts += 1
        if not self.store_wrong:
            try:
                self._check_stream(stream)
            except Wrong as wrong:
                self.store_wrong = True
                self._fault(wrong, self.position or None)
        if not self.model_wrong and not (self.store_wrong and self.unreadable is None):
            try:
                self._check_balance()
                self._check_reversals()
                self._check_days(totals)
            except Wrong as wrong:
                self.model_wrong = True
                self._fault(wrong, None)

    def _fault(self, wrong: Wrong, position: int | None) -> None:
        self.faults.append(
            Fault(
                account_id=self.account_id,
                position=position,
                table=wrong.table,
                column=wrong.column,
                reason=wrong.reason,
            )
        )

    # -- the event store ---------------------------------------------------------------------

    def _check_event(self, row: Row) -> tuple[Event, dict[str, Any] | None]:
        position, text = row["position"], row["public_text"]
        if position != self.position + 1:
            reason = f"position {self.position + 1} is missing, the next is {position}"
            raise Wrong("event", "position", reason)
        if chain_hash(self.hash, text) != row["hash"]:
            reason = "the hash does not follow from the one before it and public_text"
            raise Wrong("event", "hash", reason)
        try:
            fact = read_event(text)
        except Unreadable as unreadable:
            self.unreadable = unreadable.reason
            raise Wrong("event", "public_text", unreadable.reason) from unreadable
        if fact.account_id != self.account_id:
            raise Wrong("event", "account_id", "public_text is of another account")
        if fact.position != position:
            raise Wrong("event", "position", "public_text is of another position")
        if fact.event_id != row["event_id"]:
            raise Wrong("event", "event_id", "it is not the id in public_text")
        reverses = fact.reverses if isinstance(fact, TransactionRecorded) else None
        if reverses != row["reverses"]:
            raise Wrong("event", "reverses", "it is not what public_text reverses")
        self._check_course(row, fact)
        self._check_times(row, fact)
        private = self._check_private(row, fact)
        _check_request(row, fact, private)
        return fact, private

    def _check_course(self, row: Row, fact: Event) -> None:
        """What must go on from the event before."""
        if self.recorded_at is not None and fact.recorded_at < self.recorded_at:
            raise Wrong("event", "public_text", "recordedAt goes back")
        if self.currency is not None and fact.currency != self.currency:
            raise Wrong("event", "public_text", "the currency changes")
        signed_minor = fact.signed_minor if isinstance(fact, TransactionRecorded) else 0
        if row["balance_minor"] != self.balance_minor + signed_minor:
            reason = f"the events come to {self.balance_minor + signed_minor}"
            raise Wrong("event", "balance_minor", reason)

    def _check_times(self, row: Row, fact: Event) -> None:
        appended_at = row["appended_at"]
        if not (fact.recorded_at - CLOCK_SKEW_MAX <= appended_at <= self.now + CLOCK_SKEW_MAX):
            raise Wrong("event", "appended_at", "it is before recordedAt, or in the future")
        erased_at = row["erased_at"]
        if erased_at is not None and not (
            fact.recorded_at - CLOCK_SKEW_MAX <= erased_at <= self.now + CLOCK_SKEW_MAX
        ):
            raise Wrong("event", "erased_at", "it is before recordedAt, or in the future")

    def _check_private(self, row: Row, fact: Event) -> dict[str, Any] | None:
        text, erased_at = row["private_text"], row["erased_at"]
        if text is None:
            if erased_at is None:
                reason = "the private part is gone, and was not erased"
                raise Wrong("event", "private_text", reason)
            self.counts.erased += 1
            return None
        if erased_at is not None:
            reason = "it says erased, and the private part is there"
            raise Wrong("event", "erased_at", reason)
        try:
            members: dict[str, Any] = msgspec.json.decode(text)
            proof = private_hash(bytes.fromhex(members["salt"]), text)
        except (msgspec.DecodeError, ValueError, KeyError, TypeError, AttributeError):
            proof = ""
            members = {}
        if proof != fact.private_hash:
            reason = "its hash is not privateHash of public_text"
            raise Wrong("event", "private_text", reason)
        return members

    def _evolve(self, fact: Event, event_hash: bytes) -> None:
        self.position = fact.position
        self.hash = event_hash
        self.currency = fact.currency
        self.recorded_at = fact.recorded_at
        if isinstance(fact, OverdraftLimitSet):
            self.limit_minor = fact.limit_minor
        else:
            self.balance_minor += fact.signed_minor

    def _check_stream(self, stream: Row | None) -> None:
        if stream is None:
            raise Wrong("stream", "account_id", "the account has no row")
        expected = {
            "position": self.position,
            "balance_minor": self.balance_minor,
            "currency": self.currency,
            "overdraft_limit_minor": self.limit_minor,
            "hash": self.hash if self.position else None,
            "recorded_at": self.recorded_at,
        }
        for column, value in expected.items():
            if stream[column] != value:
                reason = f"it is {_shown(stream[column])}, the events come to {_shown(value)}"
                raise Wrong("stream", column, reason)

    # -- the read model ----------------------------------------------------------------------

    def _check_model(
        self,
        row: Row,
        fact: Event,
        private: dict[str, Any] | None,
        line: Row | None,
    ) -> None:
        if self.position > self.projected:
            if line is not None:
                reason = f"the balance stands at {self.projected}"
                raise Wrong("statement", "position", reason)
            return
        if line is None:
            raise Wrong("statement", "position", "the line is missing")
        self.counts.lines += 1
        self._check_line(fact, line)
        if line["reversed_by"] is not None:
            self.claimed[fact.event_id] = (self.position, line["reversed_by"])
        self._check_copy(row, private, line)
        if self.position == self.projected and self.balance is not None:
            self._check_standing(self.balance)

    def _check_line(self, fact: Event, line: Row) -> None:
        if isinstance(fact, OverdraftLimitSet):
            kind, amount_minor = "LIMIT", None
            occurred_at, reverses = fact.recorded_at, None
        else:
            kind, amount_minor = fact.kind.value, fact.amount_minor
            occurred_at, reverses = fact.occurred_at, fact.reverses
            day = self.days.setdefault(occurred_at.date(), _Day())
            day.transactions += 1
            if kind == "INCOME":
                day.income_minor += amount_minor
            else:
                day.expense_minor += amount_minor
            if reverses is not None:
                self.reversed_by[reverses] = fact.event_id
        # In the order of the columns that LINES selects.
        expected: tuple[object, ...] = (
            fact.event_id,
            kind,
            amount_minor,
            fact.currency,
            self.balance_minor,
            occurred_at,
            fact.recorded_at,
            reverses,
            self.hash,
        )
        found = tuple(line[column] for column in LINE_COLUMNS)
        if found != expected:
            for column, is_, must in zip(LINE_COLUMNS, found, expected, strict=True):
                if is_ != must:
                    reason = f"it is {_shown(is_)}, the event says {_shown(must)}"
                    raise Wrong("statement", column, reason)

    def _check_copy(
        self,
        row: Row,
        private: dict[str, Any] | None,
        line: Row,
    ) -> None:
        description, metadata = line["description"], line["metadata"]
        if private is None:
            if description is None and metadata is None:
                return
            if row["erased_at"] < self.now - ERASURE_PENDING_MAX:
                column = "metadata" if description is None else "description"
                raise Wrong("statement", column, "the private part was erased")
            self.counts.erasures_pending += 1
            return
        if description != private.get("description"):
            raise Wrong("statement", "description", "it is not the private part's")
        if (None if metadata is None else msgspec.json.decode(metadata)) != (
            private.get("metadata") or None
        ):
            raise Wrong("statement", "metadata", "it is not the private part's")

    def _check_standing(self, balance: Row) -> None:
        """The balance, at the position where it stands."""
        expected = {
            "hash": self.hash,
            "balance_minor": self.balance_minor,
            "currency": self.currency,
            "recorded_at": self.recorded_at,
        }
        for column, value in expected.items():
            if balance[column] != value:
                reason = f"it is {_shown(balance[column])}, the events come to {_shown(value)}"
                raise Wrong("balance", column, reason)

    def _check_balance(self) -> None:
        balance = self.balance
        if self.projected > self.position:
            reason = f"it is {self.projected}, the store ends at {self.position}"
            raise Wrong("balance", "position", reason)
        if balance is None:
            if self.position:
                self.counts.lagging_accounts += 1
                self.counts.lagging_positions += self.position
            return
        blocked = [
            name
            for name in ("blocked_at", "blocked_reason", "blocked_schema")
            if balance[name] is not None
        ]
        if blocked:
            self._check_block(balance, blocked)
            self.counts.blocked_accounts += 1
        elif self.projected == 0:
            raise Wrong("balance", "position", "a balance at position 0")
        elif self.projected < self.position:
            self.counts.lagging_accounts += 1
            self.counts.lagging_positions += self.position - self.projected

    def _check_block(self, balance: Row, blocked: list[str]) -> None:
        if len(blocked) < 3:  # noqa: PLR2004 - the three columns
            raise Wrong("balance", blocked[0], "a block has a time, a reason and a schema")
        if not 1 <= balance["blocked_schema"] <= SCHEMA_NEWEST:
            reason = f"this version knows schemas up to {SCHEMA_NEWEST}"
            raise Wrong("balance", "blocked_schema", reason)
        if balance["blocked_at"] > self.now + CLOCK_SKEW_MAX:
            raise Wrong("balance", "blocked_at", "it is in the future")
        if balance["blocked_schema"] < SCHEMA_NEWEST:
            return  # the next delivery tries again
        if self.unreadable is None:
            reason = "nothing keeps the account from being projected: redrive it"
            raise Wrong("balance", "blocked_reason", reason)
        if balance["blocked_reason"] != self.unreadable:
            reason = f"the event at which the account stands says: {self.unreadable}"
            raise Wrong("balance", "blocked_reason", reason)

    def _check_reversals(self) -> None:
        for event_id, (position, reversal) in self.claimed.items():
            if self.reversed_by.get(event_id) != reversal:
                reason = f"no event that is projected reverses it (position {position})"
                raise Wrong("statement", "reversed_by", reason)
        for event_id in self.reversed_by:
            if event_id not in self.claimed:
                reason = f"the line of {event_id} does not say that it was reversed"
                raise Wrong("statement", "reversed_by", reason)

    def _check_days(self, totals: Sequence[Row]) -> None:
        found = {row["day"]: row for row in totals}
        for day in sorted(found.keys() | self.days.keys()):
            row, expected = found.get(day), self.days.get(day)
            if row is None:
                raise Wrong("daily_total", "day", f"the row of {day} is missing")
            if expected is None:
                raise Wrong("daily_total", "day", f"nothing occurred on {day}")
            for column in ("income_minor", "expense_minor", "transactions"):
                if row[column] != getattr(expected, column):
                    reason = (
                        f"on {day} it is {row[column]}, "
                        f"the events come to {getattr(expected, column)}"
                    )
                    raise Wrong("daily_total", column, reason)


LINE_COLUMNS = (
    "event_id",
    "kind",
    "amount_minor",
    "currency",
    "balance_minor",
    "occurred_at",
    "recorded_at",
    "reverses",
    "hash",
)


def _check_request(row: Row, fact: Event, private: dict[str, Any] | None) -> None:
    """The idempotency columns, which public_text proves since version 2."""
    key_hash, key_line, fingerprint = row["key_hash"], row["key_line"], row["fingerprint"]
    given = [v is not None for v in (key_hash, key_line, fingerprint)]
    if any(given) and not all(given):
        raise Wrong("event", "key_hash", "key_hash, key_line and fingerprint belong together")
    if row["public_text"].startswith(UNBOUND_SCHEMA):
        stated = None if private is None else private.get("fingerprint")
        if stated is not None and stated != (fingerprint or b"").hex():
            raise Wrong("event", "fingerprint", "it is not the private part's")
        return
    proof = None
    if key_hash is not None:
        if not 0 <= key_line < 2**31:
            raise Wrong("event", "key_line", "it is not a line's number")
        proof = request_hash(key_hash, key_line, fingerprint)
    if proof != fact.request_hash:
        reason = "key_hash, key_line and fingerprint do not come to requestHash of public_text"
        raise Wrong("event", "key_hash", reason)


def _shown(value: object) -> str:
    """A value for the report, without its type's ceremony."""
    if isinstance(value, bytes):
        return value.hex()[:16] + "..."
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return str(value)
