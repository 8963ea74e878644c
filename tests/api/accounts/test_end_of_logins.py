"""A change of the password and a logout everywhere end all logins at once; a login has an absolute end."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background import token_epochs
from api.background.token_epochs import TokenEpochs
from api.web import logins
from domain.data import database
from domain.data import token_epochs as data
from domain.data.accounts import RefreshToken, User
from domain.data.audit import AuditEvent
from domain.rules.accounts import Event
from domain.settings import Settings
from tests.api.accounts.conftest import NEW_PASSWORD, log_in, logged_in, refresh
from tests.api.conftest import FLAVOR, PASSWORD, Person, client_of, pointers, running
from tests.api.test_program_tokens import make
from tests.support.rows import add_user
from tests.support.waiting import poll

CHANGE = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
ENDS: dict[str, tuple[str, Any]] = {"password": ("/auth/password", CHANGE), "logout-all": ("/auth/logout-all", None)}
each_end = pytest.mark.parametrize(("path", "body"), ENDS.values(), ids=ENDS)


@each_end
async def test_all_logins_end_with_all_their_tokens_at_once(
    app: FastAPI, grace: httpx.AsyncClient, path: str, body: Any
) -> None:
    other = await logged_in(app)
    answer = await other.post(path, json=body)
    assert (answer.status_code, answer.content) == (204, b"")
    for client in (grace, other):
        for request in (client.get("/auth/me"), client.post("/vms", json={"name": "x", "flavor_id": FLAVOR})):
            refused = await request
            assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")
        assert (await refresh(client)).status_code == 401


@each_end
async def test_another_process_notices_within_a_second(
    grace: httpx.AsyncClient, settings: Settings, path: str, body: Any
) -> None:
    token = grace.headers["Authorization"].split()[1]
    async with running(settings) as other:
        elsewhere = client_of(other, token)
        assert (await elsewhere.get("/auth/me")).status_code == 200
        assert (await grace.post(path, json=body)).status_code == 204
        async with asyncio.timeout(5):
            await poll(lambda: elsewhere.get("/flavors"), lambda answer: answer.status_code == 401, interval=0.05)


async def test_a_write_in_another_process_notices_after_a_second_even_if_its_poller_stands_still(
    grace: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a process that was stopped or cut off from the database goes on."""
    monkeypatch.setattr(token_epochs, "INTERVAL", 3600.0)
    token = grace.headers["Authorization"].split()[1]
    async with running(settings) as other:
        elsewhere = client_of(other, token)
        assert (await elsewhere.get("/flavors")).status_code == 200
        assert (await grace.post("/auth/logout-all")).status_code == 204
        await asyncio.sleep(token_epochs.MOST_STALE)
        assert (await elsewhere.get("/flavors")).status_code == 200  # a read does not wait for a look
        assert (await elsewhere.post("/vms", json={"name": "x", "flavor_id": FLAVOR})).status_code == 401
        assert (await elsewhere.get("/flavors")).status_code == 401


async def test_a_look_that_hangs_holds_up_no_write_for_long(
    grace: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_epochs, "LOOK_TIMEOUT", 0.2)
    looks = data.look
    hangs = [True]

    async def look(*arguments: Any) -> Any:
        if hangs.pop() if hangs else False:
            await asyncio.sleep(3600)
        return await looks(*arguments)

    monkeypatch.setattr(data, "look", look)
    async with running(settings) as other, asyncio.timeout(10):
        elsewhere = client_of(other, grace.headers["Authorization"].split()[1])
        assert (await elsewhere.post("/vms", json={"name": "x", "flavor_id": FLAVOR})).status_code == 202
    assert not hangs


