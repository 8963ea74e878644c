"""More requests at once than can be served: the rest is refused at once, and nobody has all the places."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.app import RESERVED
from api.background import readiness
from api.web import security
from api.web.models import Check
from domain.settings import Settings
from tests.api.conftest import FLAVOR, Person, client_of, person, running
from tests.api.test_problems import check

LOGIN = {"username": "nobody", "password": "Correct-Horse-1"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Four connections for requests: two of one caller are served at once, and eight of one wait."""
    return settings.model_copy(update={"db_pool_size": 4 + RESERVED, "db_max_overflow": 0})


@asynccontextmanager
async def locked(engine: AsyncEngine) -> AsyncIterator[None]:
    """Keep everybody from writing VMs, and so from being answered."""
    async with engine.begin() as tx:
        await tx.execute(text("LOCK TABLE vms IN EXCLUSIVE MODE"))
        yield


async def creates(who: Person, many: int) -> list[httpx.Response]:
    """The answers to so many creates at once."""
    body = {"name": "web", "flavor_id": FLAVOR}
    return await asyncio.gather(*(who.http.post("/vms", json=body) for _ in range(many)))


async def test_a_flood_is_refused_at_once_and_the_others_are_served_meanwhile(
    engine: AsyncEngine, ada: Person, bob: Person
) -> None:
    async with locked(engine):
        flood = asyncio.create_task(creates(ada, 30))
        await asyncio.sleep(0.1)
        check(await ada.http.get("/flavors"), 429, "too_many_requests")
        assert (await bob.http.get("/vms")).status_code == 200
    answers = await flood
    assert Counter(answer.status_code for answer in answers) == {202: 10, 429: 20}
    for answer in answers:
        assert answer.headers["Retry-After"] == "1"
    assert (await ada.http.get("/vms")).json()["total"] == 10


async def test_when_too_many_ask_each_is_told_so_but_health_is_always_answered(
    engine: AsyncEngine, app: FastAPI, settings: Settings, anyone: httpx.AsyncClient
) -> None:
    people = [await person(app, engine, settings, name) for name in ("ada", "bob", "eve", "ann")]
    async with locked(engine):
        floods = [asyncio.create_task(creates(one, 8)) for one in people[:3]]
        await asyncio.sleep(0.1)
        check(await people[3].http.get("/vms"), 503, "overloaded")
        assert (await anyone.get("/health/live")).status_code == 200
    answers = [answer for answers in await asyncio.gather(*floods) for answer in answers]
    assert Counter(answer.status_code for answer in answers) == {202: 20, 503: 4}


async def test_who_has_no_genuine_token_is_known_by_address(
    engine: AsyncEngine, ada: Person, anyone: httpx.AsyncClient
) -> None:
    async with locked(engine):
        flood = asyncio.create_task(creates(ada, 30))
        await asyncio.sleep(0.1)
        check(await anyone.get("/vms"), 401, "unauthenticated")
        check(await anyone.get("/vms", headers={"Authorization": "Bearer x"}), 401, "invalid_token")
    await flood


async def test_logins_wait_for_each_other_a_few_at_a_time_and_the_rest_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = most = 0

    async def slowly(*_: object) -> bool:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.2)  # longer than all take to come
        under_way -= 1
        return False

    monkeypatch.setattr(security, "verify_password", slowly)
    monkeypatch.setattr("api.app.HASHES", 1)
    wide = settings.model_copy(update={"db_pool_size": 60})
    async with running(wide) as app:
        logins = (client_of(app).post("/auth/login", json=LOGIN) for _ in range(20))
        answers = await asyncio.gather(*logins)
    assert most == 1
    assert Counter(answer.status_code for answer in answers) == {401: 7, 429: 13}


async def test_a_body_that_never_comes_holds_no_place(ada: Person) -> None:
    async def never() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    headers = {"Content-Type": "application/json"}
    idle = [asyncio.create_task(ada.http.post("/vms", content=never(), headers=headers)) for _ in range(30)]
    await asyncio.sleep(0.1)
    assert (await ada.http.get("/vms")).status_code == 200
    for one in idle:
        one.cancel()
    await asyncio.gather(*idle, return_exceptions=True)


async def test_however_many_ask_whether_it_is_ready_one_connection_is_taken(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    check_one = readiness._check

    async def counted(ask: Coroutine[Any, Any, None]) -> Check:
        nonlocal looks
        looks += 1
        return await check_one(ask)

    monkeypatch.setattr(readiness, "_check", counted)
    async with client_of(app) as http:
        answers = await asyncio.gather(*(http.get("/health/ready") for _ in range(20)))
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert looks == 2  # of PostgreSQL and of Temporal
