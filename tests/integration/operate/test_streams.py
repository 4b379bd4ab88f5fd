"""The commands `saldo export` and `saldo restore`: streams to a file and back, checked."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from saldo.operate import streams
from saldo.operate.erasures import Repeated, repeat_erasures, save_erasures
from saldo.operate.errors import CommandError
from saldo.operate.streams import Moved, export_streams, restore_streams
from saldo.record.stored_events import StoredEvents
from tests.integration.operate.test_rebuild import model, rebuild
from tests.support import servers
from tests.support.controls import expense, income, limit
from tests.support.stored import opened

if TYPE_CHECKING:
    from tests.support.servers import Database
    from tests.support.stored import Ledger

SCHEMA_1 = Path(__file__).parents[2] / "fixtures" / "streams_schema_1.ndjson"


async def exported(ledger: Ledger) -> list[str]:
    out = io.StringIO()
    await export_streams(ledger.settings.event_store_url, out, lambda _done, _total: None)
    return out.getvalue().splitlines(keepends=True)


async def restored(ledger: Ledger, lines: list[str], *, outbox: bool = False) -> Moved:
    url = ledger.settings.event_store_url
    return await restore_streams(url, lines, lambda _done: None, outbox=outbox)


async def fill(ledger: Ledger) -> None:
    for account_id in ("ana", "bruno", "carla"):
        await ledger.record(limit("100", account_id))
        await ledger.record(income("10", account_id, description='"Ação" 💸'), key="key")
        await ledger.record(expense("1", account_id))
    await ledger.erase("ana", 2)


async def test_a_restored_store_verifies_and_exports_the_same(
    database: Database, postgres_data_dir: Path
) -> None:
    async with opened(database) as ledger:
        await fill(ledger)
        lines = await exported(ledger)
    with servers.cloned_database(postgres_data_dir) as other:
        async with opened(other) as ledger:
            assert await restored(ledger, lines) == Moved(accounts=3, events=9, present=0)
            assert await exported(ledger) == lines
            await ledger.project("ana", "bruno", "carla")
            report = await ledger.verify()
            # And it goes on from there.
            await ledger.record(income("1", "ana"))
            assert (await ledger.verify()).clean
            assert await ledger.pool.fetchval("SELECT count(*) FROM event_store.outbox") == 1
    assert (report.faults, report.counts.erased, report.counts.lines) == ([], 1, 9)


async def test_events_of_schema_1_are_projected_and_verified(database: Database) -> None:
    """Events as version 1 wrote them, with limits, keys, a reversal and an erasure."""
    lines = SCHEMA_1.read_text().splitlines(keepends=True)
    assert '\\"schema\\":1,' in lines[0]
    async with opened(database) as ledger:
        await restored(ledger, lines)
        await ledger.project("ana", "wesley")
        report = await ledger.verify()
        # A new event, of the newest schema, follows on an old one.
        [newest] = await ledger.record(income("7", "ana"), key="new")
        await ledger.project("ana")
        before = await model(ledger)
        assert (await rebuild(ledger)).switched
        assert await model(ledger) == before
        after = await ledger.verify()
        assert await exported(ledger) != lines
    assert (report.faults, report.counts.events, report.counts.erased) == ([], 10, 2)
    assert (after.faults, after.counts.lines) == ([], 11)
    assert newest.public_text.startswith('{"schema":2,')


async def test_a_second_restore_writes_nothing_twice(
    database: Database, monkeypatch: pytest.MonkeyPatch, postgres_data_dir: Path
) -> None:
    monkeypatch.setattr(streams, "BATCH_EVENTS", 2)
    async with opened(database) as ledger:
        await fill(ledger)
        lines = await exported(ledger)
        assert (await restored(ledger, lines)).present == 9
    with servers.cloned_database(postgres_data_dir) as other:
        async with opened(other) as ledger:
            with pytest.raises(CommandError, match="cut off after 5 events"):
                await restored(ledger, lines[:5])
            assert (await restored(ledger, lines)).present == 5
            assert await exported(ledger) == lines
            assert (await ledger.verify()).clean


async def test_restore_refuses_another_event_at_a_taken_position(
    database: Database, postgres_data_dir: Path
) -> None:
    async with opened(database) as ledger:
        await fill(ledger)
        lines = await exported(ledger)
    with servers.cloned_database(postgres_data_dir) as other:
        async with opened(other) as ledger:
            await ledger.record(income("3", "bruno"))
            before = await exported(ledger)
            with pytest.raises(CommandError, match="bruno position 1"):
                await restored(ledger, lines)
            assert await exported(ledger) == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('\\"amountMinor\\":1000', '\\"amountMinor\\":9000', "event.hash"),
        ('"position":2', '"position":4', "event.position"),
        ("salt", "Salt", "event.private_text"),
        ('"keyLine":0', '"keyLine":1', "event.key_hash"),
        ('"balanceMinor":1000', '"balanceMinor":1001', "event.balance_minor"),
        ('"hash"', '"hush"', "a member is missing"),
        ("{", "[", "it is not an event"),
    ],
)
async def test_a_changed_file_is_refused_with_its_line(
    database: Database, old: str, new: str, said: str
) -> None:
    async with opened(database) as ledger:
        await fill(ledger)
        lines = await exported(ledger)
        assert old in lines[4]
        lines[4] = lines[4].replace(old, new, 1)
        with pytest.raises(CommandError, match=r"line 5: .*" + said):
            await restored(ledger, lines)


async def test_restore_refuses_extra_lines_and_wrong_totals(database: Database) -> None:
    async with opened(database) as ledger:
        await fill(ledger)
        lines = await exported(ledger)
        with pytest.raises(CommandError, match="more after the end"):
            await restored(ledger, [*lines, lines[0]])
        with pytest.raises(CommandError, match="should have"):
            await restored(ledger, [*lines[:3], lines[-1]])


async def test_restored_events_are_published_on_request_only(
    database: Database, postgres_data_dir: Path
) -> None:
    async with opened(database) as ledger:
        await fill(ledger)
        lines = await exported(ledger)
    with servers.cloned_database(postgres_data_dir) as other:
        async with opened(other) as ledger:
            await restored(ledger, lines, outbox=True)
            assert await ledger.pool.fetchval("SELECT count(*) FROM event_store.outbox") == 9


async def test_texts_erased_since_an_export_are_erased_again(
    database: Database, postgres_data_dir: Path
) -> None:
    """The list is newer than the export; it has one event that the restored store lacks."""
    async with opened(database) as ledger:
        await fill(ledger)
        older = await exported(ledger)
        [later] = await ledger.record(income("1", "carla", description="later"))
        store = StoredEvents(ledger.pool)
        for account_id, position in (("bruno", 2), ("carla", later.position)):
            await store.erase_private(account_id, position)
        out = io.StringIO()
        assert await save_erasures(ledger.settings.event_store_url, out) == 3
        newer = await exported(ledger)
    assert "Ação" not in out.getvalue()
    saved = out.getvalue().splitlines(keepends=True)
    with servers.cloned_database(postgres_data_dir) as other:
        async with opened(other) as ledger:
            await restored(ledger, older)
            url = ledger.settings.event_store_url
            with pytest.raises(CommandError, match="cut off"):
                await repeat_erasures(url, saved[:-3])
            assert await repeat_erasures(url, saved) == Repeated(
                erased=1, erased_before=1, absent=1
            )
            assert await ledger.pool.fetchval(
                "SELECT private_text IS NULL AND erased_at IS NOT NULL FROM event_store.event"
                " WHERE account_id = 'bruno' AND position = 2"
            )
            # It is published, and a whole export says the same.
            assert await ledger.pool.fetchval("SELECT erased FROM event_store.outbox")
            assert (await repeat_erasures(url, newer)).erased_before == 2
            assert (await ledger.verify()).clean


def test_a_line_is_json_with_the_exact_text() -> None:
    line = json.loads(SCHEMA_1.read_text().splitlines()[0])
    assert line["event"].startswith('{"schema":1,"account":"ana","position":1,')
