"""Only admins may call the endpoints for admins."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import security
from domain.data.accounts import User
from domain.rules.accounts import Role
from domain.settings import Settings
from tests.api.conftest import PASSWORD, Person, client_of, signing_of
from tests.api.test_program_tokens import make

REQUESTS: dict[str, tuple[str, str, Any]] = {
    "attention": ("GET", "/admin/attention", None),
    "retry": ("POST", f"/admin/operations/{uuid4()}/retry", None),
    "reset": ("POST", f"/admin/vms/{uuid4()}/reset-state", {"status": "ACTIVE"}),
    "users": ("GET", "/admin/users", None),
    "disable": ("POST", "/admin/users/nobody/disable", None),
    "enable": ("POST", "/admin/users/nobody/enable", None),
    "role": ("POST", "/admin/users/nobody/role", {"role": "admin"}),
    "audit": ("GET", "/admin/audit", None),
    "export": ("GET", "/admin/audit/export", None),
}


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS.values(), ids=REQUESTS)
async def test_only_an_admin_is_let_in(ada: Person, root: Person, method: str, path: str, body: Any) -> None:
    refusal = await ada.http.request(method, path, json=body)
    assert (refusal.status_code, refusal.json()["code"]) == (403, "admin_only")
    assert (await root.http.request(method, path, json=body)).status_code in {200, 404}


async def test_a_program_of_an_admin_is_an_admin_too(app: FastAPI, root: Person) -> None:
    program = client_of(app, await make(root.http))
    assert (await program.get("/admin/attention")).status_code == 200


async def test_an_admin_who_is_demoted_is_none_for_the_next_request(root: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.execute(update(User).values(role=Role.USER))
    assert (await root.http.get("/admin/attention")).status_code == 403


async def test_an_admin_whose_login_has_ended_elsewhere_is_none_for_the_next_request(
    root: Person, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        await tx.execute(update(User).values(epoch=1))
    assert (await root.http.get("/admin/attention")).status_code in {401, 403}


async def test_a_claim_to_be_an_admin_is_ignored(app: FastAPI, ada: Person, settings: Settings) -> None:
    """The role is in the database, and in no token, name or body."""
    token = security.sign(signing_of(settings), "access", ada.caller, uuid4(), timedelta(minutes=5))
    for headers in ({"X-Role": "admin"}, {"X-Forwarded-User": "root"}):
        answer = await client_of(app, token).get("/admin/attention", headers=headers)
        assert answer.status_code == 403
    registered = {"username": "eve", "email": "eve@example.com", "password": PASSWORD, "role": "admin"}
    assert (await client_of(app).post("/auth/register", json=registered)).status_code == 422
