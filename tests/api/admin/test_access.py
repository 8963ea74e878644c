"""Only the account that ADMIN_USERNAME names may call the endpoints for admins."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.settings import Settings
from tests.api.conftest import Person, person, running

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
