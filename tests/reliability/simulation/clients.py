"""The simulated clients: they record, retry, reverse, read, and log what they saw."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from msgspec.structs import replace

from saldo.domain.commands import Kind, ReverseTransaction
from saldo.domain.errors import AlreadyReversed, InsufficientFunds, PositionConflict, Refused
from saldo.domain.tag import Tag
from saldo.record.errors import OutcomeUnknown
from saldo.record.intent import Intent, Origin, prepare_line, prepare_lines
from tests.reliability.history.history import Attempt, Line, PastRead, Read, Receipt
from tests.reliability.simulation.world import NoAnswer
from tests.support.controls import SECRET, expense, income, limit

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from saldo.domain.commands import Command
    from saldo.record.intent import Recorded
    from tests.reliability.history.history import History, Outcome
    from tests.reliability.history.history import Kind as HistoryKind
    from tests.reliability.simulation.read_model import ReadModel
    from tests.reliability.simulation.sides import Recorder
    from tests.reliability.simulation.world import World

ACCOUNTS = ("hot", "ana", "bia", "cleo")
ACCOUNT_WEIGHTS = (6, 3, 2, 1)
REQUESTS_MIN = 3
REQUESTS_MAX = 11
TRIES_MAX = 6
ANSWER_WAIT_S = 12.0
PAUSE_S = 1.2
# Requests without a key: nothing but the recorder's own care keeps them from being recorded twice.
UNKEYED = 0.25
# Requests that arrive together and depend on one another.
TOGETHER = 0.25


@dataclass(frozen=True, slots=True)
class Asked:
    """What one line of a request wants, in the words of the history."""

    command: Command
    kind: HistoryKind
    amount_minor: int | None
    reverses: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request. The checks know it by ``name``, or each of its lines by its own key."""

    asked: tuple[Asked, ...]
    name: str
    key: str | None
    line_keys: tuple[str, ...] = ()
    expected: int | None = None

    def names(self) -> tuple[str, ...]:
        """Return the name of each line."""
        return self.line_keys or (self.name,) * len(self.asked)


Answer: TypeAlias = "list[Recorded] | Exception"


def _origin(subject: str, key: str | None) -> Origin:
    return Origin(
        secret=SECRET, issuer="https://issuer.example", subject=subject, idempotency_key=key
    )


