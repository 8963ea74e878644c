"""Projects and their members."""

import asyncio
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from api.background import listeners
from domain.data.accounts import SAME, User
from domain.data.models import VM
from domain.rules.states import Status
from domain.settings import Settings
from tests.api.conftest import Person, person
from tests.api.event_client import following
from tests.api.projects import project_of, set_member
from tests.api.vm_resources import NO_ID, attached_to, snapshot_of, vm_of, volume_of
from tests.support.rows import FLAVOR_IDS


@pytest.fixture
async def eve(app: FastAPI, engine: AsyncEngine, settings: Settings) -> Person:
    """A user who is a member of nothing."""
    return await person(app, engine, settings, "eve")


async def ids_of(someone: Person, path: str) -> set[str]:
    """The ids in a list."""
    answer = await someone.http.get(path)
    assert answer.status_code == 200, answer.text
    page = answer.json()
    assert page["total"] == len(page["items"])
    return {item["id"] for item in page["items"]}


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """The status and the code of a problem."""
    return answer.status_code, answer.json()["code"]


async def test_each_user_owns_a_personal_project_with_the_same_name_and_id(ada: Person, bob: Person) -> None:
    (project,) = (await ada.http.get("/projects")).json()["items"]
    assert project["id"] == str(ada.user.id)
    assert (project["name"], project["personal"], project["role"]) == ("ada", True, "owner")
    assert (await bob.http.get(f"/projects/{ada.user.id}")).status_code == 404


async def test_what_names_no_project_belongs_to_the_personal_one(ada: Person) -> None:
    vm = await ada.create()
    volume = (await ada.http.post("/volumes", json={"name": "data", "size_gb": 1})).json()
    operation = (await ada.http.get(f"/operations/{vm['operation_id']}")).json()
    assert {vm["project_id"], volume["project_id"], operation["project_id"]} == {str(ada.user.id)}


async def test_members_share_what_belongs_to_a_project(ada: Person, bob: Person, eve: Person) -> None:
    project = str(await project_of(ada, operator=bob))
    vm = await bob.create(project_id=project)
    body = {"name": "data", "size_gb": 1, "project_id": project}
    volume = (await bob.http.post("/volumes", json=body)).json()
    assert {vm["project_id"], volume["project_id"]} == {project}
    for reader in (ada, bob):
        assert (await reader.http.get(f"/vms/{vm['id']}")).json()["name"] == vm["name"]
        assert await ids_of(reader, "/vms") == {vm["id"]}
        assert await ids_of(reader, "/volumes") == {volume["id"]}
        assert len(await ids_of(reader, "/operations")) == 2
    for path in (f"/vms/{vm['id']}", f"/volumes/{volume['id']}", f"/operations/{vm['operation_id']}"):
        assert (await eve.http.get(path)).status_code == 404
    assert await ids_of(eve, "/vms") == set()


async def test_lists_can_be_of_one_project(ada: Person, bob: Person, eve: Person, engine: AsyncEngine) -> None:
    project = await project_of(ada, reader=bob)
    own, shared = await vm_of(ada, engine), await ada.create(project_id=str(project))
    of_bob = await vm_of(bob, engine)
    assert await ids_of(ada, "/vms") == {str(own.id), shared["id"]}
    assert await ids_of(ada, f"/vms?project_id={project}") == {shared["id"]}
    assert await ids_of(ada, f"/vms?project_id={ada.user.id}") == {str(own.id)}
    assert await ids_of(bob, "/vms") == {str(of_bob.id), shared["id"]}
    for path in ("/vms", "/volumes", "/snapshots", "/operations"):
        assert refusal(await eve.http.get(f"{path}?project_id={project}")) == (404, "not_found")
        assert refusal(await eve.http.get(f"{path}?project_id={NO_ID}")) == (404, "not_found")
        assert (await bob.http.get(f"{path}?project_id={project}")).status_code == 200


@pytest.mark.parametrize("sort", ["created_at", "-created_at", "name", "-updated_at", "status"])
async def test_a_list_of_several_projects_is_sorted_and_paged_as_one(
    ada: Person, bob: Person, engine: AsyncEngine, sort: str
) -> None:
    projects = [await project_of(bob, f"p{n}", reader=ada) for n in range(2)]
    vms = [await vm_of(ada, engine, name=f"vm-{n}") for n in range(9)]
    async with engine.begin() as tx:
        for vm, project in zip(vms[:6], projects * 3, strict=True):
            await tx.execute(update(VM).where(VM.id == vm.id).values(owner_id=project))
    whole = (await ada.http.get(f"/vms?sort={sort}&page_size=100")).json()["items"]
    field = sort.removeprefix("-")
    keys = [(vm[field], vm["id"]) for vm in whole]
    assert len(whole) == 9
    assert keys == sorted(keys, reverse=sort.startswith("-"))
    by_number = [(await ada.http.get(f"/vms?sort={sort}&page_size=4&page={n}")).json() for n in (1, 2, 3)]
    assert [vm["id"] for page in by_number for vm in page["items"]] == [vm["id"] for vm in whole]
    assert {page["total"] for page in by_number} == {9}
    by_cursor, query = list[str](), f"/vms?sort={sort}&page_size=4"
    for _ in range(3):
        page = (await ada.http.get(query)).json()
        by_cursor += [vm["id"] for vm in page["items"]]
        query = f"/vms?sort={sort}&page_size=4&cursor={page['next_cursor']}"
    assert page["next_cursor"] is None
    assert by_cursor == [vm["id"] for vm in whole]


