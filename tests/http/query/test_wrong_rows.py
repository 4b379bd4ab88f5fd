"""Reads of many accounts while the rows of one are wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from saldo.serve.functions import BALANCE
from tests.support.live import DEADLINE_S

if TYPE_CHECKING:
    from tests.conftest import Serve
    from tests.support.sides import Connection

POSITION_MAX = 2**63 - 1
# What PostgreSQL holds and Python's datetime does not, and what is shown of it.
MOMENTS = {
    "20000-01-01 00:00:00+00": "9999-12-31T23:59:59.000000Z",
    "0044-03-15 00:00:00+00 BC": "0001-01-01T00:00:00.000000Z",
}
TWO_ACCOUNTS = """
INSERT INTO event_store.stream (account_id, currency, position, hash)
VALUES ('right', 'EUR', 2, 'r'), ('wrong', 'EUR', 9223372036854775807, 'w');
INSERT INTO event_store.event
    (account_id, position, event_id, public_text, hash, balance_minor, appended_at)
VALUES ('wrong', 1, gen_random_uuid(), '{{}}', 'w', 0, '{moment}');
INSERT INTO read_model.balance (account_id, currency, position, hash, recorded_at, blocked_at)
VALUES ('right', 'EUR', 2, 'r', clock_timestamp(), NULL),
       ('wrong', 'EUR', 9223372036854775807, 'w', '{moment}', '{moment}');
UPDATE read_model.balance SET blocked_schema = 1 WHERE account_id = 'wrong';
INSERT INTO read_model.dead_letter
    (dead_letter_id, account_id, event_id, reason, attributes, received_at)
VALUES (gen_random_uuid(), 'wrong', 'e', 'r', '{{}}', '{moment}');
"""


@pytest.mark.parametrize("moment", MOMENTS)
async def test_wrong_row_of_one_account_stops_no_other(
    serve: Serve, superuser: Connection, moment: str
) -> None:
    await superuser.execute(TWO_ACCOUNTS.format(moment=moment))
    shown = MOMENTS[moment]
    async with httpx.AsyncClient(base_url=serve(BALANCE).url, timeout=DEADLINE_S) as client:
        system = await client.get("/system")
        accounts = await client.get("/accounts")
        balances = await client.get("/balances?accountId=right&accountId=wrong")
        one = await client.get("/balances?accountId=right")
    assert system.status_code == 200, system.text
    told = system.json()
    assert (told["accounts"], told["events"], told["behind"]) == (2, POSITION_MAX, 0)
    assert told["lastRecordedAt"] == told["blockedOldestAt"] == told["deadLetterOldestAt"] == shown
    assert accounts.status_code == 200, accounts.text
    listed = {each["accountId"]: each for each in accounts.json()["accounts"]}
    assert listed["right"]["position"] == 2
    assert listed["wrong"]["position"] == POSITION_MAX
    assert listed["wrong"]["recordedAt"] == shown
    assert balances.status_code == 200, balances.text
    assert balances.json()["balances"][1]["blocked"]["since"] == shown
    assert one.status_code == 200
    assert "blocked" not in one.json()
