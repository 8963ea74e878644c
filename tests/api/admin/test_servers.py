"""GET /admin/servers and POST /admin/servers/{id}/adopt: what is in the cloud, and how it becomes a VM."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.commands.acceptance import Requester
from domain.commands.projects import delete_project
from domain.data.cloud import FoundServer
from domain.data.models import VM, Flavor, Image, Interface, Operation, Volume
from domain.rules.resources import VolumeStatus
from domain.rules.states import Status
from tests.api.conftest import Person, count, pointers
from tests.api.projects import project_of
from tests.support.rows import FLAVOR_IDS, IMAGE_IDS, NETWORK_IDS, add_interface, add_vm, add_volume

VOLUME = {"name": "data", "size_gb": 7, "device": "/dev/sdb", "delete_on_termination": True}
PORT = {"network_id": str(NETWORK_IDS["private"]), "ip_address": "10.0.0.77", "mac_address": "fa:16:3e:00:00:77"}


async def add_found(engine: AsyncEngine, name: str = "old", **values: Any) -> UUID:
    """Add a server that belongs to no VM, with a volume and a port; return the cloud's id."""
    id, volume_id, port_id = uuid4(), uuid4(), uuid4()
    row = {
        "cloud_id": str(id),
        "vm_id": id,
        "name": name,
        "status": "ACTIVE",
        "flavor": "m1.small",
        "vcpus": 1,
        "ram_mb": 2048,
        "disk_gb": 20,
        "image_id": IMAGE_IDS["ubuntu-24.04"],
        "volumes": [VOLUME | {"id": str(volume_id), "cloud_id": str(volume_id)}],
        "interfaces": [PORT | {"id": str(port_id), "cloud_id": str(port_id)}],
        "created_at": func.now(),
    }
    async with engine.begin() as tx:
        await tx.execute(FoundServer.__table__.insert().values(row | values))  # type: ignore[attr-defined]
    return id


async def adopt(root: Person, id: UUID, username: str = "ada", **headers: str) -> Any:
    """Ask for an adoption; return the answer."""
    return await root.http.post(f"/admin/servers/{id}/adopt", json={"username": username}, headers=headers)


async def test_an_adopted_server_is_a_vm_with_its_volumes_and_interfaces(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    id = await add_found(engine)
    answer = await adopt(root, id)
    assert answer.status_code == 202, answer.text
    vm = (await ada.http.get(f"/vms/{id}")).json()
    assert (vm["name"], vm["status"], vm["task_state"]) == ("old", "ACTIVE", None)
    assert (vm["flavor_id"], vm["image_id"]) == (str(FLAVOR_IDS["m1.small"]), str(IMAGE_IDS["ubuntu-24.04"]))
    assert "stop" in vm["allowed_actions"]
    (attached,) = (await ada.http.get(f"/vms/{id}/volumes")).json()["items"]
    assert (attached["device"], attached["status"], attached["delete_on_termination"]) == ("/dev/sdb", "ATTACHED", True)
    volume = (await ada.http.get(f"/volumes/{attached['volume_id']}")).json()
    assert (volume["name"], volume["size_gb"], volume["status"]) == ("data", 7, "IN_USE")
    (interface,) = (await ada.http.get(f"/vms/{id}/interfaces")).json()["items"]
    assert {name: interface[name] for name in PORT} == PORT
    operation = (await ada.http.get(answer.headers["Operation-Location"].removeprefix("/api/v1"))).json()
    assert (operation["action"], operation["status"], operation["actor"]) == ("adopt", "SUCCEEDED", "root")
    assert operation["temporal_url"] is None
    assert (await adopt(root, id)).status_code == 404
    assert (await ada.http.post(f"/vms/{id}/actions/stop", json={})).status_code == 202


async def test_the_lists_tell_servers_of_vms_from_others(ada: Person, root: Person, engine: AsyncEngine) -> None:
    other = await add_found(engine, "b", obstacle="It boots from a volume.", image_id=None)
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, cloud_id=str(uuid4()))
        await add_vm(tx, ada.user, status=Status.DELETED, cloud_id=str(uuid4()))
        await add_vm(tx, ada.user)

    async def listed(**query: str) -> list[tuple[str, bool, str, str | None, str | None]]:
        answer = await root.http.get("/admin/servers", params=query)
        assert answer.status_code == 200, answer.text
        fields = ("id", "managed", "vm_id", "owner", "obstacle")
        return [tuple(item[field] for field in fields) for item in answer.json()["items"]]

    unmanaged = (str(other), False, str(other), None, "It boots from a volume.")
    managed = (vm.cloud_id, True, str(vm.id), ada.user.username, None)
    assert await listed(managed="false") == [unmanaged]
    assert await listed(managed="true") == [managed]
    assert await listed() == sorted([unmanaged, managed], key=lambda row: row[1])
    assert await listed(page_size="1", page="2") == [managed]


