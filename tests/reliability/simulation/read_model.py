"""The simulated read model: balances under row locks, statement lines, totals, the watermark."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from saldo.project.fold import Balance, DailyTotal, Folded, StatementLine, new_balance
from saldo.project.lag_sweep import Appended, Standing
from saldo.project.postgres import ReadModelBusy, ReadModelUnavailable
from tests.reliability.simulation.store import Locks, LockTimeout, Session

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime
    from uuid import UUID

    from saldo.project.lag_sweep import Lag
    from tests.reliability.simulation.store import EventStore
    from tests.reliability.simulation.world import World


@dataclass(slots=True)
class ReadModel:
    """The tables, as far as they are committed."""

    world: World
    locks: Locks = field(default_factory=Locks)
    balances: dict[str, Balance] = field(default_factory=dict)
    lines: dict[str, dict[int, StatementLine]] = field(default_factory=dict)
    totals: dict[tuple[str, date], DailyTotal] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    watermark: datetime | None = None

    async def begin(self) -> Round:
        await self.world.step("model BEGIN")
        if self.world.database_is_down:
            raise ReadModelUnavailable
        return Round(self)

    def clear(self, account_id: str) -> None:
        """Forget an account's lines and totals."""
        self.lines.pop(account_id, None)
        for key in [key for key in self.totals if key[0] == account_id]:
            del self.totals[key]

    def as_of(self, account_id: str, moment: datetime) -> tuple[int, int, bool]:
        """Position and balance as of ``moment``, and whether they are final: query's AS_OF."""
        lines = self.lines.get(account_id, {})
        by_then = [line for line in lines.values() if line.recorded_at <= moment]
        now = self.world.database_now()
        final = any(moment < line.recorded_at <= now for line in lines.values())
        last = max(by_then, key=lambda line: line.position, default=None)
        return (0, 0, final) if last is None else (last.position, last.balance_minor, final)

    def mark_reversed(self, account_id: str, reversed_id: UUID, reversal_id: UUID) -> None:
        """Say on a line by what it was reversed."""
        written = self.lines.get(account_id, {})
        for position, line in written.items():
            if line.event_id == reversed_id:
                written[position] = replace(line, reversed_by=reversal_id)


class Round(Session):
    """The projector's ReadModelTransaction."""

    def __init__(self, model: ReadModel) -> None:
        super().__init__(model.world, model.locks, "model")
        self._model = model
        self._cleared: list[str] = []
        self._folded = Folded()

    async def lock(self, account_ids: Sequence[str]) -> dict[str, Balance]:
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
        return {each: known.get(each) or new_balance(each) for each in account_ids}

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

    async def commit(self) -> None:
        await self._commit(ReadModelUnavailable, ReadModelBusy)

    def _apply(self) -> None:
        model, folded = self._model, self._folded
        for account_id in self._cleared:
            model.clear(account_id)
        for line in folded.lines:
            if (
                model.lines.setdefault(line.account_id, {}).setdefault(line.position, line)
                is not line
            ):
                self._world.note("line-twice", f"{line.account_id} {line.position}")
        for key, total in folded.totals.items():
            known = model.totals.setdefault(key, DailyTotal())
            known.income_minor += total.income_minor
            known.expense_minor += total.expense_minor
            known.transactions += total.transactions
        for account_id, reversed_id, reversal_id in folded.reversals:
            model.mark_reversed(account_id, reversed_id, reversal_id)
        for balance in folded.balances:
            if balance.position or balance.blocked:
                model.balances[balance.account_id] = balance
        for dead in folded.dead:
            self._world.note("blocked", f"{dead.account_id} {dead.position} {dead.reason}")
            model.dead.append(dead.account_id)


class LagTables:
    """The lag sweep's tables, of both sides."""

    def __init__(self, store: EventStore, model: ReadModel) -> None:
        self._store = store
        self._model = model
        self._world = store.world

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

    async def standing(self, account_ids: Sequence[str]) -> list[Standing]:
        await self._before("standing")
        known = [self._model.balances[each] for each in account_ids if each in self._model.balances]
        return [Standing(each.account_id, each.position, each.hash) for each in known]

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

    async def _before(self, what: str) -> None:
        await self._world.step(f"lag {what}")
        if self._world.database_is_down or self._world.happens(self._world.faults.cut):
            raise ConnectionResetError
