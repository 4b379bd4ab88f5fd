"""The local issuer: the tokens of `saldo token`, and the key set that verifies them."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import jwt
from typer.testing import CliRunner

from saldo.operate.terminal import App
from saldo.operate.token import issuer_command, jwks, token_command

if TYPE_CHECKING:
    from pathlib import Path

app = App()
app.command("token")(token_command)
app.command("issuer")(issuer_command)


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["token", *arguments], env={"OIDC_ISSUER": None})
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def claims_of(folder: Path, token: str) -> dict[str, object]:
    [key] = jwt.PyJWKSet.from_json(jwks(folder)).keys
    assert jwt.get_unverified_header(token)["kid"] == key.key_id
    claims: dict[str, object] = jwt.decode(token, key, algorithms=["ES256"], audience="saldo")
    return claims


def test_token_is_verified_by_the_key_set(tmp_path: Path) -> None:
    folder = tmp_path / "issuer"
    flags = ["--folder", str(folder), "--subject", "wesley", "--minutes", "5"]
    claims = claims_of(folder, printed(*flags, "--scope", "a", "--scope", "b"))
    assert (claims["sub"], claims["scope"]) == ("wesley", "a b")
    assert "saldo_accounts" not in claims
    assert int(str(claims["exp"])) - int(str(claims["iat"])) == 300
    named = claims_of(folder, printed(*flags, "--account", "a", "--account", "b"))
    assert named["saldo_accounts"] == ["a", "b"]
    assert claims_of(folder, printed(*flags, "--account", "*"))["saldo_accounts"] == "*"


def test_key_is_kept_and_readable_by_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "issuer"
    assert jwks(folder) == jwks(folder)
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == ["key.pem"]


def test_key_set_is_written_and_holds_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    printed("--folder", str(tmp_path), "--jwks", str(file))
    [key] = json.loads(file.read_text())["keys"]
    assert key.keys() == {"kty", "crv", "x", "y", "alg", "use", "kid"}


def test_lifetime_is_bounded(tmp_path: Path) -> None:
    for minutes in ("0", "1000000"):
        flags = ["token", "--folder", str(tmp_path), "--minutes", minutes]
        assert CliRunner().invoke(app, flags).exit_code == 2
