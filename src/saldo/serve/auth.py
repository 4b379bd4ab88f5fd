"""Who is asking: bearer JWTs of one issuer, verified once and remembered until they end.

AUTH=none is a Caller that may do everything, said outright in the settings.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import logging
import time
import urllib.request
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt

from saldo.serve.tracing import caller_is_known

if TYPE_CHECKING:
    from saldo.serve.settings import OidcSettings

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "ES256")
CLOCK_SKEW_S = 30
TOKEN_BYTES_MAX = 8_192
TOKENS_REMEMBERED_MAX = 10_000
ACCOUNTS_MAX = 1_000
# Keys are fetched when a token names one that is not known, but not more often than this, so that
# forged key ids cannot turn the function into a load on the issuer; and anew after an hour, so that
# a withdrawn key is forgotten.
JWKS_REFETCH_MIN_S = 10.0
JWKS_AGE_MAX_S = 3_600.0
JWKS_TIMEOUT_S = 5.0
JWKS_BYTES_MAX = 262_144

# How fetching and reading a key set fails.
NO_KEYS = (OSError, http.client.HTTPException, ValueError, RecursionError, jwt.PyJWTError)

WRITE = "transactions:write"
READ = "balances:read"
ADMIN = "accounts:admin"
SYSTEM = "system:read"


class Unauthenticated(Exception):  # noqa: N818 - it is what the caller is
    """A valid bearer token is needed."""


class Forbidden(Exception):  # noqa: N818 - it is what the request is
    """The token does not allow this."""


class IssuerUnavailable(Exception):  # noqa: N818 - an ordinary outcome of an outage
    """The issuer's keys cannot be fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Whom a token speaks for. ``accounts`` None means every account."""

    issuer: str
    subject: str
    scopes: frozenset[str]
    accounts: frozenset[str] | None

    def require(self, scope: str, account_id: str | None = None) -> None:
        """Raise Forbidden unless ``scope`` is granted, and on that account where one is named.

        The message is the same whatever is missing, and whether the account exists or not.
        """
        if scope not in self.scopes:
            raise Forbidden
        if account_id is not None and self.accounts is not None and account_id not in self.accounts:
            raise Forbidden


ANYONE = Caller(
    issuer="none",
    subject="anonymous",
    scopes=frozenset({WRITE, READ, ADMIN, SYSTEM}),
    accounts=None,
)


class Keys:
    """The issuer's public keys (JWKS), fetched when needed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = -JWKS_AGE_MAX_S
        self._tried_at = -JWKS_REFETCH_MIN_S
        self._out_of_reach = False
        self._fetching = asyncio.Lock()

    async def get(self, key_id: str) -> jwt.PyJWK:
        """The key of that id; raises Unauthenticated or IssuerUnavailable."""
        if not self._is_fresh(key_id):
            async with self._fetching:
                if not self._is_fresh(key_id):
                    await self._refresh()
        key = self._keys.get(key_id)
        if key is not None:
            return key  # better an old key than an outage; the next try comes soon
        if self._out_of_reach:
            # The key may well be a new one: the client's token is not to be called bad for that.
            raise IssuerUnavailable
        raise Unauthenticated

    def _is_fresh(self, key_id: str) -> bool:
        return key_id in self._keys and time.monotonic() - self._fetched_at <= JWKS_AGE_MAX_S

    async def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._tried_at < JWKS_REFETCH_MIN_S:
            return
        self._tried_at = now
        try:
            # The thread's own timeout is one for each read; a slow answer is not waited for longer.
            async with asyncio.timeout(JWKS_TIMEOUT_S):
                self._keys = await asyncio.to_thread(_fetch, self._url)
        except NO_KEYS as error:
            log.warning(
                "the issuer's keys could not be fetched: %s", str(error) or type(error).__name__
            )
            self._out_of_reach = True
        else:
            self._fetched_at, self._out_of_reach = now, False


def _fetch(url: str) -> dict[str, jwt.PyJWK]:
    """The issuer's signing keys by id; keys of other kinds and uses are passed over."""
    with urllib.request.urlopen(url, timeout=JWKS_TIMEOUT_S) as answer:  # noqa: S310 - https or http, checked in the settings
        document = json.loads(answer.read(JWKS_BYTES_MAX))
    if not isinstance(document, dict):
        raise ValueError("the key set is not a JSON object")  # noqa: TRY004 - it came from outside
    return {
        key.key_id: key
        for key in jwt.PyJWKSet.from_dict(document).keys
        if isinstance(key.key_id, str)
        and key.algorithm_name in ALGORITHMS
        and key.public_key_use in {None, "sig"}
    }


