"""A change of SECRET_KEY logs nobody out, whatever process a request reaches meanwhile."""

import json
import secrets
import time
from contextlib import AsyncExitStack
from typing import Any

import httpx
import jwt
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from api.web import security
from api.web.security import Signing
from domain.settings import Settings
from tests.api.conftest import client_of, running
from tests.api.test_tokens import claims, status_with

OLD, NEW, STRANGE = (name * 40 for name in ("o", "n", "s"))
# What operators give the processes, one step after the other. During a step, processes of two neighbours run.
STEPS = ((OLD, ()), (OLD, (NEW,)), (NEW, (OLD,)), (NEW, ()))
PAIRS = [pytest.param(STEPS[i], STEPS[i + 1], id=f"step {i + 1}") for i in range(2)]
Keys = tuple[str, tuple[str, ...]]


def with_keys(settings: Settings, keys: Keys) -> Settings:
    """The settings with one key that signs, and others that are only accepted."""
    key, fallbacks = keys
    update = {"secret_key": SecretStr(key), "secret_key_fallbacks": tuple(map(SecretStr, fallbacks))}
    return settings.model_copy(update=update)


async def log_in(http: httpx.AsyncClient) -> dict[str, Any]:
    """A pair of tokens of a user, who is registered if need be."""
    account = {"username": "grace", "email": "grace@navy.test", "password": "Correct-Horse-1"}
    await http.post("/auth/register", json=account)
    answer = await http.post("/auth/login", json={name: account[name] for name in ("username", "password")})
    assert answer.status_code == 200
    pair: dict[str, Any] = answer.json()
    return pair


@pytest.mark.parametrize(("before", "after"), PAIRS)
async def test_every_process_accepts_what_any_other_has_signed(settings: Settings, before: Keys, after: Keys) -> None:
    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(running(with_keys(settings, keys))) for keys in (before, after)]
        for here, there in (apps, apps[::-1]):
            await _use_both(here, there)


async def _use_both(here: FastAPI, there: FastAPI) -> None:
    pair = await log_in(client_of(here))
    user, elsewhere = (client_of(app, pair["access_token"]) for app in (here, there))
    assert (await elsewhere.get("/auth/me")).json()["username"] == "grace"
    # Cursors.
    page = (await user.get("/flavors", params={"page_size": 1})).json()
    other = await elsewhere.get("/flavors", params={"page_size": 1, "cursor": page["next_cursor"]})
    assert other.status_code == 200
    assert other.json()["items"] != page["items"]
    # The kept answer that has a token for programs.
    name, key = secrets.token_hex(4), secrets.token_hex(4)
    request: dict[str, Any] = {"json": {"name": name, "scopes": ["read"]}, "headers": {"Idempotency-Key": key}}
    first, again = [await client.post("/tokens", **request) for client in (user, elsewhere)]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json() == first.json()
    assert (await client_of(there, first.json()["token"]).get("/vms")).status_code == 200
    # Refreshes, to and fro.
    for app in (there, here):
        renewed = await client_of(app).post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})
        assert renewed.status_code == 200
        pair = renewed.json()


async def test_whatever_the_removed_key_has_signed_is_refused(settings: Settings) -> None:
    async with running(with_keys(settings, STEPS[1])) as app:
        pair = await log_in(client_of(app))
        page = (await client_of(app, pair["access_token"]).get("/flavors", params={"page_size": 1})).json()
    async with running(with_keys(settings, STEPS[3])) as app:
        refused = await client_of(app, pair["access_token"]).get("/auth/me")
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")
        renewed = await client_of(app).post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})
        assert (renewed.status_code, renewed.json()["code"]) == (401, "invalid_token")
        fresh = await log_in(client_of(app))
        cursor = {"page_size": 1, "cursor": page["next_cursor"]}
        assert (await client_of(app, fresh["access_token"]).get("/flavors", params=cursor)).status_code == 422


