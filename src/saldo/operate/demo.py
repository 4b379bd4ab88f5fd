"""A lively sample to look at: some accounts, and a year of salaries, rents and groceries.

The same seed on the same day is the same sample, key for key: recording it twice records it once.
"""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DAYS = 365
ACCOUNTS = ("wesley", "ana", "bruno", "carla", "padaria-central")
PAYDAY = 5
RENT_DAY = 8
THIRTEENTH_SALARY_MONTH = 12
FRIDAY = 4
GROCERIES_A_DAY, TRANSPORT_A_DAY, LEISURE_A_DAY, TRANSFERS_A_DAY = 0.45, 0.25, 0.5, 0.02
GROCERIES = ("Mercado Livre Feira", "Supermercado Extra", "Padaria Central", "Hortifruti")
LEISURE = ("Cinema", "Restaurante Sabor", "Livraria", "Show", "Bar do Zé")
TRANSPORT = ("Metrô", "Combustível", "Táxi")


def sample(seed: int, today: date) -> Iterator[str]:
    """Yield lines of NDJSON for the bulk interface, in the order of time."""
    chance = random.Random(seed)  # noqa: S311 - a sample, not a secret
    salaries = {account: chance.randrange(3_500_00, 12_000_00, 50_00) for account in ACCOUNTS}
    rents = {
        account: salary * chance.randrange(20, 33) // 100 for account, salary in salaries.items()
    }
    number = 0
    for ago in range(DAYS, 0, -1):
        day = today - timedelta(days=ago)
        for account in ACCOUNTS:
            for kind, amount_minor, description, tag in _day(
                chance, day, salaries[account], rents[account]
            ):
                number += 1
                moment = time(chance.randrange(8, 22), chance.randrange(60), tzinfo=UTC)
                yield json.dumps(
                    {
                        "accountId": account,
                        "type": kind,
                        "value": f"{amount_minor // 100}.{amount_minor % 100:02d}",
                        "currency": "BRL",
                        "description": description,
                        "occurredAt": datetime.combine(day, moment).isoformat(),
                        "metadata": {"category": tag},
                        "idempotencyKey": f"demo-{seed}-{today.isoformat()}-{number}",
                    },
                    ensure_ascii=False,
                )


def _day(
    chance: random.Random, day: date, salary: int, rent: int
) -> Iterator[tuple[str, int, str, str]]:
    """Yield one account's transactions of one day: kind, amount, description, category."""
    if day.day == PAYDAY:
        yield "INCOME", salary, "Salário", "salary"
        if day.month == THIRTEENTH_SALARY_MONTH:
            yield "INCOME", salary, "Décimo terceiro", "salary"
    if day.day == RENT_DAY:
        yield "EXPENSE", rent, "Aluguel", "rent"
        yield "EXPENSE", chance.randrange(80_00, 220_00), "Energia elétrica", "utilities"
    if chance.random() < GROCERIES_A_DAY:
        yield "EXPENSE", chance.randrange(18_00, 260_00), chance.choice(GROCERIES), "groceries"
    if chance.random() < TRANSPORT_A_DAY:
        yield "EXPENSE", chance.randrange(5_00, 90_00), chance.choice(TRANSPORT), "transport"
    if day.weekday() >= FRIDAY and chance.random() < LEISURE_A_DAY:
        yield "EXPENSE", chance.randrange(25_00, 300_00), chance.choice(LEISURE), "leisure"
    if chance.random() < TRANSFERS_A_DAY:
        yield "INCOME", chance.randrange(100_00, 2_000_00), "Pix recebido", "transfer"
