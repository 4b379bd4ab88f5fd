"""The whole ledger as its clients see it: the functions on a worker's own database, with tokens.

All tests of a worker share one ledger, and each uses its own accounts. Kafka is down; a test that
reads delivers the event to the projector itself, as KafkaSource would.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from saldo.operate.token import make_token

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import Database, Served

ISSUER = "https://issuer.test"
AUDIENCE = "saldo"
SCOPES = ("transactions:write", "balances:read", "accounts:admin", "system:read")
ORIGIN = "https://bank.example"
DEADLINE_S = 120.0
# Longer than any run.
TOKEN_S = 86_400
SINK_SUBJECT = "system:serviceaccount:saldo:source"


def fresh(name: str = "account") -> str:
    """Return an account id that no other test uses."""
    return f"{name}-{secrets.token_hex(6)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """A local issuer: its key's folder, and where its key set is served."""

    folder: Path
    jwks_url: str

    def settings(self, prefix: str = "OIDC") -> dict[str, str]:
        """Return the settings that make a function accept its tokens."""
        return {
            "AUTH": "oidc",
            f"{prefix}_ISSUER": ISSUER,
            f"{prefix}_AUDIENCE": AUDIENCE,
            f"{prefix}_JWKS_URL": self.jwks_url,
        }

    def token(self, **claims: object) -> str:
        """Return a token for everything, changed by ``claims``; None leaves a claim out."""
        now = int(time.time())
        whole: dict[str, object] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "tester",
            "iat": now,
            "exp": now + TOKEN_S,
            "scope": " ".join(SCOPES),
            "saldo_accounts": "*",
            **claims,
        }
        said = {name: claim for name, claim in whole.items() if claim is not None}
        return make_token(self.folder, said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The three functions, and clients of the two that have clients."""

    database: Database
    issuer: Issuer
    served: dict[str, Served]
    record: httpx.Client
    balance: httpx.Client
    projector: httpx.Client

    def post(self, account_id: str, kind: str = "INCOME", value: object = 10, **more: Any) -> Any:
        """Record a transaction; what was answered."""
        headers = more.pop("headers", {})
        body = {"accountId": account_id, "type": kind, "value": value, **more}
        answer = self.record.post("/transactions", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def deliver(self, recorded: dict[str, Any]) -> None:
        """Tell the projector of an event, as KafkaSource does, and return once it is projected."""
        headers = {
            "ce-specversion": "1.0",
            "ce-id": recorded["id"],
            "ce-source": "/saldo/transactions",
            "ce-type": "saldo.transaction.recorded",
            "ce-subject": recorded["accountId"],
            "ce-sequence": str(recorded["position"]),
            "ce-time": recorded["recordedAt"],
            "content-type": "application/json",
        }
        answer = self.projector.post("/", headers=headers, content=json.dumps({"event": None}))
        assert answer.status_code == 200, answer.text

    def recorded(self, account_id: str, *values: int) -> list[Any]:
        """Record and project incomes of ``values``."""
        answers = [self.post(account_id, value=value) for value in values or (10,)]
        self.deliver(answers[-1])
        return answers

    def client(self, function: str, token: str | None) -> httpx.Client:
        """Return a client with another token, or none."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        url = self.served[function].url
        return httpx.Client(base_url=url, headers=headers, timeout=DEADLINE_S, verify=False)  # noqa: S501 - no TLS here; its set-up takes long


def etag_of(told: dict[str, Any]) -> str:
    """Return the ETag of an account's state, of a recorded event or of a balance."""
    return f'"{told["position"]}-{told["hash"][:16]}"'


def problem_type(answer: httpx.Response) -> str:
    """Return the name of the problem that was answered."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = answer.json()
    assert body["status"] == answer.status_code
    assert {"type", "title", "status", "detail"} <= body.keys()
    return str(body["type"]).removeprefix("urn:saldo:problem:")
