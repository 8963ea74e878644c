"""A list that takes too long is ended and is no outage; searches leave most slots to other requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.app import RESERVED_CONNECTIONS
from api.web import pages
from domain.settings import Settings
from tests.api.conftest import FLAVOR, Person, person
from tests.api.test_problems import check_problem
from tests.support.waiting import wait_until_blocked

# A list that waits for a lock is ended in the same way as one that reads too many rows.
BLOCKED = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
SEARCHES = ("/vms?name=web", "/vms?labels=!env", "/vms?page=1&%6Cabels=env%21%3Dprod")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Six slots: two searches at once, and one of each caller."""
    return settings.model_copy(update={"db_pool_size": 6 + RESERVED_CONNECTIONS, "db_max_overflow": 0})


@asynccontextmanager
async def locked(engine: AsyncEngine, table: str) -> AsyncIterator[None]:
    """Let nobody read the table meanwhile."""
    async with engine.begin() as tx:
        await tx.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        yield


@pytest.mark.parametrize("query", ["", "?name=web", "?labels=!env", "?sort=name"])
@pytest.mark.parametrize("table", ["vms", "volumes", "snapshots", "ssh_keys"])
async def test_a_list_that_takes_too_long_ends_at_the_server_and_is_no_outage(  # noqa: PLR0913, PLR0917 - fixtures
    ada: Person,
    app: FastAPI,
    anyone: httpx.AsyncClient,
    engine: AsyncEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    table: str,
    query: str,
) -> None:
    if table == "ssh_keys" and query:
        pytest.skip("SSH keys have no filters")
    path = f"/{table.replace('_', '-')}{query}"
    lost: list[Any] = []
    for name in ("invalidate", "close", "close_detached"):
        event.listen(app.state.vmapi.engine.sync_engine, name, lambda *_: lost.append(_))
    for _ in range(3):  # the driver runs it by itself from the second time on
        async with locked(engine, table):
            with monkeypatch.context() as patch:
                patch.setattr(pages, "LIST_LIMIT", 0.1)
                answer = await ada.http.get(path)
            async with engine.connect() as connection:
                assert await connection.scalar(BLOCKED) == 0
        check_problem(answer, 503, "search_too_slow")
        assert answer.headers["Retry-After"] == "10"
        assert (await ada.http.get(path)).status_code == 200
    assert not lost
    assert (await anyone.get("/health/ready")).json()["checks"]["postgres"]["status"] == "ok"
    assert "unavailable" not in caplog.text


async def test_the_statements_of_a_list_share_the_time(ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LIST_LIMIT", 0.0)
    check_problem(await ada.http.get("/vms"), 503, "search_too_slow")
    assert (await ada.http.get("/health/live")).status_code == 200


async def test_searches_of_many_users_leave_slots_to_other_requests(
    app: FastAPI, engine: AsyncEngine, settings: Settings, bob: Person
) -> None:
    vm = await bob.create()
    callers = [await person(app, engine, settings, name) for name in ("ada", "eve", "ann")]
    async with locked(engine, "snapshots"):
        searches = [
            asyncio.create_task(caller.http.get(path.replace("vms", "snapshots")))
            for caller in callers
            for path in SEARCHES
        ]
        await wait_until_blocked(engine, 2)
        for path in ("/vms", f"/vms/{vm['id']}", "/flavors"):
            assert (await bob.http.get(path)).status_code == 200
        assert (await callers[0].http.get("/vms")).status_code == 200
        trial = {"name": "web-2", "flavor_id": FLAVOR}
        assert (await bob.http.post("/vms?validate_only=true", json=trial)).status_code == 200
        async with engine.connect() as connection:
            assert await connection.scalar(BLOCKED) == 2
    for answer in await asyncio.gather(*searches):
        assert answer.status_code == 200, answer.text


async def test_one_user_has_half_of_the_searches_and_is_refused_if_too_many_wait(
    engine: AsyncEngine, ada: Person, bob: Person
) -> None:
    async with locked(engine, "snapshots"):
        flood = [asyncio.create_task(ada.http.get("/snapshots?labels=!env")) for _ in range(12)]
        await wait_until_blocked(engine, 1)
        assert (await bob.http.get("/vms?labels=!env")).status_code == 200
    answers = [answer.status_code for answer in await asyncio.gather(*flood)]
    assert (answers.count(200), answers.count(429)) == (5, 7)  # one was served at once, and four waited