async def test_a_replayed_answer_shows_the_token_after_the_change_and_some_token_if_it_was_deleted(
    settings: Settings,
) -> None:
    request: dict[str, Any] = {"json": {"name": "robot", "scopes": ["read"]}, "headers": {"Idempotency-Key": "k"}}
    async with running(with_keys(settings, STEPS[0])) as app:
        pair = await log_in(client_of(app))
        first = (await client_of(app, pair["access_token"]).post("/tokens", **request)).json()
    async with running(with_keys(settings, STEPS[2])) as app:
        user = client_of(app, pair["access_token"])
        assert (await user.post("/tokens", **request)).json() == first
        assert (await user.delete(f"/tokens/{first['id']}")).status_code == 204
        again = await user.post("/tokens", **request)
        assert again.status_code == 201
        assert (await client_of(app, again.json()["token"]).get("/vms")).status_code == 401


async def test_a_token_names_its_key_and_tells_nothing_about_it(settings: Settings) -> None:
    async with running(with_keys(settings, STEPS[2])) as app:
        pair = await log_in(client_of(app))
    for token in (pair["access_token"], pair["refresh_token"]):
        header = jwt.get_unverified_header(token)
        assert header["kid"] == security.key_id(NEW)
    assert len({security.key_id(key) for key in (OLD, NEW, STRANGE)}) == 3
    assert len(header["kid"]) == 12


async def test_a_token_of_an_earlier_version_names_no_key_and_is_accepted(settings: Settings) -> None:
    async with running(with_keys(settings, STEPS[2])) as app:
        for key in (OLD, NEW):
            assert await status_with(client_of(app), jwt.encode(claims(), key, "HS256")) == 200
        assert await status_with(client_of(app), jwt.encode(claims(), STRANGE, "HS256")) == 401


@pytest.mark.parametrize(
    ("kid", "key"),
    [
        pytest.param(security.key_id(STRANGE), STRANGE, id="an unknown key"),
        pytest.param(security.key_id(STRANGE), NEW, id="the name of an unknown key"),
        pytest.param(security.key_id(NEW), STRANGE, id="the name of our key"),
        pytest.param(security.key_id(NEW), OLD, id="the name of another key of ours"),
        pytest.param("../../../../dev/null", STRANGE, id="a path"),
        pytest.param("' OR 1=1 --", STRANGE, id="SQL"),
        pytest.param("", NEW, id="no name"),
        pytest.param(NEW, STRANGE, id="the key itself"),
    ],
)
async def test_a_token_is_checked_with_the_key_that_it_names_and_no_other(
    settings: Settings, kid: str, key: str
) -> None:
    async with running(with_keys(settings, STEPS[2])) as app:
        forged = jwt.encode(claims(), key, "HS256", headers={"kid": kid})
        assert await status_with(client_of(app), forged) == 401


@pytest.mark.parametrize("kid", [1, None, ["x"], {"a": 1}, True])
async def test_a_name_of_a_key_that_is_no_text_is_refused(settings: Settings, kid: object) -> None:
    async with running(with_keys(settings, STEPS[2])) as app:
        encoded = jwt.api_jws.PyJWS().encode(b"{}", NEW, "HS256", headers={"kid": "x"})
        _, payload, signature = encoded.split(".")
        header = jwt.utils.base64url_encode(json.dumps({"alg": "HS256", "kid": kid}).encode()).decode()
        assert await status_with(client_of(app), f"{header}.{payload}.{signature}") == 401


def test_a_longer_list_of_keys_hides_none() -> None:
    keys = [secrets.token_hex(20) for _ in range(9)]
    signing = Signing(keys[0], "HS256", tuple(keys[1:]))
    for key in keys:
        assert security.unseal(signing, security.seal(Signing(key, "HS256"), {"time": int(time.time())}))
    assert security.unseal(signing, security.seal(Signing(STRANGE, "HS256"), 1)) is None
