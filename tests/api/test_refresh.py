"""The rotation of refresh tokens: a lost answer is given again, and a token that is used again later ends its login."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import insert, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import security
from domain.data.accounts import RefreshToken
from domain.settings import Settings
from tests.api.conftest import Person, count, signing_of

HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"


def at(app: FastAPI, address: str) -> httpx.AsyncClient:
    """A client of the application with this address."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://api/api/v1")


@pytest.fixture
async def here(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client."""
    async with at(app, HERE) as http:
        yield http


async def log_in(ada: Person, engine: AsyncEngine, settings: Settings, **values: Any) -> str:
    """A refresh token of a new login, without the quarter of a second that a password takes."""
    caller = security.LoginCaller(ada.user.id, ada.user.username, uuid4())
    return await token_of(caller, engine, settings, generation=0, **values)


async def token_of(caller: security.LoginCaller, engine: AsyncEngine, settings: Settings, **values: Any) -> str:
    """Another refresh token of a login."""
    token_id, life = uuid4(), timedelta(days=7)
    row = {"id": token_id, "family_id": caller.session_id, "user_id": caller.id, "expires_at": datetime.now(UTC) + life}
    async with engine.begin() as tx:
        await tx.execute(insert(RefreshToken).values(row | values))
    return security.sign(signing_of(settings), "refresh", caller, token_id, life)


@pytest.fixture
async def first(ada: Person, engine: AsyncEngine, settings: Settings) -> str:
    """The refresh token of a login."""
    return await log_in(ada, engine, settings)


async def refresh(http: httpx.AsyncClient, token: str) -> str:
    """Exchange a refresh token for a new one; empty if it is refused."""
    answer = await http.post("/auth/refresh", json={"refresh_token": token})
    assert answer.status_code == 200 or (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
    return str(answer.json().get("refresh_token", ""))


async def let_pass(engine: AsyncEngine, seconds: float) -> None:
    """Let the uses of all tokens be so much older."""
    async with engine.begin() as tx:
        await tx.execute(update(RefreshToken).values(used_at=RefreshToken.used_at - timedelta(seconds=seconds)))


async def test_each_refresh_returns_a_new_pair_that_works(here: httpx.AsyncClient, first: str) -> None:
    second = await refresh(here, first)
    answer = (await here.post("/auth/refresh", json={"refresh_token": second})).json()
    assert len({first, second, answer["refresh_token"]}) == 3
    me = await here.get("/auth/me", headers={"Authorization": f"Bearer {answer['access_token']}"})
    assert me.json()["username"] == "ada"


async def test_a_client_that_has_lost_the_answer_gets_a_pair_with_the_same_token(
    here: httpx.AsyncClient, first: str, engine: AsyncEngine
) -> None:
    lost = await refresh(here, first)
    await let_pass(engine, 25)
    again = await refresh(here, first)
    assert again
    assert again != lost
    second = await refresh(here, again)
    assert await refresh(here, second)


async def test_the_thirty_seconds_begin_with_the_first_use(
    here: httpx.AsyncClient, first: str, engine: AsyncEngine
) -> None:
    await refresh(here, first)
    await let_pass(engine, 20)
    again = await refresh(here, first)
    await let_pass(engine, 11)
    assert not await refresh(here, first)
    assert not await refresh(here, again)


async def test_using_a_token_again_later_ends_its_login_but_no_other(
    here: httpx.AsyncClient, first: str, ada: Person, engine: AsyncEngine, settings: Settings
) -> None:
    other_login = await log_in(ada, engine, settings)
    second = await refresh(here, first)
    await let_pass(engine, 31)
    assert not await refresh(here, first)
    assert not await refresh(here, second)
    assert await refresh(here, other_login)


async def test_a_login_keeps_few_tokens_and_the_first_still_ends_it(
    here: httpx.AsyncClient, first: str, engine: AsyncEngine
) -> None:
    """Whoever refreshes all the time would otherwise fill the table, and no statement could end the login in time."""
    token = first
    for _ in range(6):
        token = await refresh(here, token)
    assert await count(engine, RefreshToken) == 2
    assert not await refresh(here, first)
    assert not await refresh(here, token)


async def test_using_a_token_again_from_another_address_ends_its_login(
    app: FastAPI, here: httpx.AsyncClient, first: str
) -> None:
    second = await refresh(here, first)
    async with at(app, ELSEWHERE) as thief:
        assert not await refresh(thief, first)
    assert not await refresh(here, second)


async def test_addresses_of_one_ipv6_network_are_the_same_client(app: FastAPI, first: str) -> None:
    async with at(app, "2001:db8::1") as before, at(app, "2001:db8::2") as after:
        assert await refresh(before, first)
        assert await refresh(after, first)


async def test_using_a_token_again_ends_its_login_if_an_answer_has_arrived(here: httpx.AsyncClient, first: str) -> None:
    second = await refresh(here, first)
    third = await refresh(here, second)
    assert not await refresh(here, first)
    assert not await refresh(here, third)


async def test_of_two_tokens_given_for_one_the_later_used_ends_the_login(
    here: httpx.AsyncClient, first: str, engine: AsyncEngine
) -> None:
    """Nobody but a thief has both for longer than the time in which the client gets its answer."""
    one, other = await refresh(here, first), await refresh(here, first)
    third = await refresh(here, one)
    await let_pass(engine, 31)
    assert not await refresh(here, other)
    assert not await refresh(here, third)


async def test_two_windows_that_refresh_at_once_both_go_on(here: httpx.AsyncClient, first: str) -> None:
    one, other = await refresh(here, first), await refresh(here, first)
    assert await refresh(here, one)
    assert await refresh(here, other)


async def test_many_refreshes_at_once_from_one_client_all_get_a_pair_and_one_login_goes_on(
    here: httpx.AsyncClient, first: str, engine: AsyncEngine
) -> None:
    tokens = await asyncio.gather(*(refresh(here, first) for _ in range(8)))
    assert len(set(tokens) - {""}) == 8
    assert await count(engine, RefreshToken) == 9
    last = await refresh(here, tokens[3])
    await let_pass(engine, 31)
    assert await refresh(here, last)


async def test_of_two_clients_that_refresh_at_once_one_gets_a_pair_and_the_login_ends(
    app: FastAPI, here: httpx.AsyncClient, first: str
) -> None:
    async with at(app, ELSEWHERE) as thief:
        tokens = await asyncio.gather(*(refresh(http, first) for http in (here, thief)))
        assert sorted(map(bool, tokens)) == [False, True]
        for http in (here, thief):
            assert not await refresh(http, max(tokens))


async def test_a_logout_and_a_refresh_at_once_leave_no_token_that_works(
    here: httpx.AsyncClient, ada: Person, engine: AsyncEngine, settings: Settings
) -> None:
    first = await token_of(ada.caller, engine, settings, generation=0)
    token, again, logout = await asyncio.gather(
        refresh(here, first), refresh(here, first), ada.http.post("/auth/logout")
    )
    assert logout.status_code == 204
    for left in filter(None, (token, again, first)):
        assert not await refresh(here, left)


async def test_a_reuse_is_logged_once_with_the_address(
    app: FastAPI, here: httpx.AsyncClient, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    await refresh(here, first)
    async with at(app, ELSEWHERE) as thief:
        for _ in range(3):
            await refresh(thief, first)
    lines = [record.getMessage() for record in caplog.records if "used again" in record.getMessage()]
    assert lines == [f"a refresh token of ada was used again from {ELSEWHERE}; its login has ended"]


async def test_an_expired_token_is_refused(
    here: httpx.AsyncClient, ada: Person, engine: AsyncEngine, settings: Settings
) -> None:
    expired = await log_in(ada, engine, settings, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert not await refresh(here, expired)


async def test_logins_that_an_earlier_version_serves_too_go_on(
    here: httpx.AsyncClient, ada: Person, engine: AsyncEngine, settings: Settings
) -> None:
    """An earlier version writes neither the generation nor the origin of a use."""
    used = await token_of(ada.caller, engine, settings, used_at=datetime.now(UTC) - timedelta(hours=1))
    second = await token_of(ada.caller, engine, settings)
    third = await refresh(here, second)
    assert await refresh(here, second)  # the answer was lost
    await let_pass(engine, 60)
    async with engine.begin() as tx:  # the earlier version exchanges the token
        await tx.execute(text("UPDATE refresh_tokens SET used_at = now() WHERE used_at IS NULL AND generation = 2"))
    fourth = await token_of(ada.caller, engine, settings)
    fifth = await refresh(here, fourth)
    await let_pass(engine, 60)
    last = await refresh(here, fifth)
    assert last
    assert third
    assert not await refresh(here, used)
    assert not await refresh(here, last)
