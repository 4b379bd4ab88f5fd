"""Tokens, with a real server of key sets; only the clock is fake."""

from __future__ import annotations

import base64
import gc
import hashlib
import http.server
import json
import threading
import time
import tracemalloc
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from saldo.serve import jwks
from saldo.serve.http import auth
from saldo.serve.http.auth import (
    Authenticator,
    Caller,
    Forbidden,
    IssuerUnavailable,
    Unauthenticated,
)
from saldo.serve.settings import OidcSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

ISSUER, AUDIENCE = "https://issuer.test", "saldo"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def jwk(key: PrivateKey, key_id: str | None, **more: str) -> dict[str, Any]:
    """Return the public half, as an issuer publishes it."""
    if isinstance(key, rsa.RSAPrivateKey):
        members = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        members = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    named = {} if key_id is None else {"kid": key_id}
    return {**members, **named, "use": "sig", **more}


@dataclass(slots=True)
class KeyServer:
    """A server of a key set that can be changed, broken, and asked how often it was asked."""

    url: str = ""
    keys: list[Any] = field(default_factory=list)
    body: bytes | None = None
    status: int = 200
    requests: int = 0
    # Cleared, it takes requests and does not respond.
    hangs: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def server() -> Iterator[KeyServer]:
    state = KeyServer(keys=[jwk(RSA_KEY, "rsa"), jwk(EC_KEY, "ec")])

    state.hangs.set()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests += 1
            state.hangs.wait()
            self.send_response(state.status)
            self.end_headers()
            told = json.dumps({"keys": state.keys}).encode()
            self.wfile.write(told if state.body is None else state.body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as listening:
        state.url = f"http://127.0.0.1:{listening.server_port}/jwks"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield state
        listening.shutdown()
        thread.join()


@dataclass(slots=True)
class Clock:
    """What the authenticator takes for the time: it stands still unless the test moves it."""

    started: float = field(default_factory=time.time)
    ahead_s: float = 0.0

    def time(self) -> float:
        return self.started + self.ahead_s

    def monotonic(self) -> float:
        return self.started + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    for module in (auth, jwks):
        taken = SimpleNamespace(time=moved.time, monotonic=moved.monotonic)
        monkeypatch.setattr(module, "time", taken)
    return moved


@pytest.fixture
def authenticator(server: KeyServer, clock: Clock) -> Authenticator:
    del clock  # only that it stands in
    return Authenticator(OidcSettings(issuer=ISSUER, audience=AUDIENCE, jwks_url=server.url))


def token(
    key: Any = RSA_KEY,
    key_id: str | None = "rsa",
    algorithm: str = "RS256",
    **claims: Any,
) -> str:
    now = int(time.time())
    whole = {"iss": ISSUER, "aud": AUDIENCE, "sub": "wesley", "exp": now + 86_400} | claims
    said = {name: claim for name, claim in whole.items() if claim is not None}
    return jwt.encode(said, key, algorithm, {"kid": key_id} if key_id is not None else {})


async def caller_of(authenticator: Authenticator, text: str) -> Caller:
    return await authenticator.authenticate(f"Bearer {text}")


def remembered(authenticator: Authenticator, header: str | None) -> Caller | None:
    """Return the caller of a cached header, while its token and key are valid."""
    text = auth._token_of(header)
    if text is None or not authenticator._keys.are_young:
        return None
    return authenticator._recall(hashlib.sha256(text.encode()).digest())


async def test_token_of_each_algorithm_identifies_its_caller(authenticator: Authenticator) -> None:
    for text in (token(), token(EC_KEY, "ec", "ES256")):
        caller = await caller_of(authenticator, text)
        assert (caller.issuer, caller.subject) == (ISSUER, "wesley")
        assert caller.accounts == frozenset({"wesley"})


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer x.y.z", "Bearer a b", "é"]
)
async def test_request_without_a_token_has_no_caller(
    authenticator: Authenticator, header: str | None
) -> None:
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate(header)


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": int(time.time()) - 31},
        {"exp": None},
        {"exp": "soon"},
        {"iss": "https://other.test"},
        {"iss": None},
        {"aud": "other"},
        {"aud": ["other", "another"]},
        {"aud": None},
        {"sub": None},
        {"sub": 5},
        {"nbf": 4_102_444_800},
        {"saldo_accounts": {"wesley": True}},
        {"saldo_accounts": "wesley"},
        {"saldo_accounts": None, "saldo_accounts_": 1, "sub": None},
        {"saldo_accounts": ["a"] * 1001},
    ],
)
async def test_token_with_wrong_claims_is_refused(
    authenticator: Authenticator, claims: dict[str, Any]
) -> None:
    with pytest.raises(Unauthenticated):
        await caller_of(authenticator, token(**claims))