async def test_a_project_that_one_cannot_see_does_not_exist_for_creates(ada: Person, bob: Person, eve: Person) -> None:
    project = str(await project_of(ada, reader=bob))
    vm = {"name": "web-1", "flavor": "m1.small", "project_id": project}
    volume = {"name": "data", "size_gb": 1, "project_id": project}
    for path, body, pointer in (
        ("/vms", vm, "#/project_id"),
        ("/volumes", volume, "#/project_id"),
        ("/vms/batch", {"vms": [vm | {"project_id": str(eve.user.id)}, vm]}, "#/vms/1/project_id"),
    ):
        answer = await eve.http.post(path, json=body)
        assert refusal(answer) == (404, "not_found")
        assert answer.json()["errors"][0]["pointer"] == pointer
    for path, body in (("/vms", vm), ("/volumes", volume), ("/vms/batch", {"vms": [vm]})):
        assert refusal(await bob.http.post(path, json=body)) == (403, "forbidden")
    assert await ids_of(ada, "/vms") == await ids_of(eve, "/vms") == set()


async def test_a_vm_takes_only_what_belongs_to_its_project(ada: Person, engine: AsyncEngine) -> None:
    project = str(await project_of(ada))
    own_volume, own_vm = await volume_of(ada, engine), await vm_of(ada, engine)
    own_snapshot = await snapshot_of(own_vm, engine)
    shared = await ada.create(project_id=project)
    async with engine.begin() as tx:
        await tx.execute(update(VM).where(VM.id == UUID(shared["id"])).values(status=Status.ACTIVE, task_state=None))
    attach = await ada.http.post(f"/vms/{shared['id']}/volumes", json={"volume_id": str(own_volume.id)})
    assert refusal(attach) == (404, "not_found")
    new = {"name": "web-2", "flavor": "m1.small", "project_id": project}
    for more in ({"snapshot_id": str(own_snapshot.id)}, {"volumes": [{"volume_id": str(own_volume.id)}]}):
        assert refusal(await ada.http.post("/vms", json=new | more)) == (422, "unknown_reference")


