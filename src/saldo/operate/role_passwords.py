"""How the functions' roles log in: by IAM, or by passwords that `saldo migrate` sets.

It reads them from ROLE_PASSWORD_RECORD, _PROJECT, _QUERY and _OPERATE, or from the files that the
same names with _FILE at the end name (a Docker secret, a mounted Kubernetes Secret). PostgreSQL
gets a SCRAM verifier, made here: its logs and statistics never see a password.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from saldo.serve.functions import BALANCE, FUNCTIONS, PROJECT, RECORD
from saldo.serve.settings import BadSetting

SETTINGS = {
    "ROLE_PASSWORD_RECORD": RECORD.role,
    "ROLE_PASSWORD_PROJECT": PROJECT.role,
    "ROLE_PASSWORD_QUERY": BALANCE.role,
    "ROLE_PASSWORD_OPERATE": "saldo_operate",
}
PASSWORD_CHARACTERS_MIN = 16
# PostgreSQL's own numbers for SCRAM-SHA-256.
ITERATIONS = 4_096
SALT_BYTES = 16


def read_role_passwords(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the passwords that are set, by role; raise BadSetting."""
    env = os.environ if environ is None else environ
    found: dict[str, str] = {}
    for setting, role in SETTINGS.items():
        password, file = env.get(setting, ""), env.get(f"{setting}_FILE")
        if file and password:
            raise BadSetting(setting, f"is set, and {setting}_FILE too")
        if file:
            password = _read(f"{setting}_FILE", file)
        if password:
            _check(f"{setting}_FILE" if file else setting, password)
            found[role] = password
    return found


def _read(setting: str, file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise BadSetting(setting, f"cannot be read: {reason}") from error


def _check(setting: str, password: str) -> None:
    # SCRAM normalizes other characters first (RFC 4013); these are the same before and after.
    if not (password.isascii() and password.isprintable()):
        raise BadSetting(setting, "must be printable ASCII")
    if len(password) < PASSWORD_CHARACTERS_MIN:
        raise BadSetting(setting, f"must have at least {PASSWORD_CHARACTERS_MIN} characters")


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """Return what PostgreSQL stores for ``password``, and accepts in its place (RFC 5802)."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    texts = [base64.b64encode(each).decode("ascii") for each in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${ITERATIONS}:{texts[0]}${texts[1]}:{texts[2]}"


def role_statements(passwords: Mapping[str, str], *, iam: bool) -> list[str]:
    """Return what lets the roles log in."""
    statements = []
    if iam:
        # Not saldo_operate: the owner may become it, and a role that reaches rds_iam, even
        # indirectly, cannot log in by password any more. The owner would be locked out.
        roles = [function.role for function in FUNCTIONS]
        statements += [f"ALTER ROLE {role} LOGIN; GRANT rds_iam TO {role}" for role in roles]
    for role, password in passwords.items():
        # A verifier is letters, digits and $:+/= only; ALTER ROLE takes no parameters.
        statements.append(f"ALTER ROLE {role} LOGIN PASSWORD '{scram_verifier(password)}'")
    return statements
