"""What the functions and the migrations need to know of PostgreSQL, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from infra_pulumi.layers.certificates import AUTHORITY_KEY
from infra_pulumi.layers.secrets import from_secret
from infra_pulumi.parts import FUNCTIONS, OPERATE_ROLE, ROLES

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


def password_url(role: str, field_name: str, host: str, port: int, database: str) -> str:
    """Return a URL as a template, into which the operator puts the password ``field_name``."""
    return f"postgresql://{role}:{{{{ .{field_name} }}}}@{host}:{port}/{database}?{VERIFIED}"


def role_urls(host: str, port: int, database: str) -> dict[str, str]:
    """Return the templates of each role's password, and of the URL around it."""
    made = {}
    for role in ROLES:
        made[role] = f"{{{{ .{role} }}}}"
        made[f"{role}-url"] = password_url(role, role, host, port, database)
    return made


def by_password(
    *, owner_url: dict[str, Any], authority: dict[str, Any], ready: list[pulumi.Resource]
) -> DatabaseAccess:
    """Return the access to a server whose roles have passwords, in the Secret CREDENTIALS."""
    return DatabaseAccess(
        auth="url",
        urls={f.role: {"valueFrom": from_secret(CREDENTIALS, f"{f.role}-url")} for f in FUNCTIONS},
        owner_url=owner_url,
        operate_url={"valueFrom": from_secret(CREDENTIALS, f"{OPERATE_ROLE}-url")},
        passwords={
            f"ROLE_PASSWORD_{role.removeprefix('saldo_').upper()}": {
                "valueFrom": from_secret(CREDENTIALS, role)
            }
            for role in ROLES
        },
        authority=authority,
        ready=ready,
    )
