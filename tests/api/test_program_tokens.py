"""Tokens for programs: made, used on every route, listed with their last use, limited by their scopes, deleted."""

import asyncio
import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web.problems import STATUS_OF_CODE
from domain.commands.program_tokens import MOST_TOKENS
from domain.data.accounts import IdempotencyKey, ProgramToken
from domain.settings import Settings
from tests.api.conftest import FLAVOR, Person, client_of, count, pointers, running

TOKEN = re.compile("vma_[0-9a-f]{64}")
VM = {"name": "web-1", "flavor_id": FLAVOR}


async def ask(user: httpx.AsyncClient, name: str = "robot", *scopes: str, **body: Any) -> httpx.Response:
    """Ask for a token; without scopes one that may do everything."""
    headers = {"Idempotency-Key": body.pop("key")} if "key" in body else {}
    new = {"name": name, "scopes": list(scopes) or ["read", "write"]} | body
    return await user.post("/tokens", json=new, headers=headers)


async def make(user: httpx.AsyncClient, name: str = "robot", *scopes: str, **body: Any) -> str:
    """Make a token, and return its text."""
    answer = await ask(user, name, *scopes, **body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


async def end(engine: AsyncEngine, name: str, ago: timedelta = timedelta(seconds=1)) -> None:
    """Let a token end."""
    async with engine.begin() as tx:
        ended = {"expires_at": datetime.now(UTC) - ago}
        await tx.execute(update(ProgramToken).where(ProgramToken.name == name).values(ended))


def is_refused(answer: httpx.Response, code: str) -> bool:
    """Whether the answer is the problem with this code."""
    return (answer.status_code, answer.json()["code"]) == (STATUS_OF_CODE[code], code)


async def test_a_token_is_shown_once_and_only_its_hash_is_kept(ada: Person, engine: AsyncEngine) -> None:
    answer = await ask(ada.http, "robot", "read", expires_in_days=90)
    created = answer.json()
    token = created.pop("token")
    assert TOKEN.fullmatch(token)
    assert set(created) == {"id", "name", "scopes", "created_at", "expires_at", "last_used_at"}
    assert (created["name"], created["scopes"], created["last_used_at"]) == ("robot", ["read"], None)
    life = datetime.fromisoformat(created["expires_at"]) - datetime.fromisoformat(created["created_at"])
    assert life == timedelta(days=90)
    assert answer.headers["Location"] == f"/api/v1/tokens/{created['id']}"
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await ada.http.get(f"/tokens/{created['id']}")).json() == created
    assert (await ada.http.get("/tokens")).json()["items"] == [created]
    async with engine.connect() as connection:
        row = (await connection.execute(select(ProgramToken))).one()
    assert row.digest == hashlib.sha256(token.encode()).digest()


async def test_a_token_acts_as_its_owner_on_every_route(app: FastAPI, ada: Person, bob: Person) -> None:
    program = client_of(app, await make(ada.http))
    vm = (await program.post("/vms", json=VM)).json()
    assert (await ada.http.get(f"/vms/{vm['id']}")).json()["name"] == "web-1"
    assert (await bob.http.get(f"/vms/{vm['id']}")).status_code == 404
    operation = (await program.get(f"/operations/{vm['operation_id']}")).json()
    assert operation["actor"] == "ada"
    assert (await program.patch(f"/vms/{vm['id']}", json={"name": "web-2"})).json()["name"] == "web-2"
    assert (await program.delete(f"/vms/{vm['id']}")).status_code == 204
    assert (await program.get("/auth/me")).json()["username"] == "ada"


async def test_a_read_token_cannot_change_anything(app: FastAPI, ada: Person) -> None:
    vm = await ada.create()
    reader = client_of(app, await make(ada.http, "reader", "read"))
    for path in ("/vms", f"/vms/{vm['id']}", "/flavors", "/tokens", "/auth/me"):
        assert (await reader.get(path)).status_code == 200
    assert (await reader.head("/vms")).status_code == 200
    refused = [
        await reader.post("/vms", json=VM),
        await reader.patch(f"/vms/{vm['id']}", json={"name": "web-2"}),
        await reader.delete(f"/vms/{vm['id']}"),
        await reader.delete(f"/vms/{uuid4()}"),
        await reader.post(f"/vms/{vm['id']}/actions/stop"),
        await reader.post("/tokens", json={"name": "more", "scopes": ["read"]}),
        await reader.post("/auth/logout"),
    ]
    for answer in refused:
        assert is_refused(answer, "insufficient_scope")
        assert answer.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope", scope="write"'
    assert (await ada.http.get(f"/vms/{vm['id']}")).json()["status"] == "BUILDING"


