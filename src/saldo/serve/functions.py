"""The three functions. Each is deployed from the folder of its name in functions/."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function's name, its role in PostgreSQL and its port in the local stack."""

    name: str
    role: str
    port: int
    port_setting: str
    url_setting: str


RECORD = Function(
    name="record_transaction",
    role="saldo_record",
    port=8080,
    port_setting="RECORD_PORT",
    url_setting="RECORD_URL",
)
BALANCE = Function(
    name="get_balance",
    role="saldo_query",
    port=8081,
    port_setting="BALANCE_PORT",
    url_setting="BALANCE_URL",
)
PROJECT = Function(
    name="project_balance",
    role="saldo_project",
    port=8082,
    port_setting="PROJECT_PORT",
    url_setting="PROJECT_URL",
)
FUNCTIONS = (RECORD, BALANCE, PROJECT)
