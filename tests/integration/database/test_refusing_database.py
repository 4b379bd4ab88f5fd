"""Definite refusals of the database: `unavailable` at once, by SQLSTATE, for every statement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cloudevents.http import CloudEvent

from saldo.project.dead_letters import RECORDED
from saldo.project.deliveries import of_cloud_event
from saldo.project.errors import ReadModelUnavailable
from saldo.query.errors import ReadModelUnavailable as BalancesUnavailable
from saldo.query.system_status import System
from saldo.record.batch import Contention
from saldo.record.errors import StoreUnavailable
from tests.support.controls import ACCOUNT, income, intent
from tests.support.sides import projector_on, reader_on, with_options, writer_on

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from saldo.project.projector import Projector
    from tests.support.servers import Database
    from tests.support.sides import Connection, Writer

# Raises a state of the server that no test can cause otherwise without harming the others.
RAISING = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END $$;
"""
AT_ONCE = (
    RAISING
    + """
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON event_store.event
FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON read_model.statement
FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON read_model.dead_letter
FOR EACH ROW EXECUTE FUNCTION refuse();
"""
)
AT_COMMIT = (
    RAISING
    + """
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON event_store.event
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON read_model.statement
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON read_model.dead_letter
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
"""
)
REVOKE_WRITING = """
REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA event_store, read_model
FROM saldo_record, saldo_project
"""
REVOKE_ALL = """
REVOKE ALL ON ALL TABLES IN SCHEMA event_store, read_model
FROM saldo_record, saldo_project, saldo_query
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How a database is made to refuse: by a statement, or by an option of the sessions."""

    statement: str = "SELECT"
    options: tuple[tuple[str, str], ...] = ()


WRITING = {
    "25006 read-only": Refusal(options=(("default_transaction_read_only", "on"),)),
    "42501 no privilege": Refusal(statement=REVOKE_WRITING),
    "53100 disk full": Refusal(statement=AT_ONCE.format(state="53100")),
    "53100 disk full at commit": Refusal(statement=AT_COMMIT.format(state="53100")),
    "53200 out of memory": Refusal(statement=AT_ONCE.format(state="53200")),
    "58030 I/O error": Refusal(statement=AT_ONCE.format(state="58030")),
}
EVERYTHING = {
    "42501 no privilege": Refusal(statement=REVOKE_ALL),
    "53300 too many connections": Refusal(
        statement="DO $$ BEGIN EXECUTE format('ALTER DATABASE \"%s\" CONNECTION LIMIT 0',"
        " current_database()); END $$"
    ),
}


def each(refusals: dict[str, Refusal]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("refusal", refusals.values(), ids=list(refusals))


def url_of(database: Database, role: str, refusal: Refusal) -> str:
    return with_options(database.dsn(role), **dict(refusal.options))


@pytest.fixture(params=["without locks", "under locks"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Return how batches are recorded; each rule holds both ways."""
    if request.param == "under locks":
        monkeypatch.setattr(Contention, "locks", lambda _: True)


@pytest.mark.usefixtures("way")
@each(WRITING | EVERYTHING)
async def test_recorder_reports_at_once_that_nothing_was_recorded(
    database: Database,
    writer: Writer,
    superuser: Connection,
    refusal: Refusal,
) -> None:
    [stored] = await writer.record(income("1"))
    await superuser.execute(refusal.statement)
    async with writer_on(url_of(database, "saldo_record", refusal)) as refused:
        with pytest.raises(StoreUnavailable):
            await refused.outcomes(intent(income("2")))
        with pytest.raises(StoreUnavailable):
            await refused.outcomes(intent(income("2", "new")))
        with pytest.raises(StoreUnavailable):
            await refused.events.erase_private(ACCOUNT, 1)
        assert refused.clock.seconds == 0  # it did not try again
        assert refused.committed == []
    assert await superuser.fetchval("SELECT count(*) FROM event_store.event") == 1
    assert stored.position == 1


@each(EVERYTHING)
async def test_reads_of_the_recorder_are_unavailable_at_once(
    database: Database, writer: Writer, superuser: Connection, refusal: Refusal
) -> None:
    [stored] = await writer.record(income("1"))
    await superuser.execute(refusal.statement)
    async with writer_on(url_of(database, "saldo_record", refusal)) as refused:
        reads: list[Callable[[], Awaitable[object]]] = [
            lambda: refused.events.find(stored.event_id),
            lambda: refused.events.find_account(ACCOUNT),
            lambda: refused.events.after(ACCOUNT, 0, 10),
        ]
        for read in reads:
            with pytest.raises(StoreUnavailable):
                await read()


def recorded(sequence: int) -> CloudEvent:
    return CloudEvent(
        {"type": RECORDED, "source": "/x", "subject": ACCOUNT, "sequence": str(sequence)},
        {"event": {"schema": 2}, "private": None},
    )


def dead() -> CloudEvent:
    event = recorded(1)
    event["knativeerrordest"] = "http://nowhere"
    return event


def ping() -> CloudEvent:
    return CloudEvent({"type": "dev.knative.sources.ping", "source": "/x"}, {})


@each(WRITING | EVERYTHING)
async def test_projector_has_every_delivery_retried(
    database: Database, writer: Writer, superuser: Connection, refusal: Refusal
) -> None:
    [stored] = await writer.record(income("1"))
    await writer.events.erase_private(ACCOUNT, stored.position)
    await superuser.execute(refusal.statement)
    async with projector_on(url_of(database, "saldo_project", refusal)) as projector:
        for event in (recorded(1), dead(), ping()):
            assert await outcome_of(projector, event) is ReadModelUnavailable


async def outcome_of(projector: Projector, event: CloudEvent) -> type[Exception] | None:
    try:
        await projector.take(of_cloud_event(event))
    except Exception as error:
        return type(error)
    return None


@each(EVERYTHING)
async def test_balances_are_unavailable(
    database: Database, superuser: Connection, refusal: Refusal
) -> None:
    await superuser.execute(refusal.statement)
    async with reader_on(url_of(database, "saldo_query", refusal)) as reader:
        with pytest.raises(BalancesUnavailable):
            await reader.balances.read([ACCOUNT])
        with pytest.raises(BalancesUnavailable):
            await reader.balances.at_position(ACCOUNT, 1)
        with pytest.raises(BalancesUnavailable):
            await System(reader.pool, reader.pool).json()
