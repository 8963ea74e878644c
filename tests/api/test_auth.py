"""Accounts, logins and logout; test_refresh.py tests the rotation of refresh tokens."""

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import security
from domain.data.accounts import User
from domain.rules.accounts import Role
from tests.api.conftest import PASSWORD, Person, pointers

ACCOUNT = {"username": "grace", "email": "grace@navy.test", "password": PASSWORD}
LOGIN = {"username": "grace", "password": PASSWORD}


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash with the lowest cost that bcrypt allows; test_passwords.py tests the real cost."""
    monkeypatch.setattr(security, "_BCRYPT_COST", 4)


@pytest.fixture
async def grace(anyone: httpx.AsyncClient) -> dict[str, Any]:
    """Register the account, and return the profile that the API answers with."""
    answer = await anyone.post("/auth/register", json=ACCOUNT)
    assert answer.status_code == 201
    profile: dict[str, Any] = answer.json()
    return profile


@pytest.fixture
async def pair(anyone: httpx.AsyncClient, grace: dict[str, Any]) -> dict[str, Any]:
    """Log the account in, and return its tokens."""
    assert grace["username"] == LOGIN["username"]
    answer = await anyone.post("/auth/login", json=LOGIN)
    assert answer.status_code == 200
    tokens: dict[str, Any] = answer.json()
    return tokens


async def refresh(http: httpx.AsyncClient, token: str) -> httpx.Response:
    """Exchange a refresh token for a new pair."""
    return await http.post("/auth/refresh", json={"refresh_token": token})


async def test_a_registered_user_can_log_in_and_read_the_profile(
    anyone: httpx.AsyncClient, grace: dict[str, Any], pair: dict[str, Any]
) -> None:
    assert set(grace) == {"id", "username", "email", "role", "created_at"}
    assert grace["role"] == "user"
    assert grace["created_at"].endswith("Z")
    assert pair["token_type"] == "bearer"
    assert pair["expires_in"] == 30 * 60
    me = await anyone.get("/auth/me", headers={"Authorization": f"Bearer {pair['access_token']}"})
    assert me.json() == grace


@pytest.mark.usefixtures("grace")
async def test_a_username_or_email_that_differs_only_in_case_is_taken(anyone: httpx.AsyncClient) -> None:
    name = await anyone.post("/auth/register", json=ACCOUNT | {"username": "GRACE", "email": "other@navy.test"})
    address = await anyone.post("/auth/register", json=ACCOUNT | {"username": "hopper", "email": "Grace@Navy.test"})
    assert (name.status_code, name.json()["code"], pointers(name.json())) == (409, "username_taken", {"#/username"})
    assert (address.status_code, address.json()["code"], pointers(address.json())) == (409, "email_taken", {"#/email"})


async def test_only_one_of_many_concurrent_registrations_of_a_username_succeeds(anyone: httpx.AsyncClient) -> None:
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
async def test_an_invalid_account_is_refused_and_the_field_is_named(
    anyone: httpx.AsyncClient, change: dict[str, Any], pointer: str
) -> None:
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
async def test_a_refused_login_does_not_say_whether_the_username_exists(anyone: httpx.AsyncClient) -> None:
    unknown = await anyone.post("/auth/login", json=LOGIN | {"username": "nobody"})
    wrong = await anyone.post("/auth/login", json=LOGIN | {"password": "Wrong-Horse-1"})
    assert unknown.status_code == wrong.status_code == 401
    assert unknown.headers["WWW-Authenticate"] == "Bearer"
    assert unknown.json() | {"request_id": ""} == wrong.json() | {"request_id": ""}


async def test_after_logout_the_refresh_token_of_that_login_is_refused(
    anyone: httpx.AsyncClient, pair: dict[str, Any]
) -> None:
    second = (await refresh(anyone, pair["refresh_token"])).json()
    logout = await anyone.post("/auth/logout", headers={"Authorization": f"Bearer {second['access_token']}"})
    assert (logout.status_code, logout.content) == (204, b"")
    assert (await refresh(anyone, second["refresh_token"])).status_code == 401


async def test_an_access_token_cannot_refresh_and_a_refresh_token_cannot_authenticate(
    anyone: httpx.AsyncClient, pair: dict[str, Any]
) -> None:
    assert (await refresh(anyone, pair["access_token"])).status_code == 401
    me = await anyone.get("/auth/me", headers={"Authorization": f"Bearer {pair['refresh_token']}"})
    assert (me.status_code, me.json()["code"]) == (401, "invalid_token")


async def test_the_profile_says_who_is_an_admin(ada: Person, engine: AsyncEngine) -> None:
    assert (await ada.http.get("/auth/me")).json()["role"] == "user"
    async with engine.begin() as tx:
        await tx.execute(update(User).values(role=Role.ADMIN))
    assert (await ada.http.get("/auth/me")).json()["role"] == "admin"


async def test_the_token_of_a_deleted_account_gets_401(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.exec_driver_sql("DELETE FROM users")
    assert (await ada.http.get("/auth/me")).status_code == 401