@dataclass(slots=True)
class Client:
    """One client, and the transactions it may still reverse."""

    number: int
    world: World
    recorder: Callable[[], Recorder | None]
    model: ReadModel
    written: set[UUID]
    history: History
    bulks: dict[str, int]
    reversible: list[tuple[Receipt, str, int]] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)

    async def run(self) -> None:
        """Make the requests, one after another, each until its outcome is known."""
        chance = self.world.chance
        for number in range(chance.randrange(REQUESTS_MIN, REQUESTS_MAX + 1)):
            await asyncio.sleep(chance.random() * PAUSE_S)
            if chance.random() < 1 / 3:
                self._read()
            name = f"c{self.number}-{number}"
            if chance.random() < TOGETHER:
                await self._insist(self._dependent(name))
                continue
            asked = self._draw()
            if len(asked) > 1:
                self.bulks[name] = len(asked)
            key = None if chance.random() < UNKEYED else name
            expected = None
            if key is not None and len(asked) == 1 and chance.random() < 0.1:
                expected = chance.randrange(8)
            await self._insist([Request(asked=asked, name=name, key=key, expected=expected)])
        self._read()

    # --- what is asked for --------------------------------------------------------------------

    def _draw(self) -> tuple[Asked, ...]:
        chance = self.world.chance
        draw = chance.random()
        if draw < 0.12 and self.reversible:
            _, undo = self._reversal()
            return (undo,)
        if draw < 0.22:
            return (self._limit(self._account()),)
        if draw < 0.4:
            accounts = list(ACCOUNTS)
            chance.shuffle(accounts)
            return tuple(self._transaction(each) for each in accounts[: chance.randrange(2, 4)])
        return (self._transaction(self._account()),)

    def _dependent(self, name: str) -> list[Request]:
        """Return concurrent requests on one account, where each may decide the next."""
        chance = self.world.chance
        account_id, undo = self._account(), None
        if self.reversible and chance.random() < 1 / 2:
            account_id, undo = self._reversal()
        first = self._transaction(account_id)
        requests = [Request(asked=(first,), name=name, key=name)] * 2
        other = first
        while other.command == first.command:  # or it is no other request under that key
            other = self._transaction(account_id)
        requests.append(Request(asked=(other,), name=f"{name}-reuse", key=name))
        lines = (first, self._transaction(self._account()), self._transaction(account_id))
        line_keys = (name, f"{name}-other", f"{name}-third")
        requests.append(Request(asked=lines, name=f"{name}-bulk", key=None, line_keys=line_keys))
        moved = self.seen.get(account_id, 0) + chance.randrange(3)
        matched = self._transaction(account_id)
        requests.append(
            Request(asked=(matched,), name=f"{name}-match", key=f"{name}-match", expected=moved)
        )
        for ending, asked in (("limit", self._limit(account_id)), ("once", other)):
            key = f"{name}-{ending}"
            requests.append(Request(asked=(asked,), name=key, key=key))
        if undo is not None:
            for ending in ("undo", "undo-too"):
                key = f"{name}-{ending}"
                requests.append(Request(asked=(undo,), name=key, key=key))
        chance.shuffle(requests)
        return requests[: chance.randrange(2, len(requests) + 1)]

    def _account(self) -> str:
        return self.world.chance.choices(ACCOUNTS, ACCOUNT_WEIGHTS)[0]

    def _transaction(self, account_id: str) -> Asked:
        minor = self.world.chance.randrange(1, 5_000)
        value = f"{minor // 100}.{minor % 100:02d}"
        if self.world.chance.random() < 1 / 3:
            return Asked(expense(value, account_id), "EXPENSE", minor)
        return Asked(income(value, account_id), "INCOME", minor)

    def _limit(self, account_id: str) -> Asked:
        minor = self.world.chance.randrange(50) * 100
        return Asked(limit(f"{minor // 100}", account_id), "LIMIT", minor)

    def _reversal(self) -> tuple[str, Asked]:
        """Return a reversal of the oldest known transaction without one, and its account."""
        receipt, account_id, amount_minor = self.reversible.pop(0)
        undo = ReverseTransaction(
            account_id=account_id,
            original_id=UUID(receipt.event_id),
            original_kind=Kind.INCOME,
            original_amount_minor=amount_minor,
            original_reverses=None,
        )
        return account_id, Asked(undo, "EXPENSE", amount_minor, receipt.event_id)

    # --- recording ----------------------------------------------------------------------------

    async def _insist(self, requests: list[Request]) -> None:
        """Send them together until each has its outcome, with the same keys; sometimes twice."""
        world = self.world
        for _ in range(TRIES_MAX):
            keyed = [each for each in requests if each.key is not None or each.line_keys]
            if world.chance.random() < 0.1 and keyed:
                world.note("sent-twice")
                first = world.loop.create_task(self._attempt(keyed))
                open_ = await self._attempt(requests)
                await first
            else:
                open_ = await self._attempt(requests)
            # Without a key it may not be sent again.
            requests = [each for each in open_ if each in keyed]
            if not requests:
                return
            world.note("asked-again")
            await asyncio.sleep(world.chance.random() * PAUSE_S)
        world.note("given-up")

    async def _attempt(self, requests: list[Request]) -> list[Request]:
        """Send the requests at the same moment; those whose outcome is not known for good."""
        world = self.world
        invoked_s = world.loop.time()
        intents = [self._intent(each) for each in requests]
        recorder = self.recorder()
        if recorder is None:  # none was ever started
            return requests
        answers: list[Answer]
        try:
            answers = await world.call(
                recorder.process, lambda: recorder.record(intents), ANSWER_WAIT_S
            )
        except NoAnswer as error:
            answers = [error] * len(requests)
        unknown = [each for each in answers if isinstance(each, OutcomeUnknown)]
        if unknown and len(requests) > 1:
            world.note("in-doubt-together")
        for each in unknown:
            if each.transaction_id not in self.written:
                world.note("unknown-names-no-event", each.transaction_id)
        open_ = []
        for request, answer in zip(requests, answers, strict=True):
            self._log(request, invoked_s, answer)
            if isinstance(answer, Exception) and not isinstance(answer, Refused):
                open_.append(request)
        return open_

    def _intent(self, request: Request) -> Intent:
        chance = self.world.chance
        commands = [each.command for each in request.asked]
        if request.line_keys or len(commands) == 1:
            # The checks know it by the subject where it has no key.
            lines = tuple(
                prepare_line(
                    command,
                    _origin(name, name if request.line_keys else request.key),
                    random=chance.randbytes,
                )
                for command, name in zip(commands, request.names(), strict=True)
            )
        else:
            lines = prepare_lines(
                [(command, None) for command in commands],
                _origin(request.name, request.key),
                random=chance.randbytes,
            )
        # Their own ids tell the time of this machine, which a seed does not know.
        lines = tuple(replace(line, event_id=UUID(int=chance.getrandbits(128))) for line in lines)
        expected = None if request.expected is None else Tag(request.expected)
        return Intent(lines=lines, is_bulk=len(lines) > 1, expected=expected)

    def _log(self, request: Request, invoked_s: float, answer: Answer) -> None:
        said = type(answer).__name__ if isinstance(answer, Exception) else "201"
        outcome: Outcome = "recorded"
        if isinstance(answer, (OutcomeUnknown, NoAnswer)):
            outcome = "unknown"
        elif isinstance(answer, Exception):  # a refusal, or that nothing was recorded
            outcome = "refused"
        self.world.note(f"answered-{outcome}", f"{request.name} {said}")
        for number, (each, name) in enumerate(zip(request.asked, request.names(), strict=True)):
            receipt = named = None
            stated: tuple[int, int | None] | None = None
            if isinstance(answer, AlreadyReversed):
                named = str(answer.reversed_by)
            elif isinstance(answer, PositionConflict):
                stated = (answer.actual, None)
            elif isinstance(answer, InsufficientFunds):
                stated = (answer.position, answer.balance_minor)
            elif not isinstance(answer, Exception):
                receipt = self._receipt(each, answer[number])
            self.history.operations.append(
                Attempt(
                    client=self.number,
                    account_id=each.command.account_id,
                    key=name,
                    kind=each.kind,
                    amount_minor=each.amount_minor,
                    invoked_s=invoked_s,
                    completed_s=None if said == "NoAnswer" else self.world.loop.time(),
                    outcome=outcome,
                    receipt=receipt,
                    said=said,
                    reverses=each.reverses,
                    named=named,
                    stated=stated,
                )
            )

    def _receipt(self, asked: Asked, recorded: Recorded) -> Receipt:
        stored = recorded.stored
        self.world.counts["replayed"] += recorded.replayed
        receipt = Receipt(
            event_id=str(stored.event_id),
            position=stored.position,
            balance_minor=stored.balance_minor,
            hash=stored.hash.hex(),
        )
        if asked.kind == "INCOME":
            self.reversible.append((receipt, stored.account_id, asked.amount_minor or 0))
        seen = self.seen.get(stored.account_id, 0)
        self.seen[stored.account_id] = max(seen, stored.position)
        return receipt

    # --- reading ------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read one account's balance and its last lines, as committed at this moment."""
        account_id = self._account()
        balance = self.model.balances.get(account_id)
        if balance is None:
            return
        self.world.note("read", f"{account_id} {balance.position}")
        written: dict[int, Any] = self.model.lines.get(account_id, {})
        self._read_past(account_id, [line.recorded_at for line in written.values()])
        newest = sorted(written, reverse=True)[:5]
        now_s = self.world.loop.time()
        self.history.operations.append(
            Read(
                client=self.number,
                account_id=account_id,
                invoked_s=now_s,
                completed_s=now_s,
                position=balance.position,
                balance_minor=balance.balance_minor,
                lines=tuple(
                    Line(
                        position=position,
                        event_id=str(written[position].event_id),
                        balance_minor=written[position].balance_minor,
                    )
                    for position in newest
                    if written[position].kind != "LIMIT"
                ),
            )
        )

    def _read_past(self, account_id: str, times: list[datetime]) -> None:
        """Read a balance as of the time of one of the lines, or of a moment about now."""
        chance = self.world.chance
        moment = self.world.database_now() - timedelta(seconds=chance.random() * 20)
        if chance.random() < 1 / 2:
            moment = chance.choice(times)
        position, balance_minor, final = self.model.as_of(account_id, moment)
        self.world.note("final" if final else "not-final", f"{account_id} {position}")
        now_s = self.world.loop.time()
        self.history.operations.append(
            PastRead(
                client=self.number,
                account_id=account_id,
                invoked_s=now_s,
                completed_s=now_s,
                moment=moment.isoformat(),
                final=final,
                position=position,
                balance_minor=balance_minor,
            )
        )
