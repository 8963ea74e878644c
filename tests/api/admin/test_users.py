"""Admins list users, disable and enable them, and change their roles; none locks all admins out."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.commands import accounts
from domain.commands.acceptance import Requester
from domain.data.accounts import User
from domain.data.audit import AuditEvent
from domain.rules.account_errors import NotAnAdminError
from domain.rules.accounts import Event, Role
from domain.settings import Settings
from tests.api.conftest import FLAVOR, Person, client_of, person, running
from tests.api.test_program_tokens import make
from tests.support.waiting import poll

VM = {"name": "web-1", "flavor_id": FLAVOR}


async def names(admin: Person, query: str = "") -> list[str]:
    """The names in the list of users."""
    answer = await admin.http.get(f"/admin/users{query}")
    assert answer.status_code == 200, answer.text
    return [user["username"] for user in answer.json()["items"]]


@pytest.fixture
async def second(app: FastAPI, engine: AsyncEngine, settings: Settings) -> Person:
    """Another admin."""
    return await person(app, engine, settings, "second", Role.ADMIN)


async def test_the_list_has_all_users_and_filters(root: Person, ada: Person, bob: Person) -> None:
    assert (await root.http.post("/admin/users/bob/disable")).status_code == 200
    assert await names(root) == ["root", "ada", "bob"]
    assert await names(root, "?role=admin") == ["root"]
    assert await names(root, "?role=user&disabled=false") == ["ada"]
    assert await names(root, "?disabled=true") == ["bob"]
    assert await names(root, "?username=AD") == ["ada"]
    user = (await root.http.get("/admin/users?username=ada")).json()["items"][0]
    assert set(user) == {"id", "username", "email", "role", "created_at", "disabled_at"}
    assert (user["id"], ada.user.username) == (str(ada.user.id), "ada")
    assert bob.user.username == "bob"


async def test_a_disabled_user_can_do_nothing_and_everything_again_when_enabled(
    app: FastAPI, root: Person, ada: Person
) -> None:
    program = client_of(app, await make(ada.http))
    vm = await ada.create()
    answer = await root.http.post("/admin/users/ADA/disable")
    assert (answer.status_code, answer.json()["username"]) == (200, "ada")
    assert answer.json()["disabled_at"].endswith("Z")
    for client in (ada.http, program):
        for request in (client.get(f"/vms/{vm['id']}"), client.post("/vms", json=VM)):
            assert (await request).status_code == 401
    again = await root.http.post("/admin/users/ada/disable")
    assert again.json() == answer.json()
    enabled = await root.http.post("/admin/users/ada/enable")
    assert (enabled.status_code, enabled.json()["disabled_at"]) == (200, None)
    assert (await program.get(f"/vms/{vm['id']}")).status_code == 200
    assert (await ada.http.get(f"/vms/{vm['id']}")).status_code == 401  # the old login does not come back


async def test_a_disabled_users_write_in_another_process_is_refused_within_a_second(
    root: Person, ada: Person, settings: Settings
) -> None:
    async with running(settings) as other:
        elsewhere = client_of(other, ada.http.headers["Authorization"].split()[1])
        assert (await elsewhere.post("/vms", json=VM)).status_code == 202
        assert (await root.http.post("/admin/users/ada/disable")).status_code == 200
        await asyncio.sleep(1)
        assert (await elsewhere.post("/vms", json=VM)).status_code == 401


@pytest.mark.parametrize("is_program", [False, True], ids=["login", "program"])
async def test_a_stream_and_a_wait_of_a_disabled_user_end(
    app: FastAPI, root: Person, ada: Person, *, is_program: bool
) -> None:
    client = client_of(app, await make(ada.http)) if is_program else ada.http
    vm = await ada.create()
    requests = [asyncio.create_task(client.get(path)) for path in ("/events", f"/vms/{vm['id']}?wait=60")]
    await asyncio.sleep(0.5)
    assert not any(request.done() for request in requests)
    await root.http.post("/admin/users/ada/disable")
    async with asyncio.timeout(5):
        _, wait = await asyncio.gather(*requests)
    assert wait.status_code == 401


async def test_a_disabled_user_is_told_so_only_with_the_right_password(app: FastAPI, root: Person) -> None:
    account = {"username": "eve", "email": "eve@example.com", "password": "Correct-Horse-1"}
    anyone = client_of(app)
    assert (await anyone.post("/auth/register", json=account)).status_code == 201
    assert (await root.http.post("/admin/users/eve/disable")).status_code == 200
    right = await anyone.post("/auth/login", json={"username": "eve", "password": account["password"]})
    wrong = await anyone.post("/auth/login", json={"username": "eve", "password": "Wrong-Horse-1"})
    assert (right.status_code, right.json()["code"]) == (403, "account_disabled")
    assert (wrong.status_code, wrong.json()["code"]) == (401, "invalid_credentials")


async def test_a_new_admin_is_one_at_once_and_a_demoted_one_is_none_at_once(
    root: Person, ada: Person, settings: Settings
) -> None:
    async with running(settings) as other:
        elsewhere = client_of(other, ada.http.headers["Authorization"].split()[1])
        for role, status in (("admin", 200), ("user", 403), ("admin", 200)):
            answer = await root.http.post("/admin/users/ada/role", json={"role": role})
            assert (answer.status_code, answer.json()["role"]) == (200, role)
            for client in (ada.http, elsewhere):
                assert (await client.get("/admin/users")).status_code == status
                assert (await client.get("/auth/me")).json()["role"] == role


LAST: list[tuple[str, Any]] = [("disable", None), ("role", {"role": "user"})]


@pytest.mark.parametrize(("action", "body"), LAST, ids=["disable", "demote"])
async def test_the_last_admin_cannot_leave(
    root: Person, second: Person, engine: AsyncEngine, action: str, body: Any
) -> None:
    """A disabled admin does not count: nobody but an admin could enable them."""
    assert (await root.http.post("/admin/users/second/disable")).status_code == 200
    answer = await root.http.post(f"/admin/users/root/{action}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (409, "last_admin")
    trial = await root.http.post(f"/admin/users/root/{action}?validate_only=true", json=body)
    assert (trial.status_code, trial.json()["code"]) == (409, "last_admin")
    assert (await root.http.post("/admin/users/second/enable")).status_code == 200
    assert (await root.http.post(f"/admin/users/root/{action}", json=body)).status_code == 200
    assert second.user.username == "second"
    async with engine.connect() as connection:
        left = (
            await connection.scalars(select(User.username).where(User.role == "admin", User.disabled_at.is_(None)))
        ).all()
    assert left == ["second"]


@pytest.mark.parametrize("action", ["disable", "demote"])
async def test_admins_who_throw_each_other_out_at_once_leave_one(
    root: Person, second: Person, engine: AsyncEngine, action: str
) -> None:
    for _ in range(5):
        async with engine.begin() as tx:
            await tx.execute(update(User).values(role=Role.ADMIN, disabled_at=None))
        attempts = _throw_out(engine, root, "second", action), _throw_out(engine, second, "root", action)
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert {type(result) for result in results} == {NotAnAdminError, type(None)}
        async with engine.connect() as connection:
            is_left = User.role == Role.ADMIN, User.disabled_at.is_(None)
            assert len((await connection.scalars(select(User.id).where(*is_left))).all()) == 1


async def _throw_out(engine: AsyncEngine, admin: Person, other: str, action: str) -> None:
    async with engine.begin() as tx:
        requester = Requester(admin.user.id, admin.user.username, "request")
        if action == "disable":
            await accounts.set_disabled(tx, requester, other, disabled=True, provider_decides=False)
        else:
            await accounts.set_role(tx, requester, other, Role.USER, provider_decides=False)


async def test_a_request_that_was_let_in_before_the_demotion_changes_no_role(root: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.execute(update(User).values(role=Role.USER))
    with pytest.raises(NotAnAdminError):
        await _throw_out(engine, root, "root", "demote")


async def test_an_unknown_user_is_404_and_an_unknown_role_422(root: Person) -> None:
    for action, body in (("disable", None), ("enable", None), ("role", {"role": "admin"})):
        for name in ("nobody", str(uuid4()), "é"):
            answer = await root.http.post(f"/admin/users/{name}/{action}", json=body)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), answer.text
        assert (await root.http.post(f"/admin/users/x%00y/{action}", json=body)).status_code == 422
    refused = await root.http.post("/admin/users/root/role", json={"role": "owner"})
    assert refused.status_code == 422


async def test_a_trial_and_a_change_that_is_none_leave_no_trace(root: Person, ada: Person, engine: AsyncEngine) -> None:
    await root.http.post("/admin/users/ada/disable?validate_only=true")
    assert (await ada.http.get("/auth/me")).status_code == 200
    await root.http.post("/admin/users/ada/enable")
    await root.http.post("/admin/users/ada/role", json={"role": "user"})
    async with engine.connect() as connection:
        assert (await connection.scalars(select(AuditEvent.event))).all() == []


async def test_a_repeated_request_gets_the_first_answer(root: Person, ada: Person, engine: AsyncEngine) -> None:
    key = {"Idempotency-Key": "disable-ada"}
    first: httpx.Response = await root.http.post("/admin/users/ada/disable", headers=key)
    assert (await root.http.post("/admin/users/ada/disable", headers=key)).json() == first.json()
    async with engine.connect() as connection:
        assert (await connection.scalars(select(AuditEvent.event))).all() == [Event.DISABLE_USER]
    await poll(lambda: ada.http.get("/auth/me"), lambda answer: answer.status_code == 401)