def authenticator_of(
    settings: OidcSettings | None, subjects: frozenset[str] = frozenset()
) -> Authenticator | None:
    """An Authenticator, or None where AUTH=none was said."""
    return None if settings is None else Authenticator(settings, subjects)


class Authenticator:
    """Turns an Authorization header into a Caller."""

    def __init__(self, settings: OidcSettings, subjects: frozenset[str] = frozenset()) -> None:
        self._settings = settings
        self._subjects = subjects
        self._keys = Keys(settings.jwks_url)
        # By the hash of the whole header: a token that is in use is kept nowhere.
        self._remembered: OrderedDict[bytes, tuple[int, Caller]] = OrderedDict()

    def remembered(self, authorization: str | None) -> Caller | None:
        """The caller of a header that was verified before, while its token is valid."""
        if authorization is None:
            return None
        known = self._remembered.get(_digest(authorization))
        if known is None or known[0] <= time.time():
            return None
        caller_is_known()
        return known[1]

    async def authenticate(self, authorization: str | None) -> Caller:
        """The caller of ``Authorization: Bearer TOKEN``; raises Unauthenticated."""
        if authorization is None or not authorization[:7].lower() == "bearer ":
            raise Unauthenticated
        token = authorization[7:].strip()
        if len(token) > TOKEN_BYTES_MAX:
            raise Unauthenticated
        known = self.remembered(authorization)
        if known is not None:
            return known
        digest = _digest(authorization)
        self._remembered.pop(digest, None)  # its time is over
        expires_at, caller = await self._verify(token)
        self._remembered[digest] = (expires_at, caller)
        if len(self._remembered) > TOKENS_REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        caller_is_known()
        return caller

    async def _verify(self, token: str) -> tuple[int, Caller]:
        try:
            header = jwt.get_unverified_header(token)
            key_id = header.get("kid")
            if header.get("alg") not in ALGORITHMS or not isinstance(key_id, str):
                raise Unauthenticated
            key = await self._keys.get(key_id)
            if key.algorithm_name != header["alg"]:
                raise Unauthenticated
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=CLOCK_SKEW_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise Unauthenticated from error
        subject = claims["sub"]
        if self._subjects and subject not in self._subjects:
            raise Forbidden
        return int(claims["exp"]) + CLOCK_SKEW_S, _caller(claims, self._settings.issuer)


def _digest(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode("utf-8", "replace")).digest()


def _caller(claims: dict[str, Any], issuer: str) -> Caller:
    subject = claims["sub"]
    scope = claims.get("scope", claims.get("scp"))
    scopes = scope.split() if isinstance(scope, str) else scope
    named = claims.get("saldo_accounts", [subject])
    if named == "*":
        accounts = None
    elif isinstance(named, list) and len(named) <= ACCOUNTS_MAX:
        accounts = frozenset(name for name in named if isinstance(name, str))
    else:
        raise Unauthenticated
    return Caller(
        issuer=issuer,
        subject=subject,
        scopes=frozenset(s for s in scopes if isinstance(s, str))
        if isinstance(scopes, list)
        else frozenset(),
        accounts=accounts,
    )
