"""Who is asking: bearer JWTs of one issuer, verified once and remembered while their key holds.

AUTH=none is a Caller that may do everything, said outright in the settings.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt

from saldo.serve.http.problems import Rule
from saldo.serve.jwks import ALGORITHMS, Key, Keys
from saldo.serve.telemetry.tracing import caller_is_known

if TYPE_CHECKING:
    from saldo.serve.http.request import Request
    from saldo.serve.settings import OidcSettings

CLOCK_SKEW_S = 30
TOKEN_BYTES_MAX = 8_192
# The callers of remembered tokens, as Python holds them: one of many accounts takes 90 kB.
REMEMBERED_BYTES_MAX = 32 * 1024 * 1024
REMEMBERED_ENTRY_BYTES = 1_000
ACCOUNTS_MAX = 1_000
WRITE = "transactions:write"
READ = "balances:read"
ADMIN = "accounts:admin"
SYSTEM = "system:read"


class Unauthenticated(Exception):
    """A valid bearer token is needed."""


class Forbidden(Exception):
    """The token does not allow this."""


class IssuerUnavailable(Exception):
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


def authenticator_of(settings: OidcSettings | None) -> Authenticator | None:
    """Return an Authenticator, or None under AUTH=none."""
    return None if settings is None else Authenticator(settings)


@dataclass(frozen=True, slots=True)
class Remembered:
    """A verified token: whom it speaks for, until when, and by which key."""

    caller: Caller
    expires_at: int
    thumbprint: bytes

    def bytes_held(self) -> int:
        """Return about how much memory it takes."""
        names = [*self.caller.scopes, *(self.caller.accounts or ())]
        sets = sys.getsizeof(self.caller.scopes) + sys.getsizeof(self.caller.accounts)
        return REMEMBERED_ENTRY_BYTES + sets + sum(map(sys.getsizeof, names))


class Authenticator:
    """Turns an Authorization header into a Caller."""

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        self._keys = Keys(settings.jwks_url)
        # By the token's hash: a token that is in use is kept nowhere.
        self._remembered: OrderedDict[bytes, Remembered] = OrderedDict()
        self._bytes_held = 0

    async def authenticate(self, authorization: str | None) -> Caller:
        """Return the caller of ``Authorization: Bearer TOKEN``; raises Unauthenticated."""
        token = _token_of(authorization)
        if token is None:
            raise Unauthenticated
        await self._keys.renew_old()
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        known = self._recall(digest)
        if known is not None:
            return known
        self._forget(digest)
        verified = await self._verify(token)
        self._forget(digest)  # another request may have verified it meanwhile
        self._remembered[digest] = verified
        self._bytes_held += verified.bytes_held()
        while self._bytes_held > REMEMBERED_BYTES_MAX:
            self._forget(next(iter(self._remembered)))
        caller_is_known()
        return verified.caller

    def _recall(self, digest: bytes) -> Caller | None:
        known = self._remembered.get(digest)
        if known is None or known.expires_at <= time.time():
            return None
        if not self._keys.hold(known.thumbprint):
            return None
        caller_is_known()
        return known.caller

    def _forget(self, digest: bytes) -> None:
        known = self._remembered.pop(digest, None)
        if known is not None:
            self._bytes_held -= known.bytes_held()

    async def _verify(self, token: str) -> Remembered:
        try:
            header = jwt.get_unverified_header(token)
            algorithm, key_id = header.get("alg"), header.get("kid")
            if algorithm not in ALGORITHMS or not isinstance(key_id, str | None):
                raise Unauthenticated
            verified = self._verify_by(self._keys.matching(key_id, algorithm), token)
            if verified is None and not self._keys.name(key_id):
                # Its key may be a new one.
                await self._keys.renew()
                verified = self._verify_by(self._keys.matching(key_id, algorithm), token)
        except jwt.PyJWTError as error:
            raise Unauthenticated from error
        if verified is not None:
            return verified
        if self._keys.out_of_reach and not self._keys.name(key_id):
            # The client's token is not to be called bad for that.
            raise IssuerUnavailable
        raise Unauthenticated

    def _verify_by(self, keys: list[Key], token: str) -> Remembered | None:
        """Return what the token says, by the first key that has signed it; None without one."""
        for key in keys:
            try:
                claims = jwt.decode(
                    token,
                    key.jwk,
                    algorithms=list(ALGORITHMS),
                    audience=self._settings.audience,
                    issuer=self._settings.issuer,
                    leeway=CLOCK_SKEW_S,
                    options={"require": ["exp", "iss", "aud", "sub"]},
                )
            except jwt.InvalidSignatureError:
                continue
            if self._settings.subjects and claims["sub"] not in self._settings.subjects:
                raise Forbidden
            return Remembered(
                _caller(claims, self._settings.issuer),
                int(claims["exp"]) + CLOCK_SKEW_S,
                key.thumbprint,
            )
        return None


def _token_of(authorization: str | None) -> str | None:
    """Return the bearer token of a header; None without one, and for one that is too long."""
    if authorization is None or authorization[:7].lower() != "bearer ":
        return None
    token = authorization[7:].strip()
    return token if len(token) <= TOKEN_BYTES_MAX else None


def _caller(claims: dict[str, Any], issuer: str) -> Caller:
    subject = claims["sub"]
    scope = claims.get("scope", claims.get("scp"))
    scopes = scope.split() if isinstance(scope, str) else scope if isinstance(scope, list) else ()
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
        scopes=frozenset(each for each in scopes if isinstance(each, str)),
        accounts=accounts,
    )


RULES: dict[type[Exception], Rule] = {
    Unauthenticated: Rule(
        401,
        "unauthenticated",
        "A valid bearer token is needed",
        headers={"WWW-Authenticate": "Bearer"},
    ),
    Forbidden: Rule(403, "forbidden", "The token does not allow this"),
    IssuerUnavailable: Rule(503, "issuer-unavailable", "Tokens cannot be checked", retry_after_s=5),
}


async def caller_of(authenticator: Authenticator | None, request: Request) -> Caller:
    """Return who sends ``request``, anyone under AUTH=none; raises Unauthenticated."""
    if authenticator is None:
        return ANYONE
    return await authenticator.authenticate(request.header(b"authorization"))
