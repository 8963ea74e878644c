"""Accounts, logins, and the rotation of refresh tokens."""

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import security
from domain.data.models import RefreshToken
from tests.api.conftest import PASSWORD, Person, count, pointers

ACCOUNT = {"username": "grace", "email": "grace@navy.test", "password": PASSWORD}
LOGIN = {"username": "grace", "password": PASSWORD}


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash as little as bcrypt allows; test_passwords.py looks at the real cost."""
    monkeypatch.setattr(security, "_BCRYPT_COST", 4)


@pytest.fixture
async def grace(anyone: httpx.AsyncClient) -> dict[str, Any]:
    """An account that was registered, as the API answers."""
    answer = await anyone.post("/auth/register", json=ACCOUNT)
    assert answer.status_code == 201
    profile: dict[str, Any] = answer.json()
    return profile


@pytest.fixture
async def pair(anyone: httpx.AsyncClient, grace: dict[str, Any]) -> dict[str, Any]:
    """Her tokens."""
    assert grace["username"] == LOGIN["username"]
    answer = await anyone.post("/auth/login", json=LOGIN)
    assert answer.status_code == 200
    tokens: dict[str, Any] = answer.json()
    return tokens


async def refresh(http: httpx.AsyncClient, token: str) -> httpx.Response:
    """Use a refresh token."""
    return await http.post("/auth/refresh", json={"refresh_token": token})


async def test_a_registered_user_logs_in_and_sees_her_profile(
    anyone: httpx.AsyncClient, grace: dict[str, Any], pair: dict[str, Any]
) -> None:
    assert set(grace) == {"id", "username", "email", "created_at"}
    assert grace["created_at"].endswith("Z")
    assert pair["token_type"] == "bearer"
    assert pair["expires_in"] == 30 * 60
    me = await anyone.get("/auth/me", headers={"Authorization": f"Bearer {pair['access_token']}"})
    assert me.json() == grace


@pytest.mark.usefixtures("grace")
async def test_names_and_addresses_are_taken_whatever_their_case(anyone: httpx.AsyncClient) -> None:
    name = await anyone.post("/auth/register", json=ACCOUNT | {"username": "GRACE", "email": "other@navy.test"})
    address = await anyone.post("/auth/register", json=ACCOUNT | {"username": "hopper", "email": "Grace@Navy.test"})
    assert (name.status_code, name.json()["code"], pointers(name.json())) == (409, "username_taken", {"#/username"})
    assert (address.status_code, address.json()["code"], pointers(address.json())) == (409, "email_taken", {"#/email"})


async def test_one_of_many_registrations_of_a_name_at_once_wins(anyone: httpx.AsyncClient) -> None:
    accounts = [ACCOUNT | {"email": f"grace{n}@navy.test"} for n in range(4)]
    answers = await asyncio.gather(*(anyone.post("/auth/register", json=account) for account in accounts))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"password": "Sh0rt"}, "#/password"),
        ({"password": "alllower1"}, "#/password"),
        ({"password": "ALLUPPER1"}, "#/password"),
        ({"password": "NoDigitsHere"}, "#/password"),
        ({"password": "Aa1" + "x" * 254}, "#/password"),
        ({"username": "ab"}, "#/username"),
        ({"username": "-starts-badly"}, "#/username"),
        ({"username": "naïve"}, "#/username"),
        ({"username": "x" * 65}, "#/username"),
        ({"email": "nowhere"}, "#/email"),
        ({"email": "two@at@signs"}, "#/email"),
        ({"email": "a@" + "b" * 253}, "#/email"),
        ({"is_admin": True}, "#/is_admin"),
    ],
)
async def test_what_an_account_may_not_be(anyone: httpx.AsyncClient, change: dict[str, Any], pointer: str) -> None:
    answer = await anyone.post("/auth/register", json=ACCOUNT | change)
    assert answer.status_code == 422
    assert pointers(answer.json()) == {pointer}
    assert str(change.get("password", "never")) not in answer.text


@pytest.mark.parametrize(
    ("password", "almost"),
    [("Aa1" + "x" * 200, "Aa1" + "x" * 199 + "y"), ("Aa1\0xxxxx", "Aa1\0yyyyy"), ("Pässwörd1", "Password1")],
    ids=["beyond bcrypt's 72 bytes", "after a NUL", "not ASCII"],
)
async def test_every_character_of_a_password_counts(anyone: httpx.AsyncClient, password: str, almost: str) -> None:
    assert (await anyone.post("/auth/register", json=ACCOUNT | {"password": password})).status_code == 201
    right = await anyone.post("/auth/login", json=LOGIN | {"password": password})
    wrong = await anyone.post("/auth/login", json=LOGIN | {"password": almost})
    assert (right.status_code, wrong.status_code) == (200, 401)


@pytest.mark.usefixtures("grace")
async def test_a_refused_login_does_not_tell_what_was_wrong(anyone: httpx.AsyncClient) -> None:
    nobody = await anyone.post("/auth/login", json=LOGIN | {"username": "nobody"})
    wrong = await anyone.post("/auth/login", json=LOGIN | {"password": "Wrong-Horse-1"})
    assert nobody.status_code == wrong.status_code == 401
    assert nobody.headers["WWW-Authenticate"] == "Bearer"
    assert nobody.json() | {"request_id": ""} == wrong.json() | {"request_id": ""}


async def test_each_refresh_gives_a_pair_that_works(anyone: httpx.AsyncClient, pair: dict[str, Any]) -> None:
    second = (await refresh(anyone, pair["refresh_token"])).json()
    third = (await refresh(anyone, second["refresh_token"])).json()
    assert len({one["refresh_token"] for one in (pair, second, third)}) == 3
    me = await anyone.get("/auth/me", headers={"Authorization": f"Bearer {third['access_token']}"})
    assert me.json()["username"] == "grace"


async def test_a_refresh_token_used_again_ends_its_login_but_no_other(
    anyone: httpx.AsyncClient, pair: dict[str, Any]
) -> None:
    other = (await anyone.post("/auth/login", json=LOGIN)).json()
    second = (await refresh(anyone, pair["refresh_token"])).json()
    again = await refresh(anyone, pair["refresh_token"])
    assert (again.status_code, again.json()["code"]) == (401, "invalid_token")
    assert (await refresh(anyone, second["refresh_token"])).status_code == 401
    assert (await refresh(anyone, other["refresh_token"])).status_code == 200


async def test_one_of_many_refreshes_at_once_succeeds(
    anyone: httpx.AsyncClient, pair: dict[str, Any], engine: AsyncEngine
) -> None:
    answers = await asyncio.gather(*(refresh(anyone, pair["refresh_token"]) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
    assert await count(engine, RefreshToken) == 2


async def test_after_logout_nothing_of_that_login_can_be_refreshed(
    anyone: httpx.AsyncClient, pair: dict[str, Any]
) -> None:
    second = (await refresh(anyone, pair["refresh_token"])).json()
    leaving = await anyone.post("/auth/logout", headers={"Authorization": f"Bearer {second['access_token']}"})
    assert (leaving.status_code, leaving.content) == (204, b"")
    assert (await refresh(anyone, second["refresh_token"])).status_code == 401


async def test_a_token_is_good_for_its_own_purpose_only(anyone: httpx.AsyncClient, pair: dict[str, Any]) -> None:
    assert (await refresh(anyone, pair["access_token"])).status_code == 401
    me = await anyone.get("/auth/me", headers={"Authorization": f"Bearer {pair['refresh_token']}"})
    assert (me.status_code, me.json()["code"]) == (401, "invalid_token")


async def test_the_profile_of_an_account_that_is_gone_is_401(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.exec_driver_sql("DELETE FROM users")
    assert (await ada.http.get("/auth/me")).status_code == 401
