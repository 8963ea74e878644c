"""Forged, foreign and expired access tokens."""

import base64
import itertools
import json
import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from api.web import security
from domain.settings import Settings
from tests.api.conftest import Person, signing_of

OTHER_KEY = "another-secret-of-more-than-32-bytes"


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a valid access token with these changes; None removes a claim."""
    valid = {
        "iss": security.ISSUER,
        "type": "access",
        "jti": str(uuid4()),
        "sub": str(uuid4()),
        "username": "mallory",
        "sid": str(uuid4()),
        "exp": int(time.time()) + 60,
    }
    return {name: value for name, value in (valid | changes).items() if value is not None}


def part(value: dict[str, Any]) -> str:
    """The encoded header or payload of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


async def status_with(http: httpx.AsyncClient, token: str) -> int:
    """The status with which a protected endpoint answers the token."""
    answer = await http.get("/flavors", headers={b"Authorization": f"Bearer {token}".encode("latin-1")})
    if answer.status_code == 401:
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code


async def test_a_signed_token_with_all_claims_is_accepted(anyone: httpx.AsyncClient, settings: Settings) -> None:
    assert await status_with(anyone, jwt.encode(claims(), signing_of(settings).secret, "HS256")) == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": int(time.time()) - 1},
        {"iss": "somebody-else"},
        {"type": "refresh"},
        *({name: None} for name in ("exp", "iss", "type", "jti", "sub", "username", "sid")),
    ],
)
async def test_a_token_with_a_wrong_or_missing_claim_is_refused(
    anyone: httpx.AsyncClient, settings: Settings, changes: dict[str, Any]
) -> None:
    assert await status_with(anyone, jwt.encode(claims(**changes), signing_of(settings).secret, "HS256")) == 401


CLAIMS = ("exp", "iss", "type", "jti", "sub", "username", "sid", "epoch")
_NO_NUMBERS = float("inf"), float("nan")
WRONG: tuple[Any, ...] = (
    None,
    True,
    0.5,
    -1,
    2**31,
    10**400,
    1e308,
    *_NO_NUMBERS,
    "",
    "x",
    "\0",
    "\ud800",
    [],
    ["x"],
    {},
)
RIGHT: dict[str, tuple[Any, ...]] = {"exp": (2**31,), "username": ("", "x")}  # those of WRONG that are right


async def test_a_claim_that_is_something_else_than_it_has_to_be_is_refused(
    anyone: httpx.AsyncClient, settings: Settings
) -> None:
    """The key may be another program's, too, whose tokens must not be an error of ours."""
    for name, value in itertools.product(CLAIMS, WRONG):
        payloads = [json.dumps(claims(type=kind) | {name: value}).encode() for kind in ("access", "refresh")]
        access, refresh = (jwt.PyJWS().encode(payload, signing_of(settings).secret, "HS256") for payload in payloads)
        refreshed = await anyone.post("/auth/refresh", json={"refresh_token": refresh})
        assert (refreshed.status_code, refreshed.json()["code"]) == (401, "invalid_token"), (name, value)
        if value not in RIGHT.get(name, ()):
            assert await status_with(anyone, access) == 401, (name, value)


async def test_a_token_without_a_valid_signature_is_refused(anyone: httpx.AsyncClient, settings: Settings) -> None:
    unsigned = f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims())}."
    foreign = jwt.encode(claims(), OTHER_KEY, "HS256")
    other_algorithm = jwt.encode(claims(), signing_of(settings).secret * 2, "HS512")
    header, _, signature = jwt.encode(claims(), signing_of(settings).secret, "HS256").split(".")
    swapped = f"{header}.{part(claims(username='root'))}.{signature}"
    for token in (unsigned, foreign, other_algorithm, swapped, "", "x", "a.b.c", "ÿ.ÿ.ÿ"):
        assert await status_with(anyone, token) == 401


async def test_a_token_that_was_accepted_before_is_refused_once_it_expires(
    anyone: httpx.AsyncClient, ada: Person, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = security.sign(signing_of(settings), "access", ada.caller, uuid4(), timedelta(seconds=60))
    assert await status_with(anyone, token) == 200
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    assert await status_with(anyone, token) == 401


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "bearer", "Token x"])
async def test_an_authorization_header_without_a_bearer_token_counts_as_missing(
    anyone: httpx.AsyncClient, header: str
) -> None:
    answer = await anyone.get("/flavors", headers={"Authorization": header})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
