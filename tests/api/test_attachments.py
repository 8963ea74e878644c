"""Volumes are attached to VMs and detached from them: which device, who wins, what is refused."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import Attachment, Operation, Volume
from domain.rules.resources import AttachmentStatus, VolumeStatus
from domain.rules.states import Action, Status, TaskState
from tests.api.conftest import Person, count, operations_of
from tests.api.vm_resources import (
    attached_to,
    check_create_answer,
    check_delete_answer,
    check_refused_and_unchanged,
    rows_of,
    unknown_id,
    vm_of,
    volume_of,
)
from tests.support.rows import read_vm

FIELDS = {*("volume_id", "vm_id", "device", "status", "delete_on_termination", "operation_id", "created_at")}
DEVICES = [f"/dev/vd{letter}" for letter in "bcdefghijklmnopqrstuvwxyz"]
AT_REST = ["stop", "reboot", "attach-volume", "detach-volume", "attach-interface", "detach-interface", "delete"]


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.SHUTOFF])
@pytest.mark.parametrize("more", [{}, {"delete_on_termination": True}, {"delete_on_termination": False}], ids=str)
async def test_a_volume_is_attached_and_the_vm_stays_as_it_is(
    ada: Person, engine: AsyncEngine, status: Status, more: dict[str, bool]
) -> None:
    vm, volume = await vm_of(ada, engine, status=status), await volume_of(ada, engine)
    body = {"volume_id": str(volume.id)} | more
    answer = await ada.http.post(f"/vms/{vm.id}/volumes", json=body)
    operation = await check_create_answer(ada, engine, answer, f"/vms/{vm.id}/volumes/{volume.id}")
    made = answer.json()
    assert set(made) == FIELDS
    shown = {"volume_id": str(volume.id), "vm_id": str(vm.id), "device": "/dev/vdb", "status": "ATTACHING"}
    assert made == made | shown | {"delete_on_termination": False} | more
    held = (await ada.http.get(f"/vms/{vm.id}")).json()
    assert (held["status"], held["task_state"], held["operation_id"]) == (status, None, str(vm.operation_id))
    attached = (await ada.http.get(f"/volumes/{volume.id}")).json()
    assert (attached["status"], attached["operation_id"]) == ("ATTACHING", made["operation_id"])
    assert (operation.action, operation.vm_id, operation.previous_status) == (Action.ATTACH_VOLUME, vm.id, None)
    assert (operation.resource_type, operation.resource_id) == ("volume", volume.id)
    assert operation.input | {"name": "data", "device": "/dev/vdb"} == operation.input


async def test_what_a_vm_allows_while_something_attaches(ada: Person, engine: AsyncEngine) -> None:
    vm, volume, other = await vm_of(ada, engine), await volume_of(ada, engine), await volume_of(ada, engine)
    before = (await ada.http.get(f"/vms/{vm.id}")).json()["allowed_actions"]
    await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": str(volume.id)})
    assert set(before) - set(AT_REST) == {"resize", "snapshot", "restore"}
    assert (await ada.http.get(f"/vms/{vm.id}")).json()["allowed_actions"] == AT_REST
    resize = await ada.http.post(f"/vms/{vm.id}/actions/resize", json={"flavor_id": unknown_id()})
    problem = resize.json()
    assert (resize.status_code, problem["code"], problem["current_status"]) == (409, "attachment_in_progress", "ACTIVE")
    assert (problem["allowed_actions"], problem["task_state"]) == (AT_REST, None)
    second = await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": str(other.id)})
    assert (second.status_code, second.json()["device"]) == (202, "/dev/vdc")
    assert (await ada.http.post(f"/vms/{vm.id}/actions/stop")).status_code == 202


async def test_the_first_free_device_is_taken_and_the_26th_volume_has_none(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    volumes = [await volume_of(ada, engine) for _ in range(26)]
    path = f"/vms/{vm.id}/volumes"
    made = [await ada.http.post(path, json={"volume_id": str(volume.id)}) for volume in volumes]
    assert [answer.json().get("device") for answer in made] == [*DEVICES, None]
    problem = made[-1].json()
    assert (made[-1].status_code, problem["code"]) == (409, "no_free_device")
    assert "at most 25 volumes" in problem["detail"]
    assert (await ada.http.get(f"/volumes/{volumes[-1].id}")).json()["status"] == "AVAILABLE"
    assert (await read_vm(engine, vm.id)).attaching == 25
    async with engine.begin() as tx:
        await tx.exec_driver_sql("DELETE FROM attachments WHERE device = '/dev/vdk'")
    freed = await ada.http.post(path, json={"volume_id": str(volumes[-1].id)})
    assert freed.json()["device"] == "/dev/vdk"


async def test_what_the_vm_does_not_allow_is_said_before_what_it_has_no_more_of(
    ada: Person, engine: AsyncEngine
) -> None:
    vm = await vm_of(ada, engine, task_state=TaskState.POWERING_OFF)
    for device in DEVICES:
        await attached_to(vm, ada, engine, device=device)
    volume = await volume_of(ada, engine)
    answer = await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": str(volume.id)})
    await check_refused_and_unchanged(engine, vm, answer, "invalid_transition", task_state="powering_off")


@pytest.mark.parametrize(
    "state",
    [{"status": Status.ERROR}, {"status": Status.VERIFY_RESIZE}, {"task_state": TaskState.POWERING_OFF}],
    ids=["error", "undecided", "busy"],
)
async def test_a_vm_that_is_not_at_rest_is_left_alone(ada: Person, engine: AsyncEngine, state: dict[str, Any]) -> None:
    vm, volume = await vm_of(ada, engine, **state), await volume_of(ada, engine)
    held, attachment = await attached_to(vm, ada, engine)
    allowed = (await ada.http.get(f"/vms/{vm.id}")).json()["allowed_actions"]
    conflict = {"current_status": vm.status, "task_state": vm.task_state, "allowed_actions": allowed}
    attach = await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": str(volume.id)})
    await check_refused_and_unchanged(engine, vm, attach, "invalid_transition", **conflict)
    detach = await ada.http.delete(f"/vms/{vm.id}/volumes/{held.id}")
    await check_refused_and_unchanged(engine, vm, detach, "invalid_transition", **conflict)
    assert await rows_of(engine, Volume) == [volume, held]
    assert await rows_of(engine, Attachment) == [attachment]


@pytest.mark.parametrize("status", sorted(set(VolumeStatus) - {VolumeStatus.AVAILABLE}))
async def test_only_a_volume_that_is_available_is_attached(
    ada: Person, engine: AsyncEngine, status: VolumeStatus
) -> None:
    vm, volume = await vm_of(ada, engine), await volume_of(ada, engine, status=status)
    answer = await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": str(volume.id)})
    allowed = {VolumeStatus.IN_USE: ["detach-volume"], VolumeStatus.ERROR: ["delete-volume"]}.get(status, [])
    conflict = {"current_status": status, "task_state": None, "allowed_actions": allowed}
    await check_refused_and_unchanged(engine, vm, answer, "invalid_transition", **conflict)
    assert (await rows_of(engine, Volume), await count(engine, Attachment)) == ([volume], 0)


async def test_a_volume_is_detached_once_however_often_it_is_asked(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    volume, _ = await attached_to(vm, ada, engine, device="/dev/vdc")
    path = f"/vms/{vm.id}/volumes/{volume.id}"
    first = await ada.http.delete(path)
    operation = await check_delete_answer(ada, engine, first)
    again = await ada.http.delete(path)
    assert (again.status_code, again.headers["Operation-Location"]) == (204, first.headers["Operation-Location"])
    assert [one.id for one in await operations_of(engine, vm.id)] == [operation.id]
    assert (operation.action, operation.vm_id) == (Action.DETACH_VOLUME, vm.id)
    assert (operation.resource_type, operation.resource_id) == ("volume", volume.id)
    assert operation.input == {"name": "data", "device": "/dev/vdc"}
    assert (await ada.http.get(path)).json()["status"] == "DETACHING"
    assert (await ada.http.get(f"/volumes/{volume.id}")).json()["status"] == "DETACHING"
    assert (await read_vm(engine, vm.id)).attaching == 1


async def test_a_volume_on_its_way_to_the_vm_is_not_detached(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    volume, attachment = await attached_to(vm, ada, engine, AttachmentStatus.ATTACHING)
    answer = await ada.http.delete(f"/vms/{vm.id}/volumes/{volume.id}")
    conflict: dict[str, Any] = {"current_status": "ATTACHING", "task_state": None, "allowed_actions": []}
    await check_refused_and_unchanged(engine, vm, answer, "invalid_transition", **conflict)
    assert await rows_of(engine, Attachment) == [attachment]


async def test_detaching_from_a_vm_that_goes_names_the_delete(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    volume, _ = await attached_to(vm, ada, engine)
    gone = await ada.http.delete(f"/vms/{vm.id}")
    detach = await ada.http.delete(f"/vms/{vm.id}/volumes/{volume.id}")
    assert (detach.status_code, detach.headers["Operation-Location"]) == (204, gone.headers["Operation-Location"])


async def test_what_a_vm_does_not_have_is_not_found(ada: Person, engine: AsyncEngine) -> None:
    vm, other, loose = await vm_of(ada, engine), await vm_of(ada, engine), await volume_of(ada, engine)
    held, _ = await attached_to(vm, ada, engine)
    for where, id in ((other.id, held.id), (vm.id, loose.id), (vm.id, unknown_id()), (unknown_id(), held.id)):
        path = f"/vms/{where}/volumes/{id}"
        answers = [await ada.http.get(path), await ada.http.delete(path)]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "not_found")] * 2
    unknown = await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": unknown_id()})
    nowhere = await ada.http.post(f"/vms/{unknown_id()}/volumes", json={"volume_id": str(loose.id)})
    assert (unknown.status_code, nowhere.status_code) == (404, 404)
    assert await count(engine, Operation) == 0


async def test_the_volumes_of_a_vm_come_by_device(ada: Person, engine: AsyncEngine) -> None:
    vm, other = await vm_of(ada, engine), await vm_of(ada, engine)
    for device in ("/dev/vdd", "/dev/vdb", "/dev/vdc"):
        await attached_to(vm, ada, engine, device=device)
    await attached_to(other, ada, engine)
    first = (await ada.http.get(f"/vms/{vm.id}/volumes", params={"page_size": 2})).json()
    rest = await ada.http.get(f"/vms/{vm.id}/volumes", params={"page_size": 2, "cursor": first["next_cursor"]})
    assert (first["total"], first["pages"], rest.json()["next_cursor"]) == (3, 2, None)
    devices = [one["device"] for one in first["items"] + rest.json()["items"]]
    assert devices == ["/dev/vdb", "/dev/vdc", "/dev/vdd"]


async def test_of_ten_vms_at_once_one_gets_the_volume(ada: Person, engine: AsyncEngine) -> None:
    vms, volume = [await vm_of(ada, engine) for _ in range(10)], await volume_of(ada, engine)
    body = {"volume_id": str(volume.id)}
    answers = await asyncio.gather(*(ada.http.post(f"/vms/{vm.id}/volumes", json=body) for vm in vms))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 9
    refused = [answer.json() for answer in answers if answer.status_code == 409]
    assert {problem["current_status"] for problem in refused} == {"ATTACHING"}
    assert await count(engine, Operation) == 1
    assert sum([(await read_vm(engine, vm.id)).attaching for vm in vms]) == 1


async def test_ten_volumes_at_once_get_ten_devices_of_the_vm(ada: Person, engine: AsyncEngine) -> None:
    vm, volumes = await vm_of(ada, engine), [await volume_of(ada, engine) for _ in range(10)]
    path = f"/vms/{vm.id}/volumes"
    answers = await asyncio.gather(*(ada.http.post(path, json={"volume_id": str(one.id)}) for one in volumes))
    assert {answer.status_code for answer in answers} == {202}
    assert sorted(answer.json()["device"] for answer in answers) == DEVICES[:10]
    assert (await read_vm(engine, vm.id)).attaching == 10
