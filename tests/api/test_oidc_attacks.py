"""Tokens that look as if the identity provider had made them for this service."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from fastapi import FastAPI

from api.web import security
from domain.data.accounts import User
from domain.settings import Settings
from tests.api.conftest import client_of, count
from tests.api.oidc import me, refusal, trusting
from tests.support.identity_provider import AUDIENCE, Provider, key, running_provider


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """A provider with two keys."""
    async with running_provider(key(), key("elliptic", "ES256")) as provider:
        yield provider


@pytest.fixture
def settings(settings: Settings, provider: Provider) -> Settings:
    """Settings that name the provider."""
    return trusting(settings, provider)


def encoded(value: Any) -> str:
    """A part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(provider: Provider, header: Any, **claims: Any) -> str:
    """A right token with another header, and claims that nobody has signed."""
    payload, signature = provider.token(**claims).split(".")[1:]
    return f"{encoded(header)}.{payload}.{signature}"


def signed_with(secret: bytes, provider: Provider, algorithm: str = "HS256", kid: str = "first") -> str:
    """A token of the provider's claims that is signed with a secret."""
    start = f"{encoded({'alg': algorithm, 'kid': kid, 'typ': 'JWT'})}.{provider.token().split('.')[1]}"
    return f"{start}.{encoded(hmac.digest(secret, start.encode(), hashlib.sha256))}"


def public_forms() -> list[bytes]:
    """The provider's public key in the forms in which somebody could take it for a secret."""
    public, pem = key().private.public_key(), serialization.Encoding.PEM
    forms = (serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1)
    return [
        *(public.public_bytes(pem, form) for form in forms),
        public.public_bytes(serialization.Encoding.DER, forms[0]),
        json.dumps(key().public).encode(),
        key().public["n"].encode(),
    ]


Attack = Callable[[Provider], str]
NOW = time.time
ATTACKS: dict[str, Attack] = {
    "another audience": lambda it: it.token(aud="another-service"),
    "an audience that begins like ours": lambda it: it.token(aud=f"{AUDIENCE}-2"),
    "an empty audience": lambda it: it.token(aud=[]),
    "no audience": lambda it: it.token(aud=None),
    "an audience that is no text": lambda it: it.token(aud={AUDIENCE: 1}),
    "another issuer": lambda it: it.token(iss="https://login.example.com"),
    "an issuer that begins like ours": lambda it: it.token(iss=f"{it.issuer}/other"),
    "our own issuer": lambda it: it.token(iss=security.ISSUER, type="access", jti=str(uuid4()), sid=str(uuid4())),
    "no issuer": lambda it: it.token(iss=None),
    "expired": lambda it: it.token(exp=int(NOW()) - 31),
    "no end": lambda it: it.token(exp=None),
    "an end that is no number": lambda it: it.token(exp="never"),
    "an infinite end": lambda it: it.token(exp=float("inf")),
    "valid later": lambda it: it.token(nbf=int(NOW()) + 60),
    "made in the future": lambda it: it.token(iat=int(NOW()) + 60),
    "no subject": lambda it: it.token(sub=None),
    "an empty subject": lambda it: it.token(sub=""),
    "a subject with a NUL": lambda it: it.token(sub="u\x001"),
    "half of a surrogate pair": lambda it: it.token(sub="\ud800"),
    "a long subject": lambda it: it.token(sub="x" * 256),
    "a subject that is a list": lambda it: it.token(sub=["u-1"]),
    "bound to a key of its owner": lambda it: it.token(cnf={"jkt": "x"}),
    "a token that logs out": lambda it: it.token(header={"typ": "logout+jwt"}),
    "a type that is no text": lambda it: it.token(header={"typ": "x", "cty": "JWT"}),
    "an unknown critical member": lambda it: it.token(header={"crit": ["x"], "x": 1}),
    "no signature": lambda it: f"{encoded({'alg': 'none'})}.{it.token().split('.')[1]}.",
    "no signature, in capitals": lambda it: f"{encoded({'alg': 'NONE', 'kid': 'first'})}.{it.token().split('.')[1]}.",
    "an empty signature": lambda it: it.token().rpartition(".")[0] + ".",
    "a signature of another token": lambda it: f"{it.token(sub='root').rpartition('.')[0]}.{it.token().split('.')[2]}",
    "a key of somebody else": lambda it: it.token(key("stranger"), {"kid": "first"}),
    "an unknown key": lambda it: it.token(key("stranger")),
    "the id of a key of another kind": lambda it: it.token(key("elliptic", "ES256"), {"kid": "first"}),
    "another algorithm of the same key": lambda it: forged(it, {"alg": "PS256", "kid": "first"}),
    "an algorithm that nobody accepts": lambda it: forged(it, {"alg": "RS512", "kid": "first"}),
    "an algorithm that is a list": lambda it: forged(it, {"alg": ["RS256"], "kid": "first"}),
    "no algorithm": lambda it: forged(it, {"kid": "first"}),
    "no key although there are several": lambda it: forged(it, {"alg": "RS256"}, sub="root"),
    "a key that is a number": lambda it: forged(it, {"alg": "RS256", "kid": 1}),
    "a key that is null": lambda it: forged(it, {"alg": "RS256", "kid": None}),
    "a path as key": lambda it: it.token(header={"kid": "../../../../dev/null"}),
    "SQL as key": lambda it: it.token(header={"kid": "first' UNION SELECT 'x"}),
    "an address as key": lambda it: it.token(header={"kid": "http://169.254.169.254/keys"}),
    "a long key id": lambda it: it.token(header={"kid": "x" * 1400}),
    "a key of its own": lambda it: it.token(key("stranger"), {"jwk": key("stranger").public}),
    "an address of its own": lambda it: it.token(key("stranger"), {"jku": f"{it.issuer}/mine", "x5u": it.issuer}),
    "a deep header": lambda _: f"{encoded(b'[' * 1400)}.e30.AA",
    "a header that is no object": lambda _: f"{encoded([])}.e30.AA",
    "60 KB": lambda it: it.token(groups=["x" * 60_000]),
    "60 KB of header": lambda _: f"{encoded({'alg': 'RS256', 'kid': 'x' * 60_000})}.e30.AA",
    "60 KB of nothing": lambda _: "a" * 60_000,
    "points only": lambda _: "....",
}