async def test_only_admins_see_and_adopt_servers(ada: Person, engine: AsyncEngine) -> None:
    id = await add_found(engine)
    assert (await ada.http.get("/admin/servers")).json()["code"] == "admin_only"
    assert (await adopt(ada, id)).json()["code"] == "admin_only"
    assert await count(engine, VM) == 0


@pytest.mark.parametrize(
    ("values", "username", "status", "code"),
    [
        ({"obstacle": "It boots from a volume."}, "ada", 409, "not_adoptable"),
        ({}, "nobody", 422, "unknown_reference"),
    ],
)
async def test_a_refused_adoption_changes_nothing(  # noqa: PLR0913, PLR0917
    ada: Person, root: Person, engine: AsyncEngine, values: dict[str, Any], username: str, status: int, code: str
) -> None:
    del ada
    answer = await adopt(root, await add_found(engine, **values), username)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert pointers({"errors": []} | answer.json()) == ({"#/username"} if status == 422 else set())
    assert await count(engine, VM) == await count(engine, Operation) == 0
    assert await count(engine, FoundServer) == 1


async def test_a_project_gets_a_server_but_none_after_its_end(ada: Person, root: Person, engine: AsyncEngine) -> None:
    projects = [await project_of(ada, name) for name in ("kept", "gone")]
    assert (await ada.http.delete(f"/projects/{projects[1]}")).status_code == 204
    for project, status in zip(projects, (202, 422), strict=True):
        path = f"/admin/servers/{await add_found(engine)}/adopt"
        answer = await root.http.post(path, json={"project_id": str(project)})
        assert answer.status_code == status, answer.text
    assert await count(engine, VM) == 1