async def test_clock_skew_is_tolerated_within_bounds(
    authenticator: Authenticator, clock: Clock
) -> None:
    now = int(clock.time())
    await caller_of(authenticator, token(exp=now - 2))
    await caller_of(authenticator, token(aud=["other", AUDIENCE]))
    kept = token(exp=now + 5)  # short: its end is what is tested
    first = await caller_of(authenticator, kept)
    clock.ahead_s = 34
    assert await caller_of(authenticator, kept) is first
    assert remembered(authenticator, f"Bearer {kept}") is first
    assert remembered(authenticator, f"Bearer {token(exp=now + 6)}") is None  # short: as above
    assert remembered(authenticator, None) is None
    clock.ahead_s = 40  # past its end and the skew: it is verified again
    assert remembered(authenticator, f"Bearer {kept}") is None
    assert await caller_of(authenticator, kept) is not first


async def test_unsigned_and_confused_tokens_are_refused(authenticator: Authenticator) -> None:
    public = RSA_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    await caller_of(authenticator, token())  # the keys are known
    unsigned = jwt.encode({"sub": "x"}, "", "none", {"kid": "rsa"})
    # PyJWT itself refuses to sign with a PEM as a secret: by hand, then.
    header = {"alg": "HS256", "kid": "rsa", "typ": "JWT"}
    parts = token().split(".")
    parts[0] = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    signer = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = signer.sign(".".join(parts[:2]).encode(), public)
    parts[2] = base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
    for text in (
        unsigned,
        ".".join(parts),
        token(rsa.generate_private_key(public_exponent=65537, key_size=2048), None),
        token(key_id="ec"),  # another key's id
        token(EC_KEY, "rsa", "ES256"),
        token(algorithm="RS512"),
        token(algorithm="PS256"),
        token(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        token()[:-4] + "AAAA",
    ):
        with pytest.raises(Unauthenticated):
            await caller_of(authenticator, text)


async def test_symmetric_key_in_the_key_set_is_ignored(
    authenticator: Authenticator, server: KeyServer
) -> None:
    secret = b"s" * 32
    encoded = base64.urlsafe_b64encode(secret).rstrip(b"=").decode()
    server.keys += [
        {"kty": "oct", "k": encoded, "kid": "oct"},
        {"kty": "oct", "k": encoded, "kid": "oct-said-rs", "alg": "HS256"},
        {"kty": "unheard-of", "kid": "odd"},
        jwk(RSA_KEY, "encrypting", use="enc"),
    ]
    await caller_of(authenticator, token())
    for text in (token(secret, "oct", "HS256"), token(key_id="encrypting"), token(key_id="odd")):
        with pytest.raises(Unauthenticated):
            await caller_of(authenticator, text)


@pytest.mark.parametrize("header", ["[" * 3000, '{"alg":' * 500, "null", "5", '{"alg":["RS256"]}'])
async def test_hostile_header_is_refused(authenticator: Authenticator, header: str) -> None:
    encoded = base64.urlsafe_b64encode(header.encode()).rstrip(b"=").decode()
    with pytest.raises(Unauthenticated):
        await caller_of(authenticator, f"{encoded}.e30.AAAA")


async def test_huge_token_is_refused_unread(
    authenticator: Authenticator, server: KeyServer
) -> None:
    with pytest.raises(Unauthenticated):
        await caller_of(authenticator, token(padding="x" * 8192))
    assert server.requests == 0


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"scope": "a b"}, {"a", "b"}),
        ({"scope": ["a", "b", 5]}, {"a", "b"}),
        ({"scp": ["a"]}, {"a"}),
        ({}, set()),
        ({"scope": 5}, set()),
        ({"scope": {"a": 1}}, set()),
    ],
)
async def test_scopes_claim_is_a_text_or_a_list(
    authenticator: Authenticator, claims: dict[str, Any], scopes: set[str]
) -> None:
    assert (await caller_of(authenticator, token(**claims))).scopes == scopes


