"""Events that cannot be projected: they stop their own account and no other."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from saldo.domain.events import chain_hash, genesis_hash
from saldo.operate.streams import export_streams
from saldo.project.catch_up import CATCH_UP_EVENTS_MAX
from tests.integration.operate.test_rebuild import rebuild
from tests.support.controls import income
from tests.support.stored import opened

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from saldo.project.projector import Projector
    from saldo.record.intent import StoredEvent
    from tests.support.servers import Database
    from tests.support.sides import Connection, Reader, Writer
    from tests.support.stored import Ledger

Test = TypeVar("Test", bound=Callable[..., Any])
ACCOUNTS = [f"a{n:02}" for n in range(50)]
POISONED, *OTHERS = ACCOUNTS
RUNS = 60
OPERATOR_RUNS = 10

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)
_BIGINT = st.integers(-(2**63), 2**63 - 1)
_BYTES = st.none() | st.binary(max_size=40)
# PostgreSQL's own range, which is wider than Python's on both sides.
_TIMES = st.sampled_from(
    ["-infinity", "4714-11-24 00:00:00+00 BC", "0001-01-01 00:00:00+14", "1969-12-31 00:00:00+00"]
    + ["now", "2027-01-01 00:00:00+00", "9999-12-31 23:59:59.999999-15:59"]
    + ["10000-01-01 00:00:00+00", "294276-12-31 23:59:59.999999+00", "infinity"]
)
_JSON: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_MOMENTS = st.sampled_from(
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-24", "2026-11-24T00:00:00"]
    + ["9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z", "2026-11-24T01:00:00+23:59"]
)
DEEP = "[" * 100_000 + "]" * 100_000


@dataclass(frozen=True, repr=False)
class Poison:
    """What is written into the first event of one account."""

    column: str
    value: Any
    chained: bool = False  # the hash is made to fit the text, as a recorder would

    def __repr__(self) -> str:
        """Return what a report has room for."""
        return f"Poison({self.column!r}, {str(self.value)[:200]!r}, chained={self.chained})"


def _members(values: dict[str, SearchStrategy[Any]]) -> SearchStrategy[str]:
    """Return JSON texts with all members, one of which may hold anything."""
    return st.sampled_from(sorted(values)).flatmap(
        lambda name: values[name].map(lambda value: json.dumps({"*": name, name: value}))
    )


_PUBLIC = _members(
    dict.fromkeys(("occurredAt", "recordedAt"), _MOMENTS | _JSON)
    | dict.fromkeys(
        ("schema", "account", "position", "id", "type", "kind", "amountMinor", "currency")
        + ("reverses", "privateHash", "requestHash"),
        _JSON,
    )
)
_PRIVATE = _members({"description": _JSON, "metadata": _JSON})
POISONS = st.one_of(
    st.builds(Poison, st.just("account_id"), _TEXT),
    st.builds(Poison, st.just("position"), _BIGINT),
    st.builds(Poison, st.just("event_id"), st.uuids()),
    st.builds(Poison, st.just("public_text"), _TEXT | _PUBLIC, st.booleans()),
    st.builds(Poison, st.just("private_text"), st.none() | _TEXT | _PRIVATE),
    st.builds(Poison, st.just("hash"), st.binary(max_size=40)),
    st.builds(Poison, st.just("balance_minor"), _BIGINT),
    st.builds(Poison, st.sampled_from(["key_hash", "fingerprint"]), _BYTES),
    st.builds(Poison, st.just("key_line"), st.none() | st.integers(-(2**31), 2**31 - 1)),
    st.builds(Poison, st.just("reverses"), st.none() | st.uuids()),
    st.builds(Poison, st.sampled_from(["appended_at", "erased_at"]), _TIMES),
)
# Reproduced on the running product, or of a kind that PostgreSQL alone refuses.
KNOWN = [
    Poison("private_text", r'{"description": "\u0000"}'),
    Poison("private_text", r'{"description": "\ud800"}'),
    Poison("private_text", r'{"metadata": {"a": "\u0000"}}'),
    Poison("private_text", '{"metadata": {"a": NaN}}'),
    Poison("private_text", DEEP),
    Poison("private_text", '{"metadata": {"a": ' + DEEP[90_000:110_000] + "}}"),
    Poison("public_text", '{"occurredAt": "0001-01-01T00:00:00+14:00"}', chained=True),
    Poison("public_text", '{"occurredAt": "9999-12-31T23:59:59-14:00"}', chained=True),
    Poison("public_text", '{"recordedAt": "0001-01-01T00:00:00+14:00"}', chained=True),
    Poison("public_text", '{"recordedAt": "2026-11-24"}', chained=True),
    Poison("public_text", DEEP, chained=True),
    Poison("account_id", "é"),
    Poison("account_id", ""),
    Poison("account_id", "a,b"),
    Poison("position", 2**63 - 1),
    Poison("appended_at", "infinity"),
    Poison("appended_at", "-infinity"),
    Poison("appended_at", "4714-11-24 00:00:00+00 BC"),
    Poison("appended_at", "294276-12-31 23:59:59.999999+00"),
    Poison("erased_at", "infinity"),
    Poison("erased_at", "4714-11-24 00:00:00+00 BC"),
]

CLEAN = """
TRUNCATE read_model.balance, read_model.statement, read_model.daily_total, read_model.dead_letter,
    read_model.sweep
