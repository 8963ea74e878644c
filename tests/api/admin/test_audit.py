"""The audit has every security event, who caused it and from where; admins read, filter and export it."""

import json
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web import security
from api.web.admission import Admission
from api.web.slots import NoSlotError
from domain.data.audit import AuditEvent
from domain.rules.states import Action, OperationStatus
from tests.api.admin.test_servers import add_found
from tests.api.conftest import PASSWORD, Person, client_of
from tests.api.projects import project_of
from tests.api.test_program_tokens import ask
from tests.support.rows import add_operation, add_vm
from tests.support.ssh_keys import ED25519
from tests.support.statements import statements_of_requests
from tests.support.waiting import poll

GRACE = {"username": "grace", "email": "grace@navy.test", "password": PASSWORD}
LOGIN = {"username": "grace", "password": PASSWORD}


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash with the lowest cost that bcrypt allows."""
    monkeypatch.setattr(security, "_BCRYPT_COST", 4)


async def events(admin: Person, query: str = "") -> list[dict[str, Any]]:
    """The events in the audit, oldest first, with all refusals so far."""
    answer = await admin.http.get(f"/admin/audit?page_size=100&{query}".rstrip("&"))
    assert answer.status_code == 200, answer.text
    return list(reversed(answer.json()["items"]))


async def test_the_life_of_an_account_is_in_the_audit(app: FastAPI, root: Person) -> None:
    anyone = client_of(app)
    anyone.headers["User-Agent"] = "tests/1.0"
    anyone.headers["X-Request-Id"] = "the-request"
    await anyone.post("/auth/register", json=GRACE)
    pair = (await anyone.post("/auth/login", json=LOGIN)).json()
    anyone.headers["Authorization"] = f"Bearer {pair['access_token']}"
    token = (await ask(anyone, "robot")).json()
    await anyone.delete(f"/tokens/{token['id']}")
    key = (await anyone.post("/ssh-keys", json={"name": "laptop", "public_key": ED25519})).json()
    await anyone.delete("/ssh-keys/laptop")
    await anyone.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})
    await anyone.post("/auth/logout")
    pair = (await anyone.post("/auth/login", json=LOGIN)).json()
    anyone.headers["Authorization"] = f"Bearer {pair['access_token']}"
    change = {"current_password": PASSWORD, "new_password": "Newer-Horse-2"}
    await anyone.post("/auth/password", json=change)
    pair = (await anyone.post("/auth/login", json=LOGIN | {"password": "Newer-Horse-2"})).json()
    anyone.headers["Authorization"] = f"Bearer {pair['access_token']}"
    await anyone.post("/auth/logout-all")
    found = await events(root)
    assert [(each["event"], each["actor"], each["target"]) for each in found] == [
        ("register", None, "grace"),
        ("login", "grace", "grace"),
        ("create_token", "grace", "robot"),
        ("delete_token", "grace", "robot"),
        ("add_ssh_key", "grace", "laptop"),
        ("delete_ssh_key", "grace", "laptop"),
        ("logout", "grace", "grace"),
        ("login", "grace", "grace"),
        ("change_password", "grace", "grace"),
        ("login", "grace", "grace"),
        ("logout_all", "grace", "grace"),
    ]
    assert [each["details"]["fingerprint"] for each in found if "ssh_key" in each["event"]] == 2 * [key["fingerprint"]]
    assert {each["outcome"] for each in found} == {"succeeded"}
    assert {each["address"] for each in found} == {"127.0.0.1"}
    assert {each["user_agent"] for each in found} == {"tests/1.0"}
    assert {each["request_id"] for each in found} == {"the-request"}
    text = json.dumps(found)
    for secret in (PASSWORD, "Newer-Horse-2", token["token"], pair["access_token"]):
        assert secret not in text


async def test_what_admins_do_is_in_the_audit(root: Person, ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        failed = await add_operation(tx, vm, Action.STOP, status=OperationStatus.FAILED)
        stuck = await add_vm(tx, ada.user)
        await add_operation(tx, stuck, Action.STOP)
    server = await add_found(engine, "legacy-1")
    for path, body in (
        (f"operations/{failed.id}/retry", None),
        (f"vms/{stuck.id}/reset-state", {"status": "ERROR"}),
        (f"servers/{server}/adopt", {"username": "ada"}),
        ("users/ada/role", {"role": "admin"}),
        ("users/ada/disable", None),
        ("users/ada/enable", None),
    ):
        assert (await root.http.post(f"/admin/{path}", json=body)).is_success
    found = await events(root)
    assert [(each["event"], each["target"], each["details"]) for each in found] == [
        ("retry_operation", str(failed.id), {}),
        ("reset_vm_state", str(stuck.id), {"status": "ERROR"}),
        ("adopt_server", str(server), {"owner": "ada"}),
        ("change_role", "ada", {"role": "admin", "was": "user"}),
        ("disable_user", "ada", {}),
        ("enable_user", "ada", {}),
    ]
    assert {(each["actor"], each["actor_id"]) for each in found} == {("root", str(root.user.id))}


async def test_a_request_that_fails_or_is_a_trial_leaves_nothing(root: Person, ada: Person) -> None:
    await root.http.post("/admin/users/nobody/disable")
    await root.http.post("/admin/users/ada/role?validate_only=true", json={"role": "admin"})
    await ada.http.post("/tokens?validate_only=true", json={"name": "robot", "scopes": ["read"]})
    assert await events(root) == []


async def test_wrong_passwords_and_refused_registrations_are_counted(app: FastAPI, root: Person) -> None:
    anyone = client_of(app)
    await anyone.post("/auth/register", json=GRACE)
    for _ in range(3):
        await anyone.post("/auth/login", json=LOGIN | {"password": "Wrong-Horse-1"})
    await anyone.post("/auth/login", json=LOGIN | {"username": "my-Secret-1"})
    await anyone.post("/auth/register", json=GRACE | {"email": "other@navy.test"})
    await app.state.vmapi.refusals.write(at_once=True)
    refused = await events(root, "outcome=refused")
    sums: dict[Any, int] = {}
    for each in refused:
        key = each["event"], each["target"], each["details"]["reason"]
        sums[key] = sums.get(key, 0) + each["count"]
    assert sums == {
        ("login", "grace", "invalid_credentials"): 3,
        ("login", None, "invalid_credentials"): 1,  # an unknown name may be a password
        ("register", None, "username_taken"): 1,
    }
    assert "Secret" not in json.dumps(refused)


async def test_a_wrong_password_is_seen_within_seconds(app: FastAPI, root: Person) -> None:
    await client_of(app).post("/auth/login", json=LOGIN)
    await poll(lambda: events(root, "event=login&outcome=refused"), bool)


async def test_a_refresh_token_that_is_used_twice_is_in_the_audit_once(app: FastAPI, root: Person) -> None:
    anyone = client_of(app)
    await anyone.post("/auth/register", json=GRACE)
    first = (await anyone.post("/auth/login", json=LOGIN)).json()["refresh_token"]
    second = (await anyone.post("/auth/refresh", json={"refresh_token": first})).json()["refresh_token"]
    await anyone.post("/auth/refresh", json={"refresh_token": second})
    for _ in range(3):
        assert (await anyone.post("/auth/refresh", json={"refresh_token": first})).status_code == 401
    assert len(await events(root, "event=reuse_refresh_token&target=GRACE")) == 1


async def test_filters_and_pages(root: Person, engine: AsyncEngine) -> None:
    rows = [
        {"event": "login", "outcome": "succeeded", "actor": name, "target": name, "address": f"192.0.2.{number}"}
        for number, name in enumerate(["ada", "Bob", "ada", "eve"])
    ]
    for row in rows:
        async with engine.begin() as tx:
            await tx.execute(insert(AuditEvent).values(row))
    assert [each["actor"] for each in await events(root)] == ["ada", "Bob", "ada", "eve"]
    assert len(await events(root, "actor=ADA")) == 2
    assert len(await events(root, "actor=bob&address=192.0.2.1")) == 1
    assert len(await events(root, "actor=bob&address=192.0.2.2")) == 0
    assert len(await events(root, "address=::ffff:192.0.2.1")) == 1
    assert len(await events(root, "event=logout")) == 0
    middle = (await events(root))[2]["at"].replace("+00:00", "Z")
    assert len(await events(root, f"since={middle}")) == 2
    assert len(await events(root, f"until={middle}")) == 2
    page = (await root.http.get("/admin/audit?page_size=3")).json()
    rest = (await root.http.get("/admin/audit", params={"page_size": 3, "cursor": page["next_cursor"]})).json()
    assert [each["actor"] for each in page["items"] + rest["items"]] == ["eve", "ada", "Bob", "ada"]
    assert (await root.http.get("/admin/audit?event=nonsense")).status_code == 422


@pytest.mark.parametrize(
    ("password", "code"), [("Wrong-Horse-1", "invalid_credentials"), (PASSWORD, "too_many_requests")]
)
async def test_a_password_that_was_checked_is_noted_even_if_there_is_no_slot_for_the_answer(
    app: FastAPI, root: Person, monkeypatch: pytest.MonkeyPatch, password: str, code: str
) -> None:
    anyone = client_of(app)
    await anyone.post("/auth/register", json=GRACE)

    async def refuse(*_: object) -> None:
        raise NoSlotError("too_many_requests")

    with monkeypatch.context() as full:
        full.setattr(Admission, "_take_again", refuse)
        answer = await anyone.post("/auth/login", json=LOGIN | {"password": password})
    assert answer.json()["code"] == code
    await app.state.vmapi.refusals.write(at_once=True)
    [refused] = await events(root, "event=login&outcome=refused")
    assert (refused["target"], refused["details"]["reason"]) == ("grace", code)


@pytest.mark.usefixtures("ada")
async def test_members_have_the_names_of_their_accounts(root: Person) -> None:
    project = await project_of(root)
    path = f"/projects/{project}/members/ADA"
    assert (await root.http.put(path, json={"role": "reader"})).is_success
    assert (await root.http.delete(path)).is_success
    changes = await events(root, "event=set_member") + await events(root, "event=remove_member")
    assert [each["target"] for each in changes] == ["ada", "ada"]


async def test_reading_and_logging_in_cost_no_look_at_the_audit(app: FastAPI, ada: Person) -> None:
    with statements_of_requests(app.state.vmapi.engine) as statements:
        await ada.http.get("/vms")
        await ada.http.post("/vms?validate_only=true", json={"name": "x"})
    assert statements
    assert not [each for each in statements if "audit_events" in each]
    assert not [each for each in statements if "users" in each and "pg_current_snapshot" not in each]