async def test_a_project_that_is_just_being_deleted_gets_no_server(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    id = await add_found(engine)
    project = (await ada.http.post("/projects", json={"name": "short"})).json()["id"]
    requester = Requester(ada.user.id, ada.user.username, "request")
    async with engine.begin() as tx:
        await delete_project(tx, requester, UUID(project))
        adoption = asyncio.create_task(root.http.post(f"/admin/servers/{id}/adopt", json={"project_id": project}))
        await asyncio.wait([adoption], timeout=0.5)
    answer = await adoption
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_reference")
    assert await count(engine, VM) == 0


async def test_what_is_recorded_for_somebody_already_is_not_adopted_with_a_server(
    ada: Person, bob: Person, root: Person, engine: AsyncEngine
) -> None:
    id = await add_found(engine)
    async with engine.begin() as tx:
        volume = await add_volume(tx, bob.user)
        volumes = [VOLUME | {"id": str(volume.id), "cloud_id": "of bob"}]
        await tx.execute(update(Volume).values(cloud_id="of bob"))
        await tx.execute(update(FoundServer).values(volumes=volumes))
    assert "belongs to another project" in (await adopt(root, id)).json()["detail"]
    async with engine.begin() as tx:
        await tx.execute(update(FoundServer).values(volumes=[]))
        vm = await add_vm(tx, ada.user)
        await add_interface(tx, vm, ip_address="10.0.0.77")
    answer = await adopt(root, id)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_adoptable")
    assert str(vm.id) in answer.json()["detail"]


@pytest.mark.parametrize(
    "values", [{"status": VolumeStatus.IN_USE}, {"status": VolumeStatus.EXTENDING}, {"cloud_id": None}]
)
async def test_a_volume_that_is_in_use_here_is_not_adopted_with_a_server(
    ada: Person, root: Person, engine: AsyncEngine, values: dict[str, Any]
) -> None:
    """Without an id of the cloud it is still being made, or was never made."""
    async with engine.begin() as tx:
        volume = await add_volume(tx, ada.user)
        await tx.execute(update(Volume).values({"cloud_id": "of ada"} | values))
    id = await add_found(engine, volumes=[VOLUME | {"id": str(volume.id), "cloud_id": "of ada"}])
    answer = await adopt(root, id)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_adoptable")
    assert str(volume.id) in answer.json()["detail"]


async def test_a_server_that_became_that_of_a_vm_is_not_adopted(ada: Person, root: Person, engine: AsyncEngine) -> None:
    """Its VM got the id of the cloud after a worker had noted the server."""
    id = await add_found(engine)
    async with engine.begin() as tx:
        await add_vm(tx, ada.user, cloud_id=str(id))
    answer = await adopt(root, id)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_adoptable")
    assert answer.json()["detail"].endswith("It is the server of a VM.")


async def test_a_port_whose_mac_address_is_recorded_is_not_adopted(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    id = await add_found(engine)
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        await add_interface(tx, vm, ip_address="10.0.0.9")
        await tx.execute(update(Interface).values(mac_address=PORT["mac_address"]))
    answer = await adopt(root, id)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_adoptable")
    assert str(vm.id) in answer.json()["detail"]


async def test_a_mac_address_of_another_network_is_adopted(ada: Person, root: Person, engine: AsyncEngine) -> None:
    """In the cloud, a hardware address is unique only in its network."""
    other = PORT | {"network_id": str(NETWORK_IDS["edge"]), "ip_address": "10.2.0.5"}
    interfaces = [port | {"id": str(id := uuid4()), "cloud_id": str(id)} for port in (PORT, other)]
    id = await add_found(engine, interfaces=interfaces)
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        await add_interface(tx, vm, None, network="backend", mac_address=PORT["mac_address"])
    assert (await adopt(root, id)).status_code == 202
    shown = (await ada.http.get(f"/vms/{id}")).json()["addresses"]
    assert {(each["network"], each["mac_address"]) for each in shown} == {
        ("private", PORT["mac_address"]),
        ("edge", PORT["mac_address"]),
    }


async def test_of_flavors_with_the_servers_size_one_that_can_be_asked_for_is_preferred(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    flavors = [
        {"id": uuid4(), "name": name, "vcpus": 3, "ram_mb": 2048, "disk_gb": 20, "is_available": name == "b"}
        for name in ("a", "b", "c")
    ]
    async with engine.begin() as tx:
        await tx.execute(insert(Flavor).values(flavors))
    id = await add_found(engine, flavor="renamed", vcpus=3)
    assert (await adopt(root, id)).status_code == 202
    assert (await ada.http.get(f"/vms/{id}")).json()["flavor_id"] == str(flavors[1]["id"])


async def test_a_volume_that_the_owner_has_already_is_attached(ada: Person, root: Person, engine: AsyncEngine) -> None:
    """Somebody attached it to the server with another tool."""
    async with engine.begin() as tx:
        volume = await add_volume(tx, ada.user)
        await tx.execute(update(Volume).values(cloud_id="of ada"))
    id = await add_found(engine, volumes=[VOLUME | {"id": str(volume.id), "cloud_id": "of ada"}])
    assert (await adopt(root, id)).status_code == 202
    assert (await ada.http.get(f"/volumes/{volume.id}")).json()["status"] == "IN_USE"
    assert await count(engine, Volume) == 1


async def test_a_flavor_and_an_image_that_are_gone_stay_readable(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    gone = uuid4()
    id = await add_found(engine, flavor="gone", vcpus=3, image_id=gone)
    other = await add_found(engine, flavor="gone", vcpus=3, image_id=gone, interfaces=[])
    for server in (id, other):
        assert (await adopt(root, server)).status_code == 202
    vm = (await ada.http.get(f"/vms/{id}")).json()
    flavor = (await ada.http.get(f"/flavors/{vm['flavor_id']}")).json()
    assert (flavor["name"], flavor["vcpus"], flavor["is_available"]) == ("gone", 3, False)
    assert (await ada.http.get(f"/images/{gone}")).json()["is_available"] is False
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).where(Flavor.name == "gone")) == 1
        assert await connection.scalar(select(func.count()).where(Image.id == gone)) == 1


async def test_a_repeated_adoption_gets_the_first_answer(ada: Person, root: Person, engine: AsyncEngine) -> None:
    del ada
    id = await add_found(engine)
    answers = [await adopt(root, id, **{"Idempotency-Key": "once"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].text == answers[1].text
    assert await count(engine, Operation) == 1


async def test_a_volume_with_a_copied_mark_gets_an_id_of_its_own(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    """Cinder restores a backup with the metadata of the volume that was backed up."""
    async with engine.begin() as tx:
        original = await add_volume(tx, ada.user)
        await tx.execute(update(Volume).values(cloud_id="the original"))
    copies = [VOLUME | {"id": str(original.id), "cloud_id": f"copy {n}", "device": f"/dev/vd{n}"} for n in "bc"]
    id = await add_found(engine, volumes=copies)
    assert (await adopt(root, id)).status_code == 202
    attached = (await ada.http.get(f"/vms/{id}/volumes")).json()["items"]
    assert len({each["volume_id"] for each in attached} - {str(original.id)}) == 2
    assert (await ada.http.get(f"/volumes/{original.id}")).json()["status"] == "AVAILABLE"
