"""Volumes: create, show and delete. Their list filters are in test_resources_in_common.py."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import Operation, Volume
from domain.rules.resources import VolumeStatus
from domain.rules.states import Action, OperationStatus
from tests.api.conftest import Person, count
from tests.api.vm_resources import (
    attached_to,
    check_create_answer,
    check_delete_answer,
    rows_of,
    unknown_id,
    vm_of,
    volume_of,
)

BODY = {"name": "data-1", "size_gb": 10}
FIELDS = {
    *("id", "project_id", "name", "size_gb", "status", "labels", "vm_id", "device", "image_id", "bootable"),
    *("operation_id", "created_at", "updated_at"),
}
OPERATION = {"resource_type": "volume", "action": "create-volume", "status": "QUEUED", "vm_id": None, "step": None}


async def test_the_answer_to_a_create_shows_the_volume_and_links_to_its_operation(
    ada: Person, engine: AsyncEngine
) -> None:
    answer = await ada.http.post("/volumes", json=BODY, headers={"X-Request-Id": "the-request"})
    volume = answer.json()
    operation = await check_create_answer(ada, engine, answer, f"/volumes/{volume['id']}")
    assert set(volume) == FIELDS
    assert volume | BODY | {"status": "CREATING", "vm_id": None, "device": None} == volume
    assert (operation.action, operation.status) == (Action.CREATE_VOLUME, OperationStatus.QUEUED)
    assert (operation.owner_id, operation.actor, operation.request_id) == (ada.user.id, "ada", "the-request")
    assert (operation.input, operation.previous_status) == (BODY, None)
    assert operation.workflow_id == f"create-volume-{volume['id']}-{operation.id}"


async def test_an_operation_on_a_volume_names_no_vm(ada: Person, bob: Person) -> None:
    volume = (await ada.http.post("/volumes", json=BODY)).json()
    shown = (await ada.http.get(f"/operations/{volume['operation_id']}")).json()
    assert shown | OPERATION | {"resource_id": volume["id"]} == shown
    listed = (await ada.http.get("/operations", params={"action": "create-volume"})).json()
    assert listed["items"] == [shown]
    assert (await bob.http.get("/operations")).json()["total"] == 0
    assert (await bob.http.get(f"/operations/{volume['operation_id']}")).status_code == 404


async def test_the_smallest_and_the_largest_volume_are_accepted(ada: Person) -> None:
    for size in (1, 16_384):
        answer = await ada.http.post("/volumes", json={"name": "ñ" * 255, "size_gb": size})
        assert (answer.status_code, answer.json()["size_gb"], answer.json()["name"]) == (202, size, "ñ" * 255)


async def test_a_volume_shows_the_vm_to_which_it_is_attached(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    volume, _ = await attached_to(vm, ada, engine, device="/dev/vdf")
    await volume_of(ada, engine, name="loose")
    shown = (await ada.http.get(f"/volumes/{volume.id}")).json()
    assert (shown["vm_id"], shown["device"], shown["status"]) == (str(vm.id), "/dev/vdf", "IN_USE")
    listed = (await ada.http.get("/volumes")).json()["items"]
    assert [(item["name"], item["vm_id"], item["device"]) for item in listed] == [
        ("loose", None, None),
        ("data", str(vm.id), "/dev/vdf"),
    ]


@pytest.mark.parametrize("status", [VolumeStatus.AVAILABLE, VolumeStatus.ERROR])
async def test_a_volume_that_is_not_attached_can_be_deleted(
    ada: Person, engine: AsyncEngine, status: VolumeStatus
) -> None:
    volume = await volume_of(ada, engine, status=status)
    operation = await check_delete_answer(ada, engine, await ada.http.delete(f"/volumes/{volume.id}"))
    shown = (await ada.http.get(f"/volumes/{volume.id}")).json()
    assert (shown["status"], shown["operation_id"]) == ("DELETING", str(operation.id))
    assert (operation.action, operation.resource_type) == (Action.DELETE_VOLUME, "volume")
    assert (operation.resource_id, operation.vm_id) == (volume.id, None)
    assert operation.input == {"name": "data", "was": status}


IN_USE_OR_BUSY = [VolumeStatus.CREATING, VolumeStatus.ATTACHING, VolumeStatus.IN_USE, VolumeStatus.DETACHING]


@pytest.mark.parametrize("status", IN_USE_OR_BUSY)
async def test_a_volume_that_is_in_use_or_busy_cannot_be_deleted(
    ada: Person, engine: AsyncEngine, status: VolumeStatus
) -> None:
    volume = await volume_of(ada, engine, status=status)
    answer = await ada.http.delete(f"/volumes/{volume.id}")
    problem = answer.json()
    allowed = ["detach-volume", "extend-volume"] if status is VolumeStatus.IN_USE else []
    assert (answer.status_code, problem["code"]) == (409, "invalid_transition")
    assert (problem["current_status"], problem["task_state"], problem["allowed_actions"]) == (status, None, allowed)
    assert "Cannot delete a volume" in problem["detail"]
    assert await rows_of(engine, Volume) == [volume]
    assert await count(engine, Operation) == 0


async def test_a_second_delete_of_a_volume_returns_the_same_operation(ada: Person, engine: AsyncEngine) -> None:
    volume = await volume_of(ada, engine)
    answers = [await ada.http.delete(f"/volumes/{volume.id}") for _ in range(2)]
    async with engine.begin() as tx:
        await tx.exec_driver_sql("UPDATE volumes SET status = 'DELETED'")
    answers.append(await ada.http.delete(f"/volumes/{volume.id}"))
    assert {answer.status_code for answer in answers} == {204}
    assert len({answer.headers["Operation-Location"] for answer in answers}) == 1
    assert await count(engine, Operation) == 1
    assert (await ada.http.get(f"/volumes/{volume.id}")).json()["status"] == "DELETED"


async def test_a_delete_of_a_volume_that_is_deleted_with_its_vm_returns_the_operation_of_the_vm(
    ada: Person, engine: AsyncEngine
) -> None:
    vm = await vm_of(ada, engine)
    volume, _ = await attached_to(vm, ada, engine, delete_on_termination=True)
    vm_delete = await ada.http.delete(f"/vms/{vm.id}")
    assert (await ada.http.get(f"/volumes/{volume.id}")).json()["status"] == "DELETING"
    delete = await ada.http.delete(f"/volumes/{volume.id}")
    assert (delete.status_code, delete.headers["Operation-Location"]) == (204, vm_delete.headers["Operation-Location"])


async def test_an_unknown_volume_is_not_found(ada: Person) -> None:
    path = f"/volumes/{unknown_id()}"
    for answer in (await ada.http.get(path), await ada.http.delete(path)):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
