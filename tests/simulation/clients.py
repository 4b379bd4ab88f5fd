"""Simulated clients: they record, retry with the same key, reverse, read, and log what they saw."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from msgspec.structs import replace

from saldo.domain.commands import Kind, ReverseTransaction
from saldo.domain.errors import Refused
from saldo.record.batch import OutcomeUnknown
from saldo.record.event_store import StoreBusy, StoreUnavailable
from saldo.record.intent import RANDOM_BYTES, Intent, prepare_lines
from saldo.serve.group_commit import QueueFull
from tests.controls import SECRET, expense, income, limit
from tests.history.history import Attempt, Line, Read, Receipt
from tests.simulation.world import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from saldo.domain.commands import Command
    from saldo.record.intent import Recorded
    from tests.history.history import History, Outcome
    from tests.history.history import Kind as HistoryKind
    from tests.simulation.read_model import ReadModel
    from tests.simulation.sides import Recorder
    from tests.simulation.world import World

ACCOUNTS = ("hot", "ana", "bia", "cleo")
ACCOUNT_WEIGHTS = (6, 3, 2, 1)
REQUESTS_MIN = 3
REQUESTS_MAX = 11
TRIES_MAX = 6
ANSWER_WAIT_S = 12.0
PAUSE_S = 1.2
# Requests without a key: nothing but the recorder's own care keeps them from being recorded twice.
UNKEYED = 0.25


@dataclass(frozen=True, slots=True)
class Asked:
    """What one line of a request wants, in the words of the history."""

    command: Command
    kind: HistoryKind
    amount_minor: int | None


@dataclass(slots=True)
class Client:
    """One client, and the transactions it may still reverse."""

    number: int
    world: World
    recorder: Callable[[], Recorder | None]
    model: ReadModel
    history: History
    bulks: dict[str, int]
    reversible: list[tuple[Receipt, str, int]] = field(default_factory=list)
    bit: int = 0

    async def run(self) -> None:
        """Make the requests, one after another, each until its outcome is known."""
        chance = self.world.chance
        for number in range(chance.randrange(REQUESTS_MIN, REQUESTS_MAX + 1)):
            await asyncio.sleep(chance.random() * PAUSE_S)
            if chance.random() < 1 / 3:
                self._read()
            asked = self._draw()
            key = f"c{self.number}-{number}"
            if len(asked) > 1:
                self.bulks[key] = len(asked)
            if chance.random() < UNKEYED:
                await self._attempt(asked, key, None, keyed=False)
            else:
                await self._insist(asked, key)
        self._read()

    # --- recording ----------------------------------------------------------------------------

    def _draw(self) -> list[Asked]:
        chance = self.world.chance
        draw = chance.random()
        if draw < 0.12 and self.reversible:
            receipt, account_id, amount_minor = self.reversible.pop(0)
            undo = ReverseTransaction(
                account_id=account_id,
                original_id=UUID(receipt.event_id),
                original_kind=Kind.INCOME,
                original_amount_minor=amount_minor,
                original_reverses=None,
            )
            return [Asked(undo, "EXPENSE", amount_minor)]
        if draw < 0.22:
            account_id = self._account()
            minor = chance.randrange(50) * 100
            return [Asked(limit(f"{minor // 100}", account_id), "LIMIT", minor)]
        if draw < 0.4:
            accounts = list(ACCOUNTS)
            chance.shuffle(accounts)
            return [self._transaction(each) for each in accounts[: chance.randrange(2, 4)]]
        return [self._transaction(self._account())]

    def _account(self) -> str:
        return self.world.chance.choices(ACCOUNTS, ACCOUNT_WEIGHTS)[0]

    def _transaction(self, account_id: str) -> Asked:
        minor = self.world.chance.randrange(1, 5_000)
        value = f"{minor // 100}.{minor % 100:02d}"
        if self.world.chance.random() < 1 / 3:
            return Asked(expense(value, account_id), "EXPENSE", minor)
        return Asked(income(value, account_id), "INCOME", minor)

    async def _insist(self, asked: list[Asked], key: str) -> None:
        """Send the request until it is answered, with the same key; sometimes twice at once."""
        world = self.world
        expected = world.chance.randrange(8) if world.chance.random() < 0.1 else None
        if len(asked) > 1:
            expected = None
        for _ in range(TRIES_MAX):
            if world.chance.random() < 0.1:
                world.note("sent-twice")
                first = world.loop.create_task(self._attempt(asked, key, expected))
                again = await self._attempt(asked, key, expected)
                known = await first or again
            else:
                known = await self._attempt(asked, key, expected)
            if known:
                return
            world.note("asked-again")
            await asyncio.sleep(world.chance.random() * PAUSE_S)
        world.note("given-up")

    async def _attempt(
        self, asked: list[Asked], key: str, expected: int | None, *, keyed: bool = True
    ) -> bool:
        """One request; whether its outcome is known for good."""
        world = self.world
        invoked_s = world.loop.time()
        intent = self._intent(asked, key, expected, keyed=keyed)
        recorder = self.recorder()
        if recorder is None:  # none was ever started
            return False
        try:
            recorded = await world.call(
                recorder.process, lambda: recorder.record(intent), ANSWER_WAIT_S
            )
        except Refused as error:
            self._log(asked, key, invoked_s, "refused", type(error).__name__)
            return True
        except (StoreBusy, StoreUnavailable, QueueFull) as error:
            # Says that nothing was recorded, and that it may be tried again.
            self._log(asked, key, invoked_s, "refused", type(error).__name__)
            return False
        except (OutcomeUnknown, NoAnswer) as error:
            self._log(asked, key, invoked_s, "unknown", type(error).__name__)
            return False
        self._log(asked, key, invoked_s, "recorded", "201", recorded)
        return True

    def _intent(self, asked: list[Asked], key: str, expected: int | None, *, keyed: bool) -> Intent:
        chance = self.world.chance
        commands = [each.command for each in asked]
        lines = prepare_lines(
            [(command, key if keyed and len(asked) == 1 else None) for command in commands],
            secret=SECRET,
            issuer="https://issuer.example",
            subject=key,  # by which the checks know it, where it bears no key
            idempotency_key=key if keyed and len(asked) > 1 else None,
            random=chance.randbytes(RANDOM_BYTES * len(asked)),
        )
        # Their own ids tell the time of this machine, which a seed does not know.
        lines = tuple(replace(line, event_id=UUID(int=chance.getrandbits(128))) for line in lines)
        return Intent(lines=lines, expected_position=expected)

    def _log(  # noqa: PLR0913, PLR0917 - the parts of one attempt
        self,
        asked: list[Asked],
        key: str,
        invoked_s: float,
        outcome: Outcome,
        said: str,
        recorded: list[Recorded] | None = None,
    ) -> None:
        self.world.note(f"answered-{outcome}", f"{key} {said}")
        for number, each in enumerate(asked):
            receipt = None
            if recorded is not None:
                stored = recorded[number].stored
                self.world.counts["replayed"] += recorded[number].replayed
                receipt = Receipt(
                    event_id=str(stored.event_id),
                    position=stored.position,
                    balance_minor=stored.balance_minor,
                    hash=stored.hash.hex(),
                )
                if each.kind == "INCOME":
                    self.reversible.append((receipt, stored.account_id, each.amount_minor or 0))
            self.history.operations.append(
                Attempt(
                    client=self.number,
                    account_id=each.command.account_id,
                    key=key,
                    kind=each.kind,
                    amount_minor=each.amount_minor,
                    invoked_s=invoked_s,
                    completed_s=None if said == "NoAnswer" else self.world.loop.time(),
                    outcome=outcome,
                    receipt=receipt,
                    said=said,
                )
            )

    # --- reading ------------------------------------------------------------------------------

    def _read(self) -> None:
        """One account's balance and its last lines, as they are committed at this moment."""
        account_id = self._account()
        balance = self.model.balances.get(account_id)
        if balance is None:
            return
        self.world.note("read", f"{account_id} {balance.position}")
        written: dict[int, Any] = self.model.lines.get(account_id, {})
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