async def refusals(app: FastAPI, tokens: dict[str, str]) -> dict[str, tuple[int, str]]:
    """How each token is refused."""
    answers = {name: await client_of(app, token).get("/flavors") for name, token in tokens.items()}
    assert {answer.headers.get("WWW-Authenticate") for answer in answers.values()} == {'Bearer error="invalid_token"'}
    return {name: refusal(answer) for name, answer in answers.items()}


async def test_each_is_refused_and_makes_no_user(app: FastAPI, provider: Provider) -> None:
    assert await me(app, provider.token(sub="honest"))
    tokens = {name: attack(provider) for name, attack in ATTACKS.items()}
    assert await refusals(app, tokens) == dict.fromkeys(ATTACKS, (401, "invalid_token"))
    assert await count(app.state.vmapi.engine, User) == 1


async def test_a_claim_that_is_something_else_than_it_has_to_be_is_refused(app: FastAPI, provider: Provider) -> None:
    later = str(int(NOW()) + 60)
    wrong: dict[str, list[Any]] = {
        "exp": [True, "", "x", later, [], [int(later)], {}, float("inf"), float("nan"), "9" * 5000, 1e300, 10**400],
        "nbf": [True, "", "x", "1", [], [1], {}, float("inf"), float("nan"), 10**400],
        "iat": [True, "", "x", "1", [], [1], {}, float("inf"), float("nan"), 10**400],
        "iss": [True, 1, "", [provider.issuer], {provider.issuer: 1}],
        "aud": [True, 1, "", [], [1], [AUDIENCE, None], {AUDIENCE: 1}],
        "sub": [True, 1, 0.5, "", [], ["u-1"], {}],
        "jti": [True, 1, 0.5, [], {}],
    }
    tokens = {f"{name} {value!r:.40}": provider.token(**{name: value}) for name in wrong for value in wrong[name]}
    assert await refusals(app, tokens) == dict.fromkeys(tokens, (401, "invalid_token"))


async def test_a_claim_that_nobody_asks_for_may_be_anything(app: FastAPI, provider: Provider) -> None:
    values: list[Any] = [True, 1, 0.5, "", [], {}, [[{"a": [None]}]]]
    for value in values:
        assert await me(app, provider.token(ver=value, sid=value, preferred_username=value, groups=value))


async def test_the_public_key_is_no_secret_to_sign_with(app: FastAPI, provider: Provider) -> None:
    tokens = {
        f"{algorithm} with form {number} of the key": signed_with(form, provider, algorithm)
        for algorithm in ("HS256", "HS384", "RS256", "none", "hs256")
        for number, form in enumerate(public_forms())
    }
    assert await refusals(app, tokens) == dict.fromkeys(tokens, (401, "invalid_token"))


async def test_a_key_of_the_provider_signs_none_of_our_own_tokens(app: FastAPI, provider: Provider) -> None:
    claims: dict[str, Any] = {
        "type": "access",
        "jti": str(uuid4()),
        "sid": str(uuid4()),
        "sub": str(uuid4()),
        "username": "root",
    }
    own = provider.token(iss=security.ISSUER, **claims)
    assert refusal(await client_of(app, own).get("/auth/me")) == (401, "invalid_token")
    refreshed = await client_of(app).post("/auth/refresh", json={"refresh_token": provider.token(type="refresh")})
    assert refusal(refreshed) == (401, "invalid_token")


async def test_our_own_key_signs_no_token_of_the_provider(app: FastAPI, provider: Provider, settings: Settings) -> None:
    assert settings.secret_key
    token = signed_with(settings.secret_key.get_secret_value().encode(), provider)
    assert refusal(await client_of(app, token).get("/flavors")) == (401, "invalid_token")


async def test_a_token_that_was_right_before_is_refused_once_it_has_expired(
    app: FastAPI, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = provider.token(exp=int(NOW()) + 60)
    assert await me(app, token)
    later = NOW() + 91
    monkeypatch.setattr(time, "time", lambda: later)
    answer = await client_of(app, token).get("/flavors")
    assert (refusal(answer), answer.json()["detail"]) == ((401, "invalid_token"), "The token has expired.")


async def test_clocks_may_differ_a_little(app: FastAPI, provider: Provider) -> None:
    now = int(NOW())
    assert await me(app, provider.token(exp=now - 10))
    assert await me(app, provider.token(nbf=now + 10, iat=now + 10))


async def test_a_token_without_a_key_id_is_taken_if_the_provider_has_one_key(app: FastAPI, provider: Provider) -> None:
    assert await me(app, provider.token())
    claims = jwt.decode(provider.token(), options={"verify_signature": False})
    assert await me(app, jwt.encode(claims, key().private, "RS256"))  # the other key is for another algorithm