async def test_a_write_token_may_read_and_says_so(app: FastAPI, ada: Person) -> None:
    answer = await ask(ada.http, "writer", "write")
    assert answer.json()["scopes"] == ["read", "write"]
    assert (await client_of(app, answer.json()["token"]).get("/vms")).status_code == 200


async def test_a_deleted_token_stops_at_once_in_every_process(app: FastAPI, ada: Person, settings: Settings) -> None:
    answer = (await ask(ada.http)).json()
    async with running(settings) as other:
        programs = [client_of(app, answer["token"]), client_of(other, answer["token"])]
        assert [(await program.get("/vms")).status_code for program in programs] == [200, 200]
        assert (await ada.http.delete(f"/tokens/{answer['id']}")).status_code == 204
        for program in programs:
            assert is_refused(await program.get("/vms"), "invalid_token")
    assert (await ada.http.get("/tokens")).json()["items"] == []
    assert (await ada.http.delete(f"/tokens/{answer['id']}")).status_code == 404


async def test_a_token_may_delete_itself(app: FastAPI, ada: Person) -> None:
    answer = (await ask(ada.http)).json()
    program = client_of(app, answer["token"])
    assert (await program.delete(f"/tokens/{answer['id']}")).status_code == 204
    assert is_refused(await program.get("/vms"), "invalid_token")


async def test_a_token_that_has_ended_is_refused_and_stays_in_the_list(
    app: FastAPI, ada: Person, engine: AsyncEngine
) -> None:
    program = client_of(app, await make(ada.http, expires_in_days=1))
    assert (await program.get("/vms")).status_code == 200
    await end(engine, "robot")
    answer = await program.get("/vms")
    assert is_refused(answer, "invalid_token")
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert answer.json()["detail"] == "The token has expired."
    assert [token["name"] for token in (await ada.http.get("/tokens")).json()["items"]] == ["robot"]


@pytest.mark.parametrize(
    "token", ["vma_", "vma_" + "0" * 64, "vma_" + "0" * 63, "vma_" + "G" * 64, "vma_" + "0" * 9000, "vma_ÿ"]
)
async def test_what_is_no_token_of_anybody_is_refused(anyone: httpx.AsyncClient, token: str) -> None:
    header = {b"Authorization": f"Bearer {token}".encode("latin-1")}
    assert is_refused(await anyone.get("/vms", headers=header), "invalid_token")


async def test_another_users_tokens_are_not_seen_and_may_have_the_same_names(ada: Person, bob: Person) -> None:
    path = f"/tokens/{(await ask(ada.http)).json()['id']}"
    assert (await bob.http.get(path)).status_code == 404
    assert (await bob.http.delete(path)).status_code == 404
    assert (await bob.http.get("/tokens")).json()["items"] == []
    assert (await ask(bob.http)).status_code == 201
    assert (await ada.http.get(path)).status_code == 200


async def test_a_name_is_used_once_until_its_token_has_ended(app: FastAPI, ada: Person, engine: AsyncEngine) -> None:
    first = await make(ada.http, expires_in_days=1)
    answer = await ask(ada.http)
    assert is_refused(answer, "name_taken")
    assert pointers(answer.json()) == {"#/name"}
    await end(engine, "robot")
    second = await make(ada.http)
    assert is_refused(await client_of(app, first).get("/vms"), "invalid_token")
    assert (await client_of(app, second).get("/vms")).status_code == 200
    assert await count(engine, ProgramToken) == 1


