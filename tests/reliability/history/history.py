"""The history that the checker judges: what clients sent and received, and what was finally stored.

Times are seconds of one monotonic clock, that of the process which holds all clients. Amounts are
minor units.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

Kind = Literal["INCOME", "EXPENSE", "LIMIT"]
# A refusal says that nothing was recorded. Unknown: no answer came, or one that promises nothing.
Outcome = Literal["recorded", "refused", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the answer to a recorded request says; a limit's answer too."""

    event_id: str
    position: int
    balance_minor: int
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request to record. Attempts of the same account and key are one intent."""

    client: int
    account_id: str
    key: str
    kind: Kind
    amount_minor: int | None  # of a limit: how far below zero; None lifts it
    invoked_s: float
    completed_s: float | None  # None: no answer came
    outcome: Outcome
    receipt: Receipt | None = None
    said: str = ""  # status and problem, for a person
    reverses: str | None = None  # the transaction that a reversal undoes
    not_found: bool = False  # refused because there is no such transaction to reverse
    named: str | None = None  # the event because of which it was refused
    stated: tuple[int, int | None] | None = None  # position and balance that refused it
    tag: str = ""  # of the state after it, where the answer has one
    expected: str = ""  # the state in which the account had to be: a tag, or a bare position


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a statement."""

    position: int
    event_id: str
    balance_minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A balance that was answered; ``lines`` are those of a statement, newest first."""

    client: int
    account_id: str
    invoked_s: float
    completed_s: float
    position: int
    balance_minor: int
    min_position: int = 0
    lines: tuple[Line, ...] = ()
    tag: str = ""  # of the state that was shown, where the answer has one
    behind: int | None = None  # positions that the answer says it lacks


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRead:
    """A balance as of a moment (RFC 3339) that was answered; ``final``: it will never change."""

    client: int
    account_id: str
    invoked_s: float
    completed_s: float
    moment: str
    final: bool
    position: int
    balance_minor: int


Operation: TypeAlias = Attempt | Read | PastRead


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A time during which the store's clock showed the history's own and ``ahead_s`` (Unix time).

    Where the clock was set, two spans overlap for as long as it took.
    """

    from_s: float
    to_s: float
    ahead_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event as the event store holds it."""

    account_id: str
    position: int
    event_id: str
    kind: Kind
    amount_minor: int | None
    key: str | None
    public_text: str
    hash: str
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """A balance as the read model holds it."""

    account_id: str
    position: int
    balance_minor: int
    blocked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """What is stored after everything has come to rest.

    ``topic`` maps the ids of the topic's records to their public texts; None where it was not read.
    ``clock`` is the event store's during the history; the processes' clocks do not count.
    """

    events: tuple[Event, ...]
    balances: tuple[Balance, ...]
    topic: Mapping[str, str] | None = None
    outbox_rows: int = 0
    retention_s: float = 3_600.0
    clock: tuple[Span, ...] = ()


@dataclass(slots=True)
class History:
    """All operations of all clients, in no particular order."""

    operations: list[Operation] = field(default_factory=list)

    def attempts(self) -> Iterable[Attempt]:
        return (each for each in self.operations if isinstance(each, Attempt))

    def reads(self) -> Iterable[Read]:
        return (each for each in self.operations if isinstance(each, Read))

    def past_reads(self) -> Iterable[PastRead]:
        return (each for each in self.operations if isinstance(each, PastRead))


def write_log(file: Path, history: History, final: Final) -> None:
    """Keep a history and its end as lines of JSON, the end last."""
    lines = [json.dumps({type(each).__name__: asdict(each)}) for each in history.operations]
    lines.append(json.dumps({"Final": asdict(final)}))
    file.write_text("\n".join(lines) + "\n")


def read_log(file: Path) -> tuple[History, Final]:
    """Read what write_log wrote."""
    history = History()
    *lines, last = file.read_text().splitlines()
    for line in lines:
        [(name, members)] = json.loads(line).items()
        history.operations.append(READERS[name](members))
    end = json.loads(last)["Final"]
    end["events"] = tuple(Event(**event) for event in end["events"])
    end["balances"] = tuple(Balance(**balance) for balance in end["balances"])
    end["clock"] = tuple(Span(**span) for span in end["clock"])
    return history, Final(**end)


def _attempt(members: dict[str, Any]) -> Attempt:
    receipt, stated = members.pop("receipt"), members.pop("stated")
    return Attempt(
        receipt=None if receipt is None else Receipt(**receipt),
        stated=None if stated is None else tuple(stated),
        **members,
    )


def _read(members: dict[str, Any]) -> Read:
    lines = tuple(Line(**line) for line in members.pop("lines"))
    return Read(lines=lines, **members)


READERS: dict[str, Callable[[dict[str, Any]], Operation]] = {
    "Attempt": _attempt,
    "Read": _read,
    "PastRead": lambda members: PastRead(**members),
}
