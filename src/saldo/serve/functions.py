"""The three functions. Each is deployed from the folder of its name in functions/."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function's name, its role in PostgreSQL and its port in the local stack."""

    name: str
    role: str
    port: int
    # Of the settings that change its address: RECORD_URL for the commands, RECORD_PORT for `make`.
    prefix: str


RECORD = Function(name="record_transaction", role="saldo_record", port=8080, prefix="RECORD")
BALANCE = Function(name="get_balance", role="saldo_query", port=8081, prefix="BALANCE")
PROJECT = Function(name="project_balance", role="saldo_project", port=8082, prefix="PROJECT")
FUNCTIONS = (RECORD, BALANCE, PROJECT)