async def test_a_write_does_not_trust_a_look_that_had_begun_long_before_it(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
    monkeypatch.setattr(token_epochs, "LOOK_TIMEOUT", 30)
    monkeypatch.setattr(token_epochs, "MOST_STALE", 0.05)
    looks, has_read, go_on = data.look, asyncio.Event(), asyncio.Event()

    async def read_and_wait(*arguments: Any) -> Any:
        found = await looks(*arguments)
        has_read.set()
        await go_on.wait()
        return found

    monkeypatch.setattr(data, "look", read_and_wait)
    epochs = token_epochs.TokenEpochs(database.autocommit(engine))
    first = asyncio.create_task(epochs.be_current(for_write=False))
    await has_read.wait()
    async with engine.begin() as tx:
        await tx.execute(update(User).values(epoch=1, epoch_at=func.now()))
    await asyncio.sleep(token_epochs.MOST_STALE)
    write = asyncio.create_task(epochs.be_current(for_write=True))
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, write)
    assert epochs.is_void(user.id, 0)


async def test_a_process_that_starts_later_knows_which_logins_have_ended(
    grace: httpx.AsyncClient, settings: Settings
) -> None:
    assert (await grace.post("/auth/logout-all")).status_code == 204
    async with running(settings) as later:
        token = grace.headers["Authorization"].split()[1]
        assert (await client_of(later, token).get("/flavors")).status_code == 401


async def test_an_end_that_the_database_has_lost_refuses_no_new_login(
    app: FastAPI, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover to a standby that lagged, or a restore."""
    epochs: TokenEpochs = app.state.vmapi.epochs
    epochs.note(ada.user.id, 1)
    assert (await ada.http.get("/flavors")).status_code == 401
    monkeypatch.setattr(token_epochs, "MOST_STALE", 0.0)
    assert (await ada.http.get("/flavors")).status_code == 200
    assert not epochs.is_void(ada.user.id, 0)


async def test_an_end_that_commits_late_is_not_missed(
    app: FastAPI, grace: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    """Another account's end, whose transaction began later, is seen before it."""
    async with engine.begin() as late:
        await late.execute(update(User).values(epoch=User.epoch + 1, epoch_at=text("clock_timestamp()")))
        async with engine.begin() as early:
            await add_user(early, "other")
            await early.execute(update(User).where(User.username == "other").values(epoch=1))
        epochs = app.state.vmapi.epochs
        async with engine.connect() as connection:
            other = await connection.scalar(select(User.id).where(User.username == "other"))
        await poll(lambda: asyncio.sleep(0, epochs.is_void(other, 0)), bool)
        assert (await grace.get("/flavors")).status_code == 200
    await poll(lambda: grace.get("/flavors"), lambda answer: answer.status_code == 401)


async def test_no_refresh_or_login_that_runs_at_the_same_time_outlives_the_end(
    app: FastAPI, grace: httpx.AsyncClient
) -> None:
    for _ in range(10):
        other = await logged_in(app)
        refreshed, login, end = await asyncio.gather(refresh(other), log_in(app), grace.post("/auth/logout-all"))
        assert end.status_code == 204
        grace = await logged_in(app)
        for answer in (refreshed, login):
            if answer.status_code == 200:
                survivor = client_of(app, answer.json()["access_token"])
                survivor.headers["X-Refresh"] = answer.json()["refresh_token"]
                is_later = (await survivor.get("/auth/me")).status_code == 200
                # A login that was checked after the end is a new one. A refresh never is.
                assert not is_later or answer is login
                assert ((await refresh(survivor)).status_code == 200) == is_later


async def test_tokens_for_programs_go_on(app: FastAPI, grace: httpx.AsyncClient) -> None:
    program = client_of(app, await make(grace))
    assert (await grace.post("/auth/logout-all")).status_code == 204
    assert (await (await logged_in(app)).post("/auth/password", json=CHANGE)).status_code == 204
    assert (await program.get("/flavors")).status_code == 200


async def test_only_the_new_password_works_after_a_change(app: FastAPI, grace: httpx.AsyncClient) -> None:
    assert (await grace.post("/auth/password", json=CHANGE)).status_code == 204
    assert (await log_in(app)).status_code == 401
    again = await logged_in(app, NEW_PASSWORD)
    assert (await again.get("/auth/me")).status_code == 200
    assert (await refresh(again)).status_code == 200


async def test_a_wrong_current_password_is_refused_and_slowed_down_as_a_login_is(
    app: FastAPI, grace: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logins, "time", SimpleNamespace(monotonic=lambda: 1000.0))  # no delay ends meanwhile
    wrong = CHANGE | {"current_password": "Wrong-Horse-1"}
    for _ in range(5):
        answer = await grace.post("/auth/password", json=wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, "wrong_password")
        assert pointers(answer.json()) == {"#/current_password"}
    assert (await grace.post("/auth/password", json=wrong)).status_code == 429
    assert (await grace.post("/auth/password", json=CHANGE)).status_code == 429
    assert (await log_in(app)).status_code == 429  # the two count together


@pytest.mark.parametrize("password", ["short1A", "Password1", "Grace@Navy.test"])
async def test_a_new_password_has_to_be_a_good_one(grace: httpx.AsyncClient, password: str) -> None:
    answer = await grace.post("/auth/password", json=CHANGE | {"new_password": password})
    assert (answer.status_code, pointers(answer.json())) == (422, {"#/new_password"})


async def test_only_one_of_two_changes_at_once_is_made(app: FastAPI, grace: httpx.AsyncClient) -> None:
    bodies = [CHANGE | {"new_password": f"Newer-Horse-{number}"} for number in (2, 3)]
    statuses = [
        answer.status_code for answer in await asyncio.gather(*(grace.post("/auth/password", json=b) for b in bodies))
    ]
    assert statuses.count(204) == 1
    statuses = [(await log_in(app, body["new_password"])).status_code for body in bodies]
    assert sorted(statuses) == [200, 401]


async def test_a_token_for_programs_can_do_neither(app: FastAPI, grace: httpx.AsyncClient) -> None:
    program = client_of(app, await make(grace))
    for path, body in ENDS.values():
        answer = await program.post(path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "login_required")


async def test_a_login_ends_however_often_it_is_refreshed(grace: httpx.AsyncClient, engine: AsyncEngine) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=60)
    async with engine.begin() as tx:
        await tx.execute(update(RefreshToken).values(login_ends_at=soon))
    pair = (await refresh(grace)).json()
    assert pair["expires_in"] <= 60
    async with engine.begin() as tx:
        tokens = (await tx.execute(select(RefreshToken).where(RefreshToken.used_at.is_(None)))).all()
        assert [(row.expires_at, row.login_ends_at) for row in tokens] == [(soon, soon)]
        await tx.execute(update(RefreshToken).values(expires_at=datetime.now(UTC)))
    assert (await grace.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})).status_code == 401


