"""A lively sample to look at: some accounts, and a year of salaries, rents and groceries.

The same seed on the same day is the same sample, key for key: recording it twice records it once.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta

DAYS = 365
ACCOUNTS = ("wesley", "ana", "bruno", "carla", "padaria-central")
PAYDAY, RENT_DAY, FRIDAY, DECEMBER = 5, 8, 4, 12
GROCERIES = ("Mercado Livre Feira", "Supermercado Extra", "Padaria Central", "Hortifruti")
LEISURE = ("Cinema", "Restaurante Sabor", "Livraria", "Show", "Bar do Zé")
# How often in a day, kind, the least and the most in minor units, descriptions, category.
OCCASIONAL = (
    (0.45, "EXPENSE", 18_00, 260_00, GROCERIES, "groceries"),
    (0.25, "EXPENSE", 5_00, 90_00, ("Metrô", "Combustível", "Táxi"), "transport"),
    (0.02, "INCOME", 100_00, 2_000_00, ("Pix recebido",), "transfer"),
)
WEEKENDS = (0.5, "EXPENSE", 25_00, 300_00, LEISURE, "leisure")


def sample(seed: int, today: date) -> Iterator[str]:
    """Yield lines of NDJSON for the bulk interface, in the order of time."""
    chance = random.Random(seed)  # noqa: S311 - a sample, not a secret
    salaries = {account: chance.randrange(3_500_00, 12_000_00, 50_00) for account in ACCOUNTS}
    number = 0
    for ago in range(DAYS, 0, -1):
        day = today - timedelta(days=ago)
        for account, salary in salaries.items():
            for kind, amount_minor, description, category in _day(chance, day, salary):
                number += 1
                moment = time(chance.randrange(8, 22), chance.randrange(60), tzinfo=UTC)
                line = {
                    "accountId": account,
                    "type": kind,
                    "value": f"{amount_minor // 100}.{amount_minor % 100:02d}",
                    "currency": "BRL",
                    "description": description,
                    "occurredAt": datetime.combine(day, moment).isoformat(),
                    "metadata": {"category": category},
                    "idempotencyKey": f"demo-{seed}-{today.isoformat()}-{number}",
                }
                yield json.dumps(line, ensure_ascii=False)


def _day(chance: random.Random, day: date, salary: int) -> Iterator[tuple[str, int, str, str]]:
    """Yield one account's transactions of one day: kind, amount, description, category."""
    if day.day == PAYDAY:
        yield "INCOME", salary, "Salário", "salary"
        if day.month == DECEMBER:
            yield "INCOME", salary, "Décimo terceiro", "salary"
    if day.day == RENT_DAY:
        yield "EXPENSE", salary * 28 // 100, "Aluguel", "rent"
        yield "EXPENSE", chance.randrange(80_00, 220_00), "Energia elétrica", "utilities"
    occasions = (*OCCASIONAL, WEEKENDS) if day.weekday() >= FRIDAY else OCCASIONAL
    for often, kind, low_minor, high_minor, descriptions, category in occasions:
        if chance.random() < often:
            amount_minor = chance.randrange(low_minor, high_minor)
            yield kind, amount_minor, chance.choice(descriptions), category
