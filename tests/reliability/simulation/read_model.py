"""The simulated read model: balances under row locks, statement lines and the watermark."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from saldo.project.errors import ReadModelBusy, ReadModelUnavailable
from saldo.project.fold import Balance, Folded, StatementLine, StreamEvent, new_balance
from saldo.project.ports import Appended
from tests.reliability.simulation.store import Locks, LockTimeout, Session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from types import TracebackType

    from saldo.project.ports import Lag, States
    from tests.reliability.simulation.store import EventStore
    from tests.reliability.simulation.world import World


@dataclass(slots=True)
class ReadModel:
    """The tables, as far as they are committed."""

    world: World
    locks: Locks = field(default_factory=Locks)
    balances: dict[str, Balance] = field(default_factory=dict)
    lines: dict[str, dict[int, StatementLine]] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    watermark: datetime | None = None

    def as_of(self, account_id: str, moment: datetime) -> tuple[int, int, bool]:
        """Return position, balance and finality as of ``moment``, like query's AS_OF."""
        lines = self.lines.get(account_id, {})
        by_then = [line for line in lines.values() if line.recorded_at <= moment]
        now = self.world.database_now()
        final = any(moment < line.recorded_at <= now for line in lines.values())
        last = max(by_then, key=lambda line: line.position, default=None)
        return (0, 0, final) if last is None else (last.position, last.balance_minor, final)


class Round(Session):
    """The projector's ReadModelTransaction."""

    def __init__(self, model: ReadModel) -> None:
        super().__init__(model.world, model.locks, "model")
        self._model = model
        self._cleared: list[str] = []
        self._folded = Folded()

    async def __aenter__(self) -> Self:
        await self._world.step("model BEGIN")
        if self._world.database_is_down:
            self.cut()
            raise ReadModelUnavailable
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            await self._commit(ReadModelUnavailable, ReadModelBusy)
        await self.roll_back()

    async def lock(self, account_ids: Sequence[str]) -> list[Balance]:
        await self._arrive("lock", ReadModelUnavailable, ReadModelBusy)
        for account_id in sorted(account_ids):
            try:
                await self._locks.take(self, account_id)
            except LockTimeout as error:
                self._world.note("lock-timeout", account_id)
                raise ReadModelBusy from error
        if self._is_over or self._is_cut:
            self._locks.let_go(self)
        await self._arrive("read", ReadModelUnavailable, ReadModelBusy)
        known = self._model.balances
        return [known.get(each) or new_balance(each) for each in account_ids]

    async def clear(self, account_ids: Sequence[str]) -> None:
        await self._arrive("clear", ReadModelUnavailable, ReadModelBusy)
        self._world.note("refolded", len(account_ids))
        self._cleared = list(account_ids)

    async def write(self, folded: Folded) -> None:
        await self._arrive("write", ReadModelUnavailable, ReadModelBusy)
        for line in folded.lines:
            if line.account_id not in self._cleared and line.position in self._model.lines.get(
                line.account_id, {}
            ):
                self._world.note("line-twice", f"{line.account_id} {line.position}")
                raise ReadModelBusy
        self._folded = folded

    def _apply(self) -> None:
        model, folded = self._model, self._folded
        for account_id in self._cleared:
            model.lines.pop(account_id, None)
        for line in folded.lines:
            if (
                model.lines.setdefault(line.account_id, {}).setdefault(line.position, line)
                is not line
            ):
                self._world.note("line-twice", f"{line.account_id} {line.position}")
        for balance in folded.balances:
            if balance.position or balance.blocked:
                model.balances[balance.account_id] = balance
        for event, reason in folded.dead:
            self._world.note("blocked", f"{event.account_id} {event.position} {reason}")
            model.dead.append(event.account_id)


class Databases:
    """The projector's databases."""

    def __init__(self, store: EventStore, model: ReadModel) -> None:
        self._store = store
        self._model = model
        self._world = store.world

    def begin(self) -> Round:
        return Round(self._model)

    async def read_from(
        self, positions: Sequence[tuple[str, int]], events_max: int
    ) -> dict[str, list[StreamEvent]]:
        await self._before("streams read")
        found: dict[str, list[StreamEvent]] = {}
        for account_id, position in positions:
            stream = self._store.events.get(account_id, [])
            start = max(position - 1, 0)
            for event in stream[start : start + events_max + 1]:
                own = event.position == position
                found.setdefault(account_id, []).append(
                    StreamEvent(
                        account_id=account_id,
                        position=event.position,
                        event_id=event.event_id,
                        public_text=None if own else event.public_text,
                        private_text=None if own else event.private_text,
                        hash=event.hash,
                    )
                )
        return found

    async def watermark(self) -> datetime | None:
        await self._before("watermark")
        if self._model.watermark is None and self._store.appended:
            return self._store.appended[0][0]
        return self._model.watermark

    async def store_now(self) -> datetime:
        await self._before("clock")
        return self._world.database_now()

    async def walk(self, since: datetime, until: datetime, limit: int) -> list[Appended]:
        await self._before("walk")
        rows = self._store.walked(since, until, limit)
        return [
            Appended(account_id, position, chained, at)
            for at, account_id, position, chained in rows
        ]

    async def standing(self, account_ids: Sequence[str]) -> States:
        await self._before("standing")
        known = [self._model.balances[each] for each in account_ids if each in self._model.balances]
        return {each.account_id: (each.position, each.hash) for each in known}

    async def note(self, watermark: datetime, found: int, lag: Lag) -> None:
        await self._before("note")
        assert lag.positions >= 0
        self._model.watermark = watermark
        if found:
            self._world.note("lag-found", found)

    async def erase_copies(self, now: datetime) -> None:
        await self._before(f"erase copies up to {now}")  # no seed erases anything

    async def erase_copy(self, account_id: str, position: int) -> None:
        raise AssertionError(f"{account_id} {position} was never erased")

    async def park(self, attributes: Mapping[str, str], public_text: str | None) -> None:
        raise AssertionError(f"no source gives up: {attributes}, {public_text}")

    async def given_up(self) -> tuple[int, int]:
        await self._before("given up")
        balances = self._model.balances.values()
        return len(self._model.dead), sum(each.blocked for each in balances)

    async def close(self) -> None:
        """Do nothing: the connections are not simulated."""

    async def _before(self, what: str) -> None:
        await self._world.step(f"projector {what}")
        if self._world.database_is_down or self._world.happens(self._world.faults.cut):
            raise ReadModelUnavailable