async def test_a_user_has_at_most_a_hundred_tokens_also_if_requests_come_at_once(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    for number in range(MOST_TOKENS - 3):
        await make(ada.http, f"robot-{number}", expires_in_days=2)
    answers = await asyncio.gather(*(ask(ada.http, f"late-{number}") for number in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [403] * 5
    assert {answer.json()["code"] for answer in answers if answer.status_code == 403} == {"quota_exceeded"}
    assert (await ask(bob.http)).status_code == 201
    # One that has ended gives way.
    await end(engine, "robot-7")
    await make(ada.http, "one-more")
    names = {token["name"] for token in (await ada.http.get("/tokens?page_size=100")).json()["items"]}
    assert len(names) == MOST_TOKENS
    assert "one-more" in names
    assert "robot-7" not in names
    assert is_refused(await ask(ada.http, "too-many"), "quota_exceeded")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": ""}, "#/name"),
        ({"name": "n" * 256}, "#/name"),
        ({"scopes": []}, "#/scopes"),
        ({"scopes": ["admin"]}, "#/scopes/0"),
        ({"scopes": ["read", "read"]}, "#/scopes"),
        ({"scopes": "read"}, "#/scopes"),
        ({"scopes": None}, "#/scopes"),
        ({"expires_in_days": 0}, "#/expires_in_days"),
        ({"expires_in_days": -1}, "#/expires_in_days"),
        ({"expires_in_days": 3651}, "#/expires_in_days"),
        ({"expires_in_days": 1.5}, "#/expires_in_days"),
        ({"expires_in_days": "1"}, "#/expires_in_days"),
        ({"expires_in_days": 10**400}, "#/expires_in_days"),
        ({"token": "vma_mine"}, "#/token"),
    ],
)
async def test_a_wrong_token_is_refused_and_the_field_is_named(
    visitor: Person, change: dict[str, Any], pointer: str
) -> None:
    answer = await ask(visitor.http, **change) if "name" in change else await ask(visitor.http, "robot", **change)
    assert is_refused(answer, "validation_failed")
    assert pointers(answer.json()) == {pointer}


async def test_scopes_and_lifetime_are_required_as_documented(ada: Person) -> None:
    answer = await ada.http.post("/tokens", json={})
    assert pointers(answer.json()) == {"#/name", "#/scopes"}
    assert (await ask(ada.http, expires_in_days=None)).json()["expires_at"] is None


async def test_a_token_makes_no_token_that_outlives_it(app: FastAPI, ada: Person) -> None:
    program = client_of(app, await make(ada.http, "short", expires_in_days=10))
    for body in ({}, {"expires_in_days": 10}, {"expires_in_days": 3650}):
        answer = await ask(program, "longer", **body)
        assert is_refused(answer, "insufficient_scope")
        assert pointers(answer.json()) == {"#/expires_in_days"}
    child = client_of(app, await make(program, "shorter", expires_in_days=9))
    assert (await child.get("/vms")).status_code == 200
    endless = client_of(app, await make(ada.http, "endless"))
    assert (await ask(endless, "also-endless")).status_code == 201


async def test_a_program_cannot_end_a_login(app: FastAPI, ada: Person) -> None:
    program = client_of(app, await make(ada.http))
    assert is_refused(await program.post("/auth/logout"), "login_required")


async def test_a_repeated_request_gets_the_same_token_and_the_stored_answer_does_not_have_it(
    app: FastAPI, ada: Person, engine: AsyncEngine
) -> None:
    first = await ask(ada.http, key="one")
    again = await ask(ada.http, key="one")
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    token = first.json()["token"]
    assert (await client_of(app, token).get("/vms")).status_code == 200
    async with engine.connect() as connection:
        stored = (await connection.execute(select(IdempotencyKey.body))).scalar_one()
    assert token not in stored
    assert is_refused(await ask(ada.http, "other", key="one"), "idempotency_key_reused")
    assert await count(engine, ProgramToken) == 1


async def test_a_short_lived_token_does_not_get_a_longer_one_by_repeating_the_request_of_a_login(
    app: FastAPI, ada: Person
) -> None:
    program = client_of(app, await make(ada.http, "short", expires_in_days=1))
    await make(ada.http, "endless", key="one")
    assert is_refused(await ask(program, "endless", key="one"), "insufficient_scope")