"""
RESTORE = """
DELETE FROM event_store.event WHERE account_id <> ALL ($1::text[]) OR account_id = $2;
"""
PROJECTED = """
SELECT account_id FROM read_model.balance
WHERE position = 2 AND balance_minor = 300 AND blocked_at IS NULL ORDER BY account_id
"""
SUSPENDED = """
SELECT account_id, position, blocked_at IS NOT NULL AS blocked, blocked_reason
FROM read_model.balance WHERE account_id = $1
"""
LETTERS = "SELECT account_id, position, reason FROM read_model.dead_letter"


async def poison(connection: Connection, wrong: Poison, position: int = 1) -> None:
    """Write ``wrong`` into an event of the poisoned account, as a superuser can."""
    value = wrong.value
    if wrong.column == "public_text":
        text = await connection.fetchval(
            "SELECT public_text FROM event_store.event WHERE account_id = $1 AND position = $2",
            POISONED,
            position,
        )
        members = _object(value)
        if members is not None:
            members.pop("*", None)
            value = json.dumps(json.loads(text) | members)
    cast = {"appended_at": "timestamptz", "erased_at": "timestamptz"}.get(wrong.column)
    shown = "$1" if cast is None else f"$1::text::{cast}"
    await connection.execute(
        f"UPDATE event_store.event SET {wrong.column} = {shown}"
        " WHERE account_id = $2 AND position = $3",
        value,
        POISONED,
        position,
    )
    if wrong.chained:
        await chain(connection)


async def chain(connection: Connection) -> None:
    """Make the hashes of the poisoned account fit its texts."""
    hashed = genesis_hash(POISONED)
    for row in await connection.fetch(
        "SELECT position, public_text FROM event_store.event WHERE account_id = $1"
        " ORDER BY position",
        POISONED,
    ):
        hashed = chain_hash(hashed, row["public_text"])
        await connection.execute(
            "UPDATE event_store.event SET hash = $1 WHERE account_id = $2 AND position = $3",
            hashed,
            POISONED,
            row["position"],
        )


def _object(text: object) -> dict[str, Any] | None:
    try:
        members = json.loads(str(text))
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) else None


class Fifty:
    """A ledger of 50 accounts with two events each, of which one can be poisoned."""

    def __init__(self, writer: Writer, stored: list[StoredEvent], superuser: Connection) -> None:
        self.writer = writer
        self.stored = stored
        self.superuser = superuser

    async def poison(self, wrong: Poison) -> None:
        """Bring the ledger back to how it was recorded, then poison it."""
        await self.superuser.execute(CLEAN)
        await self.superuser.execute("DELETE FROM event_store.event")
        await self.superuser.execute("INSERT INTO event_store.event SELECT * FROM kept")
        await poison(self.superuser, wrong)

    async def projected(self) -> list[str]:
        """Return the accounts whose balance includes both events."""
        return [row["account_id"] for row in await self.superuser.fetch(PROJECTED)]


@pytest.fixture
async def ledger(database: Database) -> AsyncIterator[Ledger]:
    """Yield the same database as the operator's commands see it."""
    async with opened(database) as held:
        yield held


@pytest.fixture
async def fifty(writer: Writer, superuser: Connection) -> Fifty:
    """Record the ledger, with a copy of its events to go back to."""
    commands = [
        income(value, account_id, description="rent")
        for account_id in ACCOUNTS
        for value in ("1", "2")
    ]
    stored = await writer.record(*commands)
    # As by one clock: the writer has the test's clock.
    await superuser.execute(
        "UPDATE event_store.event"
        " SET appended_at = (public_text::json ->> 'recordedAt')::timestamptz"
    )
    await superuser.execute("CREATE TABLE kept AS SELECT * FROM event_store.event")
    return Fifty(writer, stored, superuser)


def poisons(test: Test, runs: int = RUNS) -> Test:
    """Run ``test`` with every known poison, and with as many that Hypothesis draws."""
    decorated: Any = given(wrong=POISONS)(test)
    for known in KNOWN:
        decorated = example(wrong=known)(decorated)
    # Each run starts from the copy: the fixtures may be shared by all.
    shared = [HealthCheck.function_scoped_fixture]
    kept: Test = settings(max_examples=runs, suppress_health_check=shared)(decorated)
    return kept