async def test_a_login_of_an_earlier_version_gets_an_end_with_its_next_refresh(
    grace: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        await tx.execute(update(RefreshToken).values(login_ends_at=None))
    assert (await refresh(grace)).status_code == 200
    async with engine.connect() as connection:
        ends = await connection.scalar(select(RefreshToken.login_ends_at).where(RefreshToken.used_at.is_(None)))
    assert ends
    assert timedelta(days=29) < ends - datetime.now(UTC) < timedelta(days=31)


async def test_a_stream_and_a_wait_end_with_the_login(grace: httpx.AsyncClient) -> None:
    vm = (await grace.post("/vms", json={"name": "web-1", "flavor_id": FLAVOR})).json()
    stream = asyncio.create_task(grace.get("/events"))
    wait = asyncio.create_task(grace.get(f"/vms/{vm['id']}?wait=60"))
    await asyncio.sleep(0.5)
    assert not stream.done()
    assert not wait.done()
    assert (await grace.post("/auth/logout-all")).status_code == 204
    async with asyncio.timeout(5):
        assert (await stream).status_code == 200  # and its end
        assert (await wait).status_code == 401


async def test_an_ended_login_is_told_from_a_stolen_token(grace: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await grace.post("/auth/logout-all")
    assert (await refresh(grace)).status_code == 401
    async with engine.connect() as connection:
        events = (await connection.scalars(select(AuditEvent.event))).all()
    assert Event.LOGOUT_ALL in events
    assert Event.REUSE_REFRESH_TOKEN not in events
