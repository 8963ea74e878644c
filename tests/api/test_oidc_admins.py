"""What admins can do whom the identity provider names, and what ends when their accounts do."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.admin import carry_out, parse
from api.web.dependencies import ProcessState
from api.web.event_stream import follow
from domain.data.accounts import User
from domain.rules.account_errors import RoleOfProviderError
from domain.rules.accounts import Role
from domain.settings import Settings
from tests.api.conftest import FLAVOR, client_of, person, running
from tests.api.oidc import me, refusal, trusting
from tests.api.test_program_tokens import make
from tests.support.identity_provider import Provider, key, running_provider

USER = {"role": "user"}
ADMINS = {"oidc_role_claim": "groups", "oidc_admin_value": "vm-admins"}


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """A provider."""
    async with running_provider(key()) as provider:
        yield provider


@pytest.fixture
async def app(settings: Settings, provider: Provider) -> AsyncIterator[FastAPI]:
    """The running application, whose admins the provider names."""
    async with running(trusting(settings, provider, **ADMINS)) as app:
        yield app


async def test_an_admin_of_the_provider_disables_and_enables_users_and_changes_roles(
    app: FastAPI, provider: Provider, settings: Settings, engine: AsyncEngine
) -> None:
    ada = await person(app, engine, settings, "ada")
    admin = client_of(app, provider.token(groups=["vm-admins"], preferred_username="root"))
    for path, body in (("role", {"role": "admin"}), ("role", {"role": "user"}), ("disable", None)):
        answer = await admin.post(f"/admin/users/ada/{path}", json=body)
        assert answer.status_code == 200, answer.text
    assert refusal(await ada.http.get("/auth/me")) == (401, "invalid_token")
    assert (await admin.post("/admin/users/ada/enable")).status_code == 200


async def test_the_first_request_of_a_user_is_in_the_audit(app: FastAPI, provider: Provider) -> None:
    ada = client_of(app, provider.token(sub="u-7", preferred_username="ada"))
    ada.headers.update({"User-Agent": "tests/1.0", "X-Request-Id": "the-request"})
    await asyncio.gather(*(ada.get("/flavors") for _ in range(3)))
    await ada.get("/flavors", headers={"X-Request-Id": "another"})
    admin = client_of(app, provider.token(groups=["vm-admins"], preferred_username="root"))
    [event] = (await admin.get("/admin/audit?event=register&target=ada")).json()["items"]
    assert (event["actor"], event["user_agent"], event["request_id"]) == (None, "tests/1.0", "the-request")
    assert event["address"]
    assert event["details"] == {"role": "user", "issuer": provider.issuer, "subject": "u-7"}


async def test_a_disabled_admin_of_the_provider_is_none(app: FastAPI, provider: Provider) -> None:
    first, second = (
        client_of(app, provider.token(sub=name, groups=["vm-admins"], preferred_username=name))
        for name in ("eve", "mallory")
    )
    await asyncio.gather(*(client.get("/auth/me") for client in (first, second)))
    assert (await first.post("/admin/users/mallory/disable")).status_code == 200
    assert refusal(await second.post("/admin/users/eve/disable")) == (401, "invalid_token")


async def test_only_the_provider_makes_its_users_admins(
    app: FastAPI, provider: Provider, settings: Settings, engine: AsyncEngine
) -> None:
    root = await person(app, engine, settings, "root", Role.ADMIN)
    admin, former = provider.token(groups=["vm-admins"]), provider.token(groups=[])
    name = (await me(app, admin))["username"]
    program = client_of(app, await make(client_of(app, admin)))
    for granting in (client_of(app, admin), root.http):
        grant = await granting.post(f"/admin/users/{name}/role", json={"role": "admin"})
        assert refusal(grant) == (409, "role_of_provider")
    async with engine.begin() as tx:  # as an admin could give it before the provider decided
        await tx.execute(update(User).where(User.username == name).values(role=Role.ADMIN))
    for alone in (root.http.post("/admin/users/root/disable"), root.http.post("/admin/users/root/role", json=USER)):
        assert refusal(await alone) == (409, "last_admin")  # that role has no effect
    for client in (client_of(app, former), program):
        assert refusal(await client.get("/admin/users")) == (403, "admin_only")
        assert refusal(await client.post(f"/admin/users/{name}/enable")) == (403, "admin_only")
    assert (await client_of(app, admin).get("/admin/users")).status_code == 200
    assert (await root.http.post(f"/admin/users/{name}/role", json=USER)).status_code == 200
    await carry_out(app.state.vmapi.settings, parse(["grant", "root"]))
    with pytest.raises(RoleOfProviderError):
        await carry_out(app.state.vmapi.settings, parse(["grant", name]))


@pytest.mark.parametrize("request_begins", ["before", "after"])
async def test_what_begins_while_the_account_is_disabled_ends(
    app: FastAPI, provider: Provider, request_begins: str
) -> None:
    """The disabling may be noted after the token was looked at, and before the stream can be told."""
    token = provider.token(preferred_username="ada")
    user = await me(app, token)
    process: ProcessState = app.state.vmapi
    assert process.provider
    caller = await process.provider.find(token, {"type": "http", "headers": [], "client": ("127.0.0.1", 1)})
    if request_begins == "before":
        process.epochs.note(UUID(user["id"]), 1)
    stream = await follow(process, caller, None, lambda _: b"", lambda _: True)
    blocks = aiter(stream.body_iterator)
    assert await anext(blocks) == b"retry: 1000\n\n"
    if request_begins == "after":
        process.epochs.note(UUID(user["id"]), 1)
    async with asyncio.timeout(5):
        assert [part async for part in blocks] == []


async def test_a_wait_ends_without_the_resource_when_the_account_is_disabled(
    app: FastAPI, provider: Provider, settings: Settings, engine: AsyncEngine
) -> None:
    root = await person(app, engine, settings, "root", Role.ADMIN)
    ada = client_of(app, provider.token(preferred_username="ada"))
    vm = (await ada.post("/vms", json={"name": "web-1", "flavor_id": FLAVOR})).json()
    waiting = asyncio.create_task(ada.get(f"/vms/{vm['id']}?wait=30"))
    await asyncio.sleep(0.2)
    assert (await root.http.post("/admin/users/ada/disable")).status_code == 200
    assert refusal(await waiting) == (401, "invalid_token")
