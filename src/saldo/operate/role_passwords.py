"""The passwords of the functions' roles, where they log in by password and not by IAM.

`saldo migrate` reads them from ROLE_PASSWORD_RECORD, _PROJECT, _QUERY and _OPERATE, or from the
files that the same names with _FILE at the end name (a Docker secret, a mounted Kubernetes Secret).
PostgreSQL gets a SCRAM verifier, made here: its logs and statistics never see a password.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from saldo.serve.settings import BadSetting

if TYPE_CHECKING:
    from collections.abc import Mapping

SETTINGS = {
    "ROLE_PASSWORD_RECORD": "saldo_record",
    "ROLE_PASSWORD_PROJECT": "saldo_project",
    "ROLE_PASSWORD_QUERY": "saldo_query",
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
        password, by_file = env.get(setting, ""), f"{setting}_FILE"
        if not env.get(by_file):
            if password:
                found[role] = _checked(setting, password)
        elif password:
            raise BadSetting(setting, f"is set, and {by_file} too")
        elif password := _read(by_file, env[by_file]):
            found[role] = _checked(by_file, password)
    return found


def _read(setting: str, file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise BadSetting(setting, f"cannot be read: {reason}") from error


def _checked(setting: str, password: str) -> str:
    # SCRAM normalizes other characters first (RFC 4013); these are the same before and after.
    if not (password.isascii() and password.isprintable()):
        raise BadSetting(setting, "must be printable ASCII")
    if len(password) < PASSWORD_CHARACTERS_MIN:
        raise BadSetting(setting, f"must have at least {PASSWORD_CHARACTERS_MIN} characters")
    return password


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """Return what PostgreSQL stores for ``password``, and accepts in its place (RFC 5802)."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    texts = [base64.b64encode(each).decode("ascii") for each in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${ITERATIONS}:{texts[0]}${texts[1]}:{texts[2]}"