@pytest.mark.parametrize(
    ("named", "accounts"),
    [
        ("*", None),
        (["a", "b", 5], {"a", "b"}),
        ([], set()),
        (["*"], {"*"}),
    ],
)
async def test_accounts_claim_is_a_list_or_all(
    authenticator: Authenticator, named: object, accounts: set[str] | None
) -> None:
    caller = await caller_of(authenticator, token(saldo_accounts=named))
    assert caller.accounts == accounts


async def test_rotated_key_is_fetched_when_a_token_names_it(
    authenticator: Authenticator, server: KeyServer, clock: Clock
) -> None:
    await caller_of(authenticator, token())
    server.keys = [jwk(EC_KEY, "new")]
    clock.ahead_s = 11
    caller = await caller_of(authenticator, token(EC_KEY, "new", "ES256"))
    assert caller.subject == "wesley"
    with pytest.raises(Unauthenticated):  # the old key is gone, for a token not seen before
        await caller_of(authenticator, token(jti="another"))


@pytest.mark.parametrize("left", [[jwk(EC_KEY, "ec")], [jwk(OTHER_KEY, "rsa")], []])
async def test_cached_token_is_dropped_with_its_key(
    authenticator: Authenticator, server: KeyServer, clock: Clock, left: list[dict[str, Any]]
) -> None:
    """The key left the set, another took its id, or no key is left at all."""
    text = token()
    first = await caller_of(authenticator, text)
    server.keys = left
    clock.ahead_s = jwks.JWKS_AGE_MAX_S
    assert remembered(authenticator, f"Bearer {text}") is first
    clock.ahead_s += 1
    assert remembered(authenticator, f"Bearer {text}") is None
    with pytest.raises(Unauthenticated if left else IssuerUnavailable):
        await caller_of(authenticator, text)
    assert remembered(authenticator, f"Bearer {text}") is None
    assert clock.ahead_s < 600


async def test_cached_token_survives_a_refetch_of_its_key(
    authenticator: Authenticator, server: KeyServer, clock: Clock
) -> None:
    text = token()
    first = await caller_of(authenticator, text)
    clock.ahead_s = jwks.JWKS_AGE_MAX_S + 1
    assert await caller_of(authenticator, text) is first
    assert remembered(authenticator, f"Bearer {text}") is first
    assert server.requests == 2


async def test_token_is_cached_once_for_all_header_spellings(
    authenticator: Authenticator,
) -> None:
    text = token()
    first = await caller_of(authenticator, text)
    for header in (f"bearer {text}", f"BEARER    {text} "):
        assert remembered(authenticator, header) is first


async def test_forged_key_ids_cause_one_fetch_in_ten_seconds(
    authenticator: Authenticator, server: KeyServer, clock: Clock
) -> None:
    await caller_of(authenticator, token())
    clock.ahead_s = 11
    for number in range(50):
        with pytest.raises(Unauthenticated):
            await caller_of(authenticator, token(key_id=f"forged-{number}"))
    assert server.requests == 2


async def test_verified_token_is_cached(authenticator: Authenticator, server: KeyServer) -> None:
    text = token()
    first = await caller_of(authenticator, text)
    server.keys, server.status = [], 500
    assert await caller_of(authenticator, text) is first
    assert server.requests == 1


