"""What the functions and the migrations need to know of PostgreSQL, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from infra_pulumi.layers.certificates import AUTHORITY_KEY

if TYPE_CHECKING:
    import pulumi


# Where pods find the authority behind the database's certificate.
AUTHORITY_DIR = "/etc/saldo/database"
VERIFIED = f"sslmode=verify-full&sslrootcert={AUTHORITY_DIR}/{AUTHORITY_KEY}"
CREDENTIALS = "database-credentials"
SUPERUSER = "saldo_owner"


@dataclass(frozen=True, kw_only=True, slots=True)
class DatabaseAccess:
    """What the functions and the migrations need to know."""

    auth: Literal["url", "rds-iam"]
    # By role: the value of the URL's variable, a text or a reference to a Secret.
    urls: dict[str, dict[str, Any]]
    owner_url: dict[str, Any]
    # Of the operator's role, which has a password everywhere.
    operate_url: dict[str, Any]
    # What the migrations are told besides: the passwords of the roles, where they have any.
    passwords: dict[str, dict[str, Any]]
    # The volume with the authority's certificate.
    authority: dict[str, Any]
    ready: list[pulumi.Resource]
    # By role: what the function's IAM role must allow.
    statements: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
