"""Users of a company's identity provider: they need no account, get one at first sight, and take nobody's over."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import oidc
from api.web.slots import Slots
from domain.commands import identities
from domain.commands.audit import Stranger
from domain.commands.identities import Subject
from domain.data.accounts import User
from domain.data.identities import Identity
from domain.rules.accounts import Role
from domain.settings import Settings
from tests.api.conftest import FLAVOR, Person, client_of, count, person, running
from tests.api.oidc import me, refusal, trusting
from tests.support.identity_provider import AUDIENCE, Provider, key, running_provider
from tests.support.rows import add_user
from tests.support.statements import statements_of_requests
from tests.support.waiting import wait_until_blocked

ADMINS = {"oidc_role_claim": "groups", "oidc_admin_value": "vm-admins"}


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """A provider with one key for each algorithm."""
    keys = [key(algorithm, algorithm) for algorithm in ("RS256", "PS256", "ES256", "EdDSA")]
    async with running_provider(key(), *keys) as provider:
        yield provider


@pytest.fixture
def settings(settings: Settings, provider: Provider) -> Settings:
    """Settings that name the provider."""
    return trusting(settings, provider)


async def test_a_user_gets_an_account_at_first_sight_and_keeps_it(
    app: FastAPI, provider: Provider, engine: AsyncEngine
) -> None:
    first = await me(app, provider.token(preferred_username="ada"))
    assert (first["username"], first["email"], first["role"]) == ("ada", None, "user")
    assert await me(app, provider.token(preferred_username="lovelace")) == first  # a new name changes nothing
    async with engine.connect() as connection:
        [identity] = await connection.execute(select(Identity.issuer, Identity.subject, Identity.user_id))
        [user] = await connection.execute(select(User.id, User.password_hash))
    assert tuple(identity) == (provider.issuer, "u-1", UUID(first["id"]))
    assert tuple(user) == (UUID(first["id"]), None)


async def test_the_account_is_the_same_after_a_restart_and_in_every_process(
    app: FastAPI, provider: Provider, settings: Settings, engine: AsyncEngine
) -> None:
    token = provider.token()
    async with running(settings) as other:
        profiles = await asyncio.gather(*(me(each, token) for each in (app, other) * 4))
    assert len({profile["id"] for profile in profiles}) == 1
    assert await count(engine, User) == 1


async def test_processes_that_see_a_new_user_at_once_find_one_account(engine: AsyncEngine) -> None:
    async def find() -> tuple[UUID, str]:
        async with engine.begin() as tx:
            subject = Subject("https://login.example.com", "u-1", "ada")
            found = await identities.find_or_add(tx, subject, Stranger())
        return found.id, found.username

    async with engine.connect() as connection:
        await add_user(connection, "ada")  # not committed: who wants the name waits to learn whether it is taken
        racing = [asyncio.create_task(find()) for _ in range(3)]
        await wait_until_blocked(engine, 3)
        await connection.rollback()
    found = await asyncio.gather(*racing)
    assert found == [found[0]] * 3
    assert (await count(engine, User), found[0][1]) == (1, "ada")


async def test_the_token_is_taken_on_every_route(app: FastAPI, provider: Provider, ada: Person) -> None:
    user = client_of(app, provider.token(preferred_username="grace"))
    created = await user.post("/vms", json={"name": "web-1", "flavor_id": FLAVOR}, headers={"Idempotency-Key": "1"})
    assert created.status_code == 202
    vm = created.json()
    assert (await ada.http.get(f"/vms/{vm['id']}")).status_code == 404
    assert (await user.get(f"/vms/{vm['id']}")).json()["name"] == "web-1"
    assert (await user.get(f"/operations/{vm['operation_id']}")).json()["actor"] == "grace"
    made = await user.post("/tokens", json={"name": "robot", "scopes": ["read"]})
    assert (await client_of(app, made.json()["token"]).get("/auth/me")).json()["username"] == "grace"
    assert (await user.delete(f"/vms/{vm['id']}")).status_code == 204


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
async def test_each_algorithm_of_the_provider_is_accepted(app: FastAPI, provider: Provider, algorithm: str) -> None:
    assert (await me(app, provider.token(key(algorithm, algorithm))))["username"] == "u-1"


async def test_a_known_user_costs_no_statement(app: FastAPI, provider: Provider) -> None:
    token = provider.token()
    await client_of(app, token).get("/flavors")
    with statements_of_requests(app.state.vmapi.engine) as statements:
        await client_of(app, token).get("/flavors")
        await client_of(app, provider.token(jti="another")).get("/flavors")
    assert [statement for statement in statements if "users" in statement or "identities" in statement] == []
    assert statements


async def test_what_is_remembered_is_bounded(app: FastAPI, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "REMEMBERED", 2)
    tokens = [provider.token(sub=f"u-{number}") for number in range(4)]
    ids = [(await me(app, token))["id"] for token in tokens]
    assert [(await me(app, token))["id"] for token in tokens] == ids
    known = app.state.vmapi.provider
    assert (len(known._right), len(known._users)) == (2, 2)


async def test_nobody_takes_over_an_account_by_its_name(app: FastAPI, provider: Provider, ada: Person) -> None:
    stranger = await me(app, provider.token(preferred_username="Ada"))
    assert stranger["id"] != str(ada.user.id)
    assert stranger["username"].startswith("Ada-")
    assert (await ada.http.get("/auth/me")).json()["id"] == str(ada.user.id)


async def test_two_users_with_one_name_get_two_accounts(app: FastAPI, provider: Provider) -> None:
    users = [await me(app, provider.token(sub=sub, preferred_username="ada")) for sub in ("u-1", "u-2", "U-2")]
    assert len({user["id"] for user in users}) == 3
    assert users[0]["username"] == "ada"
    assert all(user["username"].startswith("ada-") for user in users[1:])


async def test_a_name_that_others_registered_in_all_its_forms_shuts_nobody_out(
    app: FastAPI, provider: Provider, ada: Person, engine: AsyncEngine
) -> None:
    taken = (await me(app, provider.token(preferred_username=ada.user.username)))["username"]
    async with engine.begin() as tx:
        await tx.execute(delete(Identity))  # the same subject comes again, and finds its name taken
    app.state.vmapi.provider._users.clear()
    again = (await me(app, provider.token(preferred_username=ada.user.username)))["username"]
    assert len(taken) < len(again) <= 64


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Jürgen.Müller@example.com", "Jurgen.Muller-example.com"),
        ("ＡＤＡ", "ADA"),  # noqa: RUF001 - full-width letters
        ("ada\u202elove\x00lace", "ada-love-lace"),
        ("  -ada-  ", "ada-"),
        ("x" * 500, "x" * 64),
        ("a\u0301" * 1000, "a" * 64),
        (["ada"], "u-1"),
        ("", "user-"),
        ("李明", "user-"),
        ("ab", "ab-"),
        ("\ud800abc", "abc"),
        ("../../etc/passwd", "etc-passwd"),
    ],
)
async def test_a_username_is_made_of_any_name(app: FastAPI, provider: Provider, name: Any, expected: str) -> None:
    username = (await me(app, provider.token(preferred_username=name)))["username"]
    assert username == expected or (username.startswith(expected) and len(username) == len(expected) + 8)


async def test_another_claim_may_have_the_name(settings: Settings, provider: Provider) -> None:
    async with running(settings.model_copy(update={"oidc_username_claim": "email"})) as app:
        token = provider.token(preferred_username="somebody", email="ada@example.com")
        assert (await me(app, token))["username"] == "ada-example.com"


async def test_a_user_is_logged_and_has_slots_of_the_own_account(
    app: FastAPI, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list[str]()
    acquire = Slots.acquire

    async def note(slots: Slots, caller: str, rank: float) -> None:
        taken.append(caller)
        await acquire(slots, caller, rank)

    monkeypatch.setattr(Slots, "acquire", note)
    profile = await me(app, provider.token())
    await me(app, provider.token(jti="another"))
    # The first request takes one of its address, because only the database knows the user, or makes one.
    assert taken[1:] == [profile["id"]] * 2
    assert taken[0] != profile["id"]


async def test_a_user_of_the_provider_with_the_name_of_an_admin_is_none(
    app: FastAPI, engine: AsyncEngine, settings: Settings, provider: Provider
) -> None:
    await person(app, engine, settings, "root", Role.ADMIN)
    user = await me(app, provider.token(preferred_username="Root"))
    assert (user["username"][:5], user["role"]) == ("Root-", "user")
    assert refusal(await client_of(app, provider.token()).get("/admin/attention")) == (403, "admin_only")


async def test_a_disabled_user_of_the_provider_is_refused_also_where_the_user_is_known(
    app: FastAPI, engine: AsyncEngine, settings: Settings, provider: Provider
) -> None:
    admin = await person(app, engine, settings, "root", Role.ADMIN)
    token = provider.token()
    user = await me(app, token)
    for action, status in (("disable", 401), ("enable", 200), ("disable", 401)):
        assert (await admin.http.post(f"/admin/users/{user['username']}/{action}")).is_success
        assert (await client_of(app, token).get("/auth/me")).status_code == status


async def test_a_role_in_the_database_counts_if_no_claim_decides(
    app: FastAPI, engine: AsyncEngine, settings: Settings, provider: Provider
) -> None:
    admin = await person(app, engine, settings, "root", Role.ADMIN)
    user = await me(app, provider.token())
    await admin.http.post(f"/admin/users/{user['username']}/role", json={"role": "admin"})
    assert (await client_of(app, provider.token()).get("/admin/attention")).status_code == 200
    assert (await me(app, provider.token()))["role"] == "admin"


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        (["staff", "vm-admins"], "admin"),
        ("vm-admins", "admin"),
        (["staff"], "user"),
        ("not-vm-admins", "user"),
        ({"vm-admins": True}, "user"),
        (None, "user"),
        ([["vm-admins"]], "user"),
    ],
)
async def test_the_claim_of_roles_says_who_is_an_admin(
    settings: Settings, provider: Provider, groups: Any, role: str
) -> None:
    async with running(settings.model_copy(update=ADMINS)) as app:
        token = provider.token(groups=groups)
        assert (await me(app, token))["role"] == role
        status = (await client_of(app, token).get("/admin/attention")).status_code
        assert status == (200 if role == "admin" else 403)


async def test_an_admin_at_the_provider_gives_no_program_that_right(settings: Settings, provider: Provider) -> None:
    async with running(settings.model_copy(update=ADMINS)) as app:
        admin = client_of(app, provider.token(groups=["vm-admins"]))
        made = await admin.post("/tokens", json={"name": "robot", "scopes": ["write"]})
        assert refusal(await client_of(app, made.json()["token"]).get("/admin/attention")) == (403, "admin_only")
        # Nor does the account stay an admin's: the next token decides anew.
        assert (await me(app, provider.token()))["role"] == "user"


async def test_logging_out_is_for_those_who_have_logged_in_here(app: FastAPI, provider: Provider) -> None:
    answer = await client_of(app, provider.token()).post("/auth/logout")
    assert refusal(answer) == (403, "login_required")
    assert "identity provider" in answer.json()["detail"]


async def test_nobody_logs_in_with_a_password_to_the_account_of_a_user_of_the_provider(
    app: FastAPI, provider: Provider
) -> None:
    await me(app, provider.token(preferred_username="ada"))
    for password in ("", "None", "Correct-Horse-1"):
        answer = await client_of(app).post("/auth/login", json={"username": "ada", "password": password})
        assert answer.status_code in {401, 422}
    account = {"username": "ADA", "email": "ada@example.com", "password": "Correct-Horse-1"}
    assert refusal(await client_of(app).post("/auth/register", json=account)) == (409, "username_taken")


async def test_users_of_two_providers_with_one_subject_are_two(
    app: FastAPI, provider: Provider, settings: Settings
) -> None:
    async with running_provider() as other, running(trusting(settings, other)) as elsewhere:
        users = [await me(app, provider.token()), await me(elsewhere, other.token())]
    assert users[0]["id"] != users[1]["id"]


async def test_without_a_provider_in_the_settings_no_such_token_is_accepted(
    settings: Settings, provider: Provider
) -> None:
    async with running(settings.model_copy(update={"oidc_issuer": None, "oidc_audience": None})) as app:
        assert refusal(await client_of(app, provider.token()).get("/auth/me")) == (401, "invalid_token")
    assert provider.asked.total() == 0


async def test_one_of_several_audiences_may_be_this_service(app: FastAPI, provider: Provider) -> None:
    assert await me(app, provider.token(aud=["account", AUDIENCE]))


async def test_own_tokens_work_beside_those_of_the_provider(ada: Person) -> None:
    assert (await ada.http.get("/auth/me")).json()["username"] == "ada"