async def test_cached_tokens_are_bounded_by_their_bytes(
    authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 tokens of many accounts once took 900 MB."""
    bytes_max = 2_000_000
    monkeypatch.setattr(auth, "REMEMBERED_BYTES_MAX", bytes_max)
    texts = [
        token(EC_KEY, "ec", "ES256", saldo_accounts=[f"{n:x}.{i:x}" for i in range(500)])
        for n in range(100)
    ]
    await caller_of(authenticator, token())  # the keys are known
    tracemalloc.start()
    try:
        for text in texts:
            await caller_of(authenticator, text)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bytes_max / 2 < held < bytes_max * 1.5
    kept = [remembered(authenticator, f"Bearer {text}") is not None for text in texts]
    assert kept == sorted(kept)  # the oldest were forgotten
    assert 5 < sum(kept) < 50


UNUSABLE: list[object] = [
    {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"},
    {"kty": "oct"},
    {"kty": "RSA", "kid": "half", "n": "AQAB"},
    {"kty": "RSA", "kid": "wrong", "n": "%", "e": "%"},
    {"kty": "RSA", "kid": "lying", "alg": "HS256", "n": "AQAB", "e": "AQAB"},
    {"kty": "EC", "kid": "off", "crv": "P-256", "x": "AQAB", "y": "AQAB"},
    {"kty": "EC", "kid": "curve", "crv": "P-999", "x": "AQAB", "y": "AQAB"},
    {"kty": ["RSA"], "kid": 5},
    {"kty": "RSA", "use": ["sig"]},
    {"kty": "RSA", "use": {}},
    # The curve of another algorithm, and a private key: neither can check a signature.
    jwk(ec.generate_private_key(ec.SECP521R1()), None, alg="ES256"),
    jwt.algorithms.RSAAlgorithm.to_jwk(OTHER_KEY, as_dict=True) | {"key_ops": ["verify"]},
    {"kid": "nothing"},
    5,
    None,
    [],
]


async def test_unusable_keys_are_skipped(authenticator: Authenticator, server: KeyServer) -> None:
    server.keys = [*UNUSABLE, *server.keys, *UNUSABLE]
    for text in (token(), token(EC_KEY, "ec", "ES256"), token(EC_KEY, None, "ES256")):
        assert (await caller_of(authenticator, text)).subject == "wesley"
    assert (await caller_of(authenticator, token(key_id=None))).subject == "wesley"


@pytest.mark.parametrize("in_set", ["rsa", None])
@pytest.mark.parametrize("in_token", ["rsa", None])
async def test_key_id_is_optional_on_both_sides(
    authenticator: Authenticator, server: KeyServer, in_set: str | None, in_token: str | None
) -> None:
    """RFC 7517, section 4.5: among several keys, the one counts that has signed."""
    server.keys = [jwk(OTHER_KEY, in_set), jwk(EC_KEY, None), jwk(RSA_KEY, in_set)]
    assert (await caller_of(authenticator, token(key_id=in_token))).subject == "wesley"


async def test_new_key_without_an_id_is_fetched(
    authenticator: Authenticator, server: KeyServer, clock: Clock
) -> None:
    await caller_of(authenticator, token())
    server.keys = [jwk(OTHER_KEY, None)]
    clock.ahead_s = 11
    assert (await caller_of(authenticator, token(OTHER_KEY, None))).subject == "wesley"


async def test_tokens_are_accepted_without_waiting_in_an_outage(
    authenticator: Authenticator, server: KeyServer, clock: Clock
) -> None:
    """Once the issuer is known to be out of reach, a known token does not wait for it."""
    text = token()
    first = await caller_of(authenticator, text)
    server.status = 503
    clock.ahead_s = jwks.JWKS_AGE_MAX_S + 1
    assert await caller_of(authenticator, text) is first
    server.hangs.clear()
    clock.ahead_s += jwks.JWKS_REFETCH_MIN_S + 1
    try:
        assert await caller_of(authenticator, text) is first
    finally:
        server.hangs.set()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"keys":5}', b'{"keys":[]}', b'{"keys":[5]}', b"[" * 100_000]
)
async def test_issuer_with_an_invalid_response_is_unavailable(
    authenticator: Authenticator, server: KeyServer, body: bytes
) -> None:
    server.body = body
    for _ in range(2):  # the second time, without asking it again
        with pytest.raises(IssuerUnavailable):
            await caller_of(authenticator, token())
    assert server.requests == 1


async def test_issuer_outage_is_not_reported_as_a_bad_token(
    authenticator: Authenticator, server: KeyServer, clock: Clock
) -> None:
    server.status = 503
    for _ in range(2):
        with pytest.raises(IssuerUnavailable):
            await caller_of(authenticator, token())
    server.status = 200
    clock.ahead_s = 11
    await caller_of(authenticator, token())
    server.status = 503
    clock.ahead_s = 3700  # the keys are old now, and better than an outage
    await caller_of(authenticator, token())


async def test_only_the_sources_may_deliver(server: KeyServer) -> None:
    sink = Authenticator(
        OidcSettings(
            issuer=ISSUER,
            audience=AUDIENCE,
            jwks_url=server.url,
            subjects=frozenset({"source"}),
        )
    )
    assert (await caller_of(sink, token(sub="source"))).subject == "source"
    with pytest.raises(Forbidden):
        await caller_of(sink, token(sub="another"))


def test_caller_needs_scope_and_account() -> None:
    caller = Caller(
        issuer=ISSUER, subject="s", scopes=frozenset({"read"}), accounts=frozenset({"a"})
    )
    caller.require("read")
    caller.require("read", "a")
    for scope, account_id in (("read", "b"), ("write", "a"), ("write", None)):
        with pytest.raises(Forbidden):
            caller.require(scope, account_id)
