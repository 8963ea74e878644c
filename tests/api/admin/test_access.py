"""Only the account that ADMIN_USERNAME names may call the endpoints for admins."""

import dataclasses
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import security
from domain.data.accounts import SAME, User
from domain.settings import Settings
from tests.api.conftest import Person, client_of, person, running, signing_of

REQUESTS = [
    ("GET", "/admin/attention", None),
    ("POST", f"/admin/operations/{uuid4()}/retry", None),
    ("POST", f"/admin/vms/{uuid4()}/reset-state", {"status": "ACTIVE"}),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS, ids=["attention", "retry", "reset"])
async def test_only_the_admin_is_let_in(ada: Person, root: Person, method: str, path: str, body: Any) -> None:
    refusal = await ada.http.request(method, path, json=body)
    assert (refusal.status_code, refusal.json()["code"]) == (403, "admin_only")
    assert (await root.http.request(method, path, json=body)).status_code in {200, 404}


async def test_nobody_is_admin_unless_the_settings_name_one(engine: AsyncEngine, settings: Settings) -> None:
    async with running(settings) as app:
        user = await person(app, engine, settings, "ada")
        assert (await user.http.get("/admin/attention")).status_code == 403


async def test_an_early_account_whose_name_differs_in_case_only_is_not_the_admin(
    app: FastAPI, engine: AsyncEngine, settings: Settings
) -> None:
    """In a database with Turkish rules, `ROOT` was another name than `root`. The migration kept both accounts."""
    other = await person(app, engine, settings, "other")
    async with engine.begin() as tx:
        changed = {"username": "ROOT", "username_key": f"{SAME}ROOT"}
        await tx.execute(update(User).where(User.id == other.user.id).values(changed))
    caller = dataclasses.replace(other.caller, username="ROOT")
    token = security.sign(signing_of(settings), "access", caller, uuid4(), timedelta(minutes=5))
    assert (await client_of(app, token).get("/admin/attention")).status_code == 403
