"""Heads: each account's last position and hash, signed, kept where the database's owner cannot go.

A chain shows a change to one event, but not a table that was rewritten as a whole. Earlier heads
do: the events that they name must still be in the chains.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from saldo.operate.errors import HeadsError
from saldo.operate.verification.findings import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from pathlib import Path
    from typing import TextIO

    import asyncpg

KEY_BYTES_MIN = 32
BATCH = 5_000

HEADS = """
SELECT account_id, position, hash FROM event_store.stream WHERE position > 0 ORDER BY account_id
"""
HELD = """
SELECT h.account_id, h.position, e.hash
FROM unnest($1::text[], $2::bigint[]) AS h (account_id, position)
LEFT JOIN event_store.event AS e ON e.account_id = h.account_id AND e.position = h.position
"""


async def write_heads(
    connection: asyncpg.Connection[asyncpg.Record], out: TextIO, key: Path, now: datetime
) -> int:
    """Write all heads, signed with ``key`` (Ed25519 in PEM or a hex secret); return how many."""
    sign = _signer(key)
    digest = hashlib.sha256()
    heads = 0

    def write(members: dict[str, Any]) -> None:
        line = json.dumps(members, separators=(",", ":")) + "\n"
        digest.update(line.encode())
        out.write(line)

    write({"heads": 1, "taken": now.isoformat()})
    async for row in connection.cursor(HEADS, prefetch=BATCH):
        write(
            {
                "account": row["account_id"],
                "position": row["position"],
                "hash": row["hash"].hex(),
            }
        )
        heads += 1
    out.write(json.dumps({"signature": sign(digest.digest()).hex()}) + "\n")
    return heads


async def compare_heads(
    connection: asyncpg.Connection[asyncpg.Record], lines: Iterable[str], key: Path
) -> tuple[list[Fault], int]:
    """Return a fault for each head that the store no longer has, and the count of all heads.

    Raise HeadsError. The file is read to its signature before the first head is compared.
    """
    heads = _checked(lines, key)
    faults = []
    for start in range(0, len(heads), BATCH):
        batch = heads[start : start + BATCH]
        expected = {(h["account"], h["position"]): h["hash"] for h in batch}
        rows = await connection.fetch(
            HELD, [h["account"] for h in batch], [h["position"] for h in batch]
        )
        for row in rows:
            account_id, position = row["account_id"], row["position"]
            held = row["hash"] and row["hash"].hex()
            if held != expected[account_id, position]:
                reason = "it is not the signed head's: the chain was rewritten"
                if held is None:
                    reason = "the event of the signed head is gone"
                faults.append(Fault("event", "hash", reason, account_id, position))
    return faults, len(heads)


def _checked(lines: Iterable[str], key: Path) -> list[dict[str, Any]]:
    """Return the heads of a file whose signature is right; raise HeadsError."""
    digest = hashlib.sha256()
    heads: list[dict[str, Any]] = []
    signature = None
    try:
        for line in lines:
            members = json.loads(line)
            if "signature" in members:
                signature = bytes.fromhex(members["signature"])
                break
            digest.update(line.encode())
            if "account" in members:
                heads.append(members)
    except (ValueError, TypeError) as error:
        raise HeadsError("it is not a file of heads") from error
    if signature is None:
        raise HeadsError("the signature is missing: the file is cut off")
    if not _is_signed(digest.digest(), signature, key):
        raise HeadsError("the signature is not that of this key and these heads")
    return heads


def _signer(key: Path) -> Callable[[bytes], bytes]:
    text = key.read_bytes()
    if text.startswith(b"-----BEGIN"):
        private = load_pem_private_key(text, None)
        if not isinstance(private, Ed25519PrivateKey):
            raise HeadsError(f"{key} must be an Ed25519 key")
        return private.sign
    secret = _secret(text, key)
    return lambda digest: hmac.digest(secret, digest, "sha256")


def _is_signed(digest: bytes, signature: bytes, key: Path) -> bool:
    text = key.read_bytes()
    if not text.startswith(b"-----BEGIN"):
        return hmac.compare_digest(hmac.digest(_secret(text, key), digest, "sha256"), signature)
    public = (
        load_pem_public_key(text)
        if b"PUBLIC KEY" in text
        else load_pem_private_key(text, None).public_key()
    )
    if not isinstance(public, Ed25519PublicKey):
        raise HeadsError(f"{key} must be an Ed25519 key")
    try:
        public.verify(signature, digest)
    except InvalidSignature:
        return False
    return True


def _secret(text: bytes, key: Path) -> bytes:
    try:
        secret = bytes.fromhex(text.decode().strip())
    except ValueError:
        secret = b""
    if len(secret) < KEY_BYTES_MIN:
        raise HeadsError(f"{key} must hold at least {KEY_BYTES_MIN} bytes in hex, or a PEM key")
    return secret
