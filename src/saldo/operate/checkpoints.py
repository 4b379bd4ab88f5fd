"""Signed checkpoints: each account's last position and hash, kept outside the database.

A chain shows a change to one event, but not a table that was rewritten as a whole. An earlier
checkpoint does: the events that it names must still be in the chains. Its lines are
called heads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import Algorithm, HMACAlgorithm, OKPAlgorithm

from saldo.operate.errors import CommandError
from saldo.operate.settings import Connection
from saldo.operate.terminal import json_line
from saldo.operate.verification.findings import Fault

KEY_BYTES_MIN = 32
BATCH = 5_000

HEADS = """
SELECT account_id AS account, position, hash
FROM event_store.stream WHERE position > 0 ORDER BY account_id
"""
REWRITTEN = """
SELECT h.account_id, h.position, e.hash IS NULL AS gone
FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS h (account_id, position, hash)
LEFT JOIN event_store.event AS e ON e.account_id = h.account_id AND e.position = h.position
WHERE e.hash IS DISTINCT FROM h.hash
"""


async def write_checkpoint(
    connection: Connection, out: TextIO, key_file: Path, now: datetime
) -> int:
    """Write all heads, signed with an Ed25519 key in PEM or a hex secret; return their count."""
    algorithm, key = _read_key(key_file)
    if isinstance(key, Ed25519PublicKey):
        raise CommandError(f"{key_file} must hold the private key")
    digest = hashlib.sha256()
    count = 0

    def write(members: dict[str, Any]) -> None:
        line = json_line(members)
        digest.update(line.encode())
        out.write(line)

    write({"heads": 1, "taken": now})
    async for row in connection.cursor(HEADS, prefetch=BATCH):
        write(dict(row))
        count += 1
    out.write(json.dumps({"signature": algorithm.sign(digest.digest(), key).hex()}) + "\n")
    return count


async def compare_checkpoint(
    connection: Connection, lines: Iterable[str], key_file: Path
) -> tuple[list[Fault], int]:
    """Return a fault for each head that the store no longer has, and the count of all heads.

    The signature is checked before the first head is compared. Raise CommandError.
    """
    heads = _read_heads(lines, key_file)
    faults = []
    for start in range(0, len(heads), BATCH):
        accounts, positions, hashes = zip(*heads[start : start + BATCH], strict=True)
        for row in await connection.fetch(REWRITTEN, accounts, positions, hashes):
            reason = "it is not the signed checkpoint's: the chain was rewritten"
            if row["gone"]:
                reason = "the event of the signed checkpoint is gone"
            faults.append(Fault("event", "hash", reason, row["account_id"], row["position"]))
    return faults, len(heads)


def _read_heads(lines: Iterable[str], key_file: Path) -> list[tuple[str, int, bytes]]:
    """Return the heads of a file whose signature is right; raise CommandError."""
    digest = hashlib.sha256()
    heads = []
    signature = None
    try:
        for line in lines:
            members = json.loads(line)
            if "signature" in members:
                signature = bytes.fromhex(members["signature"])
                break
            digest.update(line.encode())
            if "account" in members:
                event_hash = bytes.fromhex(members["hash"])
                heads.append((members["account"], members["position"], event_hash))
    except (ValueError, TypeError, LookupError) as error:
        raise CommandError("it is not a signed checkpoint") from error
    if signature is None:
        raise CommandError("the signature is missing: the file is cut off")
    algorithm, key = _read_key(key_file)
    if not algorithm.verify(digest.digest(), key, signature):
        raise CommandError("the signature is not that of this key and this checkpoint")
    return heads


def _read_key(file: Path) -> tuple[Algorithm, Any]:
    """Return the algorithm of the key in ``file``, and the key; raise CommandError."""
    text = file.read_bytes()
    if text.startswith(b"-----BEGIN"):
        with contextlib.suppress(ValueError, jwt.InvalidKeyError):
            key = OKPAlgorithm().prepare_key(text)
            if isinstance(key, Ed25519PrivateKey | Ed25519PublicKey):
                return OKPAlgorithm(), key
        raise CommandError(f"{file} must be an Ed25519 key")
    with contextlib.suppress(ValueError):
        secret = bytes.fromhex(text.decode().strip())
        if len(secret) >= KEY_BYTES_MIN:
            return HMACAlgorithm(HMACAlgorithm.SHA256), secret
    raise CommandError(f"{file} must hold at least {KEY_BYTES_MIN} bytes in hex, or a PEM key")