async def test_a_membership_ends_at_once_for_reads_writes_and_waits(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    project = await project_of(ada, operator=bob)
    vm = await ada.create(project_id=str(project))
    waiting = asyncio.create_task(bob.http.get(f"/vms/{vm['id']}?wait=30"))
    await asyncio.sleep(0.2)
    assert (await ada.http.delete(f"/projects/{project}/members/bob")).status_code == 204
    assert refusal(await bob.http.get(f"/vms/{vm['id']}")) == (404, "not_found")
    assert refusal(await bob.http.delete(f"/vms/{vm['id']}")) == (404, "not_found")
    async with engine.begin() as tx:
        await tx.execute(update(VM).where(VM.id == UUID(vm["id"])).values(status=Status.ACTIVE, task_state=None))
    assert refusal(await waiting) == (404, "not_found")


async def test_a_stream_follows_the_projects_that_its_user_may_read(
    app: FastAPI, ada: Person, bob: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "RESET_PAUSE", 0.0)
    project = await project_of(ada, reader=bob)
    async with following(app, bob) as client:
        await client.next("comment")
        vm = await ada.create(project_id=str(project))
        assert (await client.next("vm")).data["id"] == vm["id"]
        assert (await client.next("operation")).data["vm_id"] == vm["id"]
        await ada.http.delete(f"/projects/{project}/members/bob")
        assert (await client.next("reset")).data == {}
        await ada.create("web-2", project_id=str(project))
        own = await vm_of(bob, engine)
        assert (await client.next("vm")).data["id"] == str(own.id)
        await set_member(ada, project, bob, "reader")
        await client.next("reset")
        third = await ada.create("web-3", project_id=str(project))
        assert (await client.next("vm")).data["id"] == third["id"]


async def test_a_project_keeps_an_owner(ada: Person, bob: Person) -> None:
    project = await project_of(ada, reader=bob)
    path = f"/projects/{project}/members/ada"
    for change in (ada.http.put(path, json={"role": "operator"}), ada.http.delete(path)):
        assert refusal(await change) == (409, "last_owner")
    await set_member(ada, project, bob, "owner")
    await set_member(bob, project, bob, "owner")
    assert (await ada.http.put(path, json={"role": "reader"})).status_code == 200
    assert refusal(await bob.http.delete(f"/projects/{project}/members/bob")) == (409, "last_owner")


async def test_nobody_is_left_alone_with_a_project_without_being_asked(ada: Person, bob: Person) -> None:
    project = await project_of(ada, owner=bob)
    path = f"/projects/{project}/members"
    for change in (ada.http.put(f"{path}/ada", json={"role": "reader"}), ada.http.delete(f"{path}/ada")):
        assert refusal(await change) == (409, "last_owner")
    assert (await bob.http.delete(f"{path}/bob")).status_code == 204
    await set_member(ada, project, bob, "owner")
    await set_member(bob, project, bob, "owner")
    await set_member(bob, project, ada, "reader")
    await set_member(bob, project, ada, "owner")  # given anew, so accepted no more
    assert refusal(await bob.http.delete(f"{path}/bob")) == (409, "last_owner")
    assert (await ada.http.delete(f"{path}/ada")).status_code == 204


async def test_what_an_owner_has_accepted_stays_so_when_another_repeats_it(ada: Person, bob: Person) -> None:
    project = await project_of(ada, owner=bob)
    await set_member(bob, project, bob, "owner")
    answer = await ada.http.put(f"/projects/{project}/members/bob", json={"role": "owner"})
    assert answer.json()["accepted"] is True


async def test_of_two_owners_who_leave_at_once_one_stays(ada: Person, bob: Person) -> None:
    for _ in range(5):
        project = await project_of(ada, owner=bob)
        await set_member(bob, project, bob, "owner")
        leaves = [each.http.delete(f"/projects/{project}/members/{each.user.username}") for each in (ada, bob)]
        statuses = sorted(answer.status_code for answer in await asyncio.gather(*leaves))
        assert statuses == [204, 409]


async def test_nobody_takes_a_user_out_of_the_personal_project(ada: Person, bob: Person) -> None:
    await set_member(ada, ada.user.id, bob, "owner")
    for change in (
        bob.http.delete(f"/projects/{ada.user.id}/members/ada"),
        bob.http.put(f"/projects/{ada.user.id}/members/ada", json={"role": "reader"}),
        ada.http.delete(f"/projects/{ada.user.id}/members/ada"),
    ):
        assert refusal(await change) == (409, "last_owner")
    assert refusal(await ada.http.delete(f"/projects/{ada.user.id}")) == (409, "project_in_use")


async def test_every_member_can_leave(ada: Person, bob: Person) -> None:
    project = await project_of(ada, reader=bob)
    assert (await bob.http.delete(f"/projects/{project}/members/bob")).status_code == 204
    assert (await bob.http.get(f"/projects/{project}")).status_code == 404
    assert [each["username"] for each in (await ada.http.get(f"/projects/{project}/members")).json()["items"]] == [
        "ada"
    ]


@pytest.mark.parametrize("username", ["nobody", "x" * 65, "b%00b", "é"])
async def test_only_users_become_members(ada: Person, username: str) -> None:
    project = await project_of(ada)
    answer = await ada.http.put(f"/projects/{project}/members/{username}", json={"role": "reader"})
    assert answer.status_code in {404, 422}


@pytest.mark.parametrize(
    "body", [{}, {"role": "admin"}, {"role": "Reader"}, {"role": None}, {"role": "reader", "x": 1}]
)
async def test_a_membership_has_one_of_the_roles(ada: Person, bob: Person, body: dict[str, Any]) -> None:
    project = await project_of(ada)
    answer = await ada.http.put(f"/projects/{project}/members/bob", json=body)
    assert refusal(answer) == (422, "validation_failed")
    assert (await bob.http.get(f"/projects/{project}")).status_code == 404


async def test_a_member_changes_the_volume_of_a_vm_of_the_project(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    vm = await vm_of(ada, engine, flavor_id=FLAVOR_IDS["m1.small"])
    volume, _ = await attached_to(vm, ada, engine)
    await set_member(ada, ada.user.id, bob, "operator")
    answer = await bob.http.delete(f"/vms/{vm.id}/volumes/{volume.id}")
    assert answer.status_code == 204, answer.text
    operation = (await ada.http.get(answer.headers["Operation-Location"].removeprefix("/api/v1"))).json()
    assert (operation["actor"], operation["project_id"]) == ("bob", str(ada.user.id))


async def test_a_member_whose_name_differs_in_case_only_is_somebody_else(
    ada: Person, bob: Person, eve: Person, engine: AsyncEngine
) -> None:
    """Two accounts that are older than the rule for names. The reader must not remove the other member."""
    project = await project_of(ada, reader=bob, operator=eve)
    async with engine.begin() as tx:
        await tx.execute(text("DROP INDEX uq_users_username"))  # in a database with Turkish rules it lets both in
        same = {"username": "EVE", "username_key": f"{SAME}EVE"}
        await tx.execute(update(User).where(User.id == bob.user.id).values(same))
    assert refusal(await bob.http.delete(f"/projects/{project}/members/eve")) == (403, "forbidden")
    assert (await bob.http.delete(f"/projects/{project}/members/EVE")).status_code == 204
    assert (await eve.http.get(f"/projects/{project}")).status_code == 200
