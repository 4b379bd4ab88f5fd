"""The issuer's public keys: a JSON Web Key Set, fetched when needed and again once it is old."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import logging
import time
import urllib.request
from dataclasses import dataclass

import jwt

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "ES256")
# A token with an unknown key causes a fetch, but not more often than this: forged tokens must not
# put load on the issuer.
JWKS_REFETCH_MIN_S = 10.0
# Older keys are fetched again before use. While the issuer can be reached, a withdrawn key and its
# tokens are accepted for at most this long.
JWKS_AGE_MAX_S = 300.0
JWKS_TIMEOUT_S = 5.0
JWKS_BYTES_MAX = 262_144
# A token that names no key is tried with each.
KEYS_MAX = 32

# How fetching and reading a key set fails.
NO_KEYS = (OSError, http.client.HTTPException, ValueError, RecursionError)


@dataclass(frozen=True, slots=True)
class Key:
    """A public key that tokens may be signed by; ``thumbprint`` is the key itself (RFC 7638)."""

    key_id: str | None
    thumbprint: bytes
    jwk: jwt.PyJWK


class Keys:
    """The issuer's public keys (JWKS), fetched when needed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: list[Key] = []
        self._thumbprints: frozenset[bytes] = frozenset()
        self._fetched_at = -JWKS_AGE_MAX_S
        self._tried_at = -JWKS_REFETCH_MIN_S
        self._fetching: asyncio.Task[None] | None = None
        self.out_of_reach = False

    @property
    def are_young(self) -> bool:
        """Whether they were fetched within JWKS_AGE_MAX_S."""
        return time.monotonic() - self._fetched_at <= JWKS_AGE_MAX_S

    def hold(self, thumbprint: bytes) -> bool:
        """Whether that key was among them when they were last fetched."""
        return thumbprint in self._thumbprints

    def name(self, key_id: str | None) -> bool:
        """Whether one of them has that id."""
        return key_id is not None and any(key.key_id == key_id for key in self._keys)

    def matching(self, key_id: str | None, algorithm: str) -> list[Key]:
        """Return the keys that a token may be signed by; an id is optional on both sides."""
        keys = [key for key in self._keys if key.jwk.algorithm_name == algorithm]
        if key_id is None:
            return keys
        named = [key for key in keys if key.key_id == key_id]
        return named or [key for key in keys if key.key_id is None]

    async def renew_old(self) -> None:
        """Fetch the keys again unless they are young; use old ones while the issuer is down."""
        if not self.are_young:
            fetching = self._start_fetching()
            if fetching is not None and not self.out_of_reach:
                await asyncio.shield(fetching)

    async def renew(self) -> None:
        """Fetch the keys again, unless that was tried within JWKS_REFETCH_MIN_S."""
        fetching = self._start_fetching()
        if fetching is not None:
            await asyncio.shield(fetching)

    def _start_fetching(self) -> asyncio.Task[None] | None:
        if self._fetching is None or self._fetching.done():
            now = time.monotonic()
            if now - self._tried_at < JWKS_REFETCH_MIN_S:
                return None
            self._tried_at = now
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        now = time.monotonic()
        try:
            # The thread's own timeout is for each read.
            async with asyncio.timeout(JWKS_TIMEOUT_S):
                self._keys = await asyncio.to_thread(_fetch, self._url)
        except NO_KEYS as error:
            log.warning(
                "the issuer's keys could not be fetched: %s", str(error) or type(error).__name__
            )
            self.out_of_reach = True
        else:
            self._thumbprints = frozenset(key.thumbprint for key in self._keys)
            # Without any key no token can be checked.
            self._fetched_at, self.out_of_reach = now, not self._keys


def _fetch(url: str) -> list[Key]:
    """Return the issuer's signing keys; a key that cannot be used is skipped."""
    with urllib.request.urlopen(url, timeout=JWKS_TIMEOUT_S) as answer:  # noqa: S310 - https or http, checked in the settings
        document = json.loads(answer.read(JWKS_BYTES_MAX))
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError("the key set is not a JSON object with a list of keys")  # noqa: TRY004 - it came from outside
    return [key for each in members if (key := _usable_key(each)) is not None][:KEYS_MAX]


def _usable_key(members: object) -> Key | None:
    """Return the key of one member of a key set, or None where it verifies no token."""
    if not isinstance(members, dict):
        return None
    key_id = members.get("kid")
    try:
        usable = (members.get("use") or "sig") == "sig"
        usable = usable and "verify" in members.get("key_ops", ["verify"])
        jwk = jwt.PyJWK.from_dict(members)
        # Raises for a private key, and for a curve that is not the algorithm's.
        jwk.Algorithm.verify(b"", jwk.Algorithm.prepare_key(jwk.key), b"")
    except Exception:  # noqa: BLE001 - whatever is wrong with one key, the others must work
        return None
    if jwk.algorithm_name not in ALGORITHMS or not usable:
        return None
    material = {name: members.get(name) for name in ("crv", "e", "kty", "n", "x", "y")}
    return Key(
        key_id if isinstance(key_id, str) else None,
        hashlib.sha256(json.dumps(material).encode()).digest(),
        jwk,
    )
