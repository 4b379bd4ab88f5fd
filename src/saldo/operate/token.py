"""A local issuer: tokens for trying the authentication, and the key set that proves them.

It is for a laptop and for tests. In production, tokens come from the identity provider that
OIDC_ISSUER names.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jwt
import typer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ISSUER_FOLDER = Path(".saldo/issuer")
MINUTES_MAX = 7 * 24 * 60

Folder = Annotated[Path, typer.Option(help="Where the key is kept.")]


def signing_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    """Return the private key kept in ``folder``, made at the first call, readable by its owner."""
    path = folder / "key.pem"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        unfinished = path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600, exist_ok=False)
        unfinished.write_bytes(text)
        unfinished.rename(path)
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise typer.BadParameter(f"{path} holds a key of another kind: remove it")
    return key


def public_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """Return the public half as a JWK. Its id is its RFC 7638 thumbprint."""
    members = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    named = {name: members[name] for name in ("crv", "kty", "x", "y")}
    digest = hashlib.sha256(json.dumps(named, separators=(",", ":")).encode()).digest()
    key_id = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return {**named, "alg": "ES256", "use": "sig", "kid": key_id}


def jwks(folder: Path) -> str:
    """Return the key set of the issuer in ``folder``."""
    return json.dumps({"keys": [public_jwk(signing_key(folder))]})


def make_token(folder: Path, claims: dict[str, object]) -> str:
    """Return a signed token of ``claims``."""
    key = signing_key(folder)
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": public_jwk(key)["kid"]})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimOptions:
    """What the token says."""

    subject: Annotated[str, typer.Option(help="The claim sub: the client.")] = "me"
    scope: Annotated[list[str] | None, typer.Option(help="Such as balances:read; repeatable.")] = (
        None
    )
    account: Annotated[
        list[str] | None, typer.Option(help="Or '*'; repeatable. Default: the subject's.")
    ] = None
    minutes: Annotated[int, typer.Option(min=1, max=MINUTES_MAX)] = 60
    issuer: Annotated[str, typer.Option(envvar="OIDC_ISSUER")] = "http://127.0.0.1:8089"
    audience: Annotated[str, typer.Option(envvar="OIDC_AUDIENCE")] = "saldo"


def token_command(
    *,
    options: ClaimOptions,
    folder: Folder = ISSUER_FOLDER,
    jwks_file: Annotated[
        Path | None, typer.Option("--jwks", help="Write the key set here.")
    ] = None,
) -> None:
    """Print a token of the local issuer, for trying the authentication."""
    if jwks_file is not None:
        jwks_file.write_text(jwks(folder))
        return
    now = int(time.time())
    claims: dict[str, object] = {
        "iss": options.issuer,
        "aud": options.audience,
        "sub": options.subject,
        "iat": now,
        "exp": now + options.minutes * 60,
        "scope": " ".join(options.scope or ["transactions:write", "balances:read"]),
    }
    if options.account:
        claims["saldo_accounts"] = "*" if options.account == ["*"] else options.account
    typer.echo(make_token(folder, claims))


def issuer_command(
    *,
    port: Annotated[int, typer.Option(min=0, max=65_535)] = 8089,
    folder: Folder = ISSUER_FOLDER,
) -> None:
    """Serve the local issuer's key set on this machine, for OIDC_JWKS_URL."""
    with issuer_server(folder, port) as server, contextlib.suppress(KeyboardInterrupt):
        typer.echo(f"http://127.0.0.1:{server.server_port}/jwks.json")
        server.serve_forever()


def issuer_server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """Return a server of the key set on loopback. It reads the key again at each request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = jwks(folder).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/jwk-set+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing: the terminal is the operator's."""

    return http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