@poisons
async def test_a_round_projects_the_other_accounts(
    fifty: Fifty, reader: Reader, wrong: Poison
) -> None:
    await fifty.poison(wrong)
    for _ in range(2):
        await reader.catch_up(*ACCOUNTS)
    assert set(await fifty.projected()) >= set(OTHERS)


@poisons
async def test_the_lag_sweep_catches_up_the_other_accounts(
    fifty: Fifty, projector: Projector, wrong: Poison
) -> None:
    await fifty.poison(wrong)
    await projector.sweep()
    assert set(await fifty.projected()) >= set(OTHERS)
    # What is recorded after the sweep is found by the next one.
    watermark = await fifty.superuser.fetchval("SELECT watermark FROM read_model.sweep")
    assert watermark <= datetime.now(UTC)


@partial(poisons, runs=OPERATOR_RUNS)
async def test_a_rebuild_includes_the_other_accounts(
    fifty: Fifty, ledger: Ledger, wrong: Poison
) -> None:
    await fifty.poison(wrong)
    assert (await rebuild(ledger, accept_differences=True)).switched
    assert set(await fifty.projected()) >= set(OTHERS)


@partial(poisons, runs=OPERATOR_RUNS)
async def test_verify_and_export_continue_and_name_what_is_wrong(
    fifty: Fifty, ledger: Ledger, wrong: Poison
) -> None:
    await fifty.poison(wrong)
    report = await ledger.verify()
    assert {fault.account_id for fault in report.faults}.isdisjoint(OTHERS)
    out = io.StringIO()
    moved = await export_streams(ledger.settings.event_store_url, out, lambda _done, _total: None)
    assert {each.partition(":")[0] for each in moved.refused}.isdisjoint(OTHERS)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    kept = [(line["account"], line["position"]) for line in lines if line.get("account") in OTHERS]
    assert kept == [(each, position) for each in OTHERS for position in (1, 2)]


@pytest.mark.parametrize(
    "wrong",
    [
        Poison("private_text", r'{"description": "\u0000"}'),
        Poison("public_text", '{"occurredAt": "0001-01-01T00:00:00+14:00"}', chained=True),
    ],
    ids=["nul", "before-the-first-year"],
)
async def test_only_the_poisoned_account_is_suspended(
    fifty: Fifty, projector: Projector, wrong: Poison
) -> None:
    from tests.integration.project.test_projecting import delivery  # noqa: PLC0415 - its only use

    await fifty.superuser.execute(CLEAN)
    await poison(fifty.superuser, wrong, position=2)
    for event in fifty.stored:
        await projector.take(delivery(event))
    assert await fifty.projected() == OTHERS
    row = await fifty.superuser.fetchrow(SUSPENDED, POISONED)
    assert row is not None
    # What came before the poison is kept.
    assert (row["position"], row["blocked"]) == (1, True)
    [letter] = await fifty.superuser.fetch(LETTERS)
    assert tuple(letter) == (POISONED, 2, row["blocked_reason"])
    assert "rent" not in row["blocked_reason"]
    # Later events of the account are answered, too.
    [later] = await fifty.writer.record(income("1", POISONED))
    await projector.take(delivery(later))
    await projector.sweep()
    assert projector.given_up == (1, 1)
    assert len(await fifty.superuser.fetch(LETTERS)) == 1


async def test_a_refused_event_keeps_the_backlog_before_it(
    writer: Writer, projector: Projector, superuser: Connection
) -> None:
    await writer.record(*[income("1", POISONED)] * (CATCH_UP_EVENTS_MAX + 50), income("1", "b"))
    culprit = CATCH_UP_EVENTS_MAX - 7
    await poison(superuser, Poison("private_text", r'{"description": "\u0000"}'), culprit)
    await projector.sweep()
    row = await superuser.fetchrow(SUSPENDED, POISONED)
    assert row is not None
    assert (row["position"], row["blocked"]) == (culprit - 1, True)
    assert await superuser.fetchval(
        "SELECT position FROM read_model.balance WHERE account_id = 'b'"
    )


async def test_a_stray_statement_line_stops_its_account_only(
    fifty: Fifty, reader: Reader, superuser: Connection
) -> None:
    """The unique constraint refuses the round each time; no retry will change that."""
    await reader.catch_up(POISONED)
    await superuser.execute(
        "UPDATE read_model.balance SET position = 1, hash = $1", fifty.stored[0].hash
    )
    await reader.catch_up(*ACCOUNTS)
    assert await fifty.projected() == OTHERS
    row = await superuser.fetchrow(SUSPENDED, POISONED)
    assert row is not None
    assert row["blocked_reason"].endswith("statement_position")
