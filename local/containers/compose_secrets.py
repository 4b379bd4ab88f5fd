"""The passwords and settings of local/compose.yaml: `python -m local.containers.compose_secrets`.

Nothing of them is in the repository. They are made once for a folder, which only its owner may
enter, and stay with it, since the database's volume was made with them. The files in it are
readable to all, for they are mounted into containers that run as other users.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from pathlib import Path

from saldo.serve.functions import FUNCTIONS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".saldo" / "compose"
PASSWORD_BYTES = 24
HASH_SECRET_BYTES = 32


def make(folder: Path = FOLDER) -> bool:
    """Fill ``folder`` unless it is there; whether it was filled now."""
    if folder.exists():
        return False
    unfinished = folder.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    unfinished.chmod(0o700)
    for name, text in contents().items():
        file = unfinished / name
        file.write_text(text)
        file.chmod(0o644)
    # All files or none: half a set of passwords would open nothing.
    unfinished.rename(folder)
    return True


def contents() -> dict[str, str]:
    """Return the files, by name."""
    # Hexadecimal: nothing in it means something to a URL, a shell or Compose.
    owner = secrets.token_hex(PASSWORD_BYTES)
    hash_secret = secrets.token_hex(HASH_SECRET_BYTES)
    files = {"postgres_password": owner, "migrate.env": _databases("postgres", owner)}
    for function in FUNCTIONS:
        password = secrets.token_hex(PASSWORD_BYTES)
        files[f"role_password_{function.role.removeprefix('saldo_')}"] = password
        files[f"{function.name}.env"] = (
            _databases(function.role, password) + f"HASH_SECRET={hash_secret}\n"
        )
    return files


def _databases(role: str, password: str) -> str:
    url = f"postgresql://{role}:{password}@postgres:5432/saldo"
    return f"EVENT_STORE_URL={url}\nREAD_MODEL_URL={url}\n"


def main() -> int:
    """Make them, and say so."""
    made = make()
    print(f"saldo: {FOLDER.relative_to(ROOT)}: {'made' if made else 'as it was'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
