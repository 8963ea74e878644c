"""Attach volumes to VMs and detach them: devices, refusals, and concurrent requests."""

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
from tests.support.rows import note_vms_changed, read_vm

FIELDS = {*("volume_id", "vm_id", "device", "status", "delete_on_termination", "operation_id", "created_at")}
DEVICES = [f"/dev/vd{letter}" for letter in "bcdefghijklmnopqrstuvwxyz"]
ALLOWED_WHILE_ATTACHING = [
    *("stop", "reboot", "attach-volume", "detach-volume", "attach-interface", "detach-interface", "delete")
]


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.SHUTOFF])
@pytest.mark.parametrize("option", [{}, {"delete_on_termination": True}, {"delete_on_termination": False}], ids=str)
async def test_attaching_a_volume_leaves_the_state_of_the_vm_unchanged(
    ada: Person, engine: AsyncEngine, status: Status, option: dict[str, bool]
) -> None:
    vm, volume = await vm_of(ada, engine, status=status), await volume_of(ada, engine)
    body = {"volume_id": str(volume.id)} | option
    answer = await ada.http.post(f"/vms/{vm.id}/volumes", json=body)
    operation = await check_create_answer(ada, engine, answer, f"/vms/{vm.id}/volumes/{volume.id}")
    attachment = answer.json()
    assert set(attachment) == FIELDS
    shown = {"volume_id": str(volume.id), "vm_id": str(vm.id), "device": "/dev/vdb", "status": "ATTACHING"}
    assert attachment == attachment | shown | {"delete_on_termination": False} | option
    shown_vm = (await ada.http.get(f"/vms/{vm.id}")).json()
    assert (shown_vm["status"], shown_vm["task_state"], shown_vm["operation_id"]) == (
        status,
        None,
        str(vm.operation_id),
    )
    shown_volume = (await ada.http.get(f"/volumes/{volume.id}")).json()
    assert (shown_volume["status"], shown_volume["operation_id"]) == ("ATTACHING", attachment["operation_id"])
    assert (operation.action, operation.vm_id, operation.previous_status) == (Action.ATTACH_VOLUME, vm.id, None)
    assert (operation.resource_type, operation.resource_id) == ("volume", volume.id)
    assert operation.input | {"name": "data", "device": "/dev/vdb"} == operation.input


async def test_resize_snapshot_and_restore_are_refused_while_a_volume_is_being_attached(
    ada: Person, engine: AsyncEngine
) -> None:
    vm, volume, other = await vm_of(ada, engine), await volume_of(ada, engine), await volume_of(ada, engine)
    before = (await ada.http.get(f"/vms/{vm.id}")).json()["allowed_actions"]
    await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": str(volume.id)})
    assert set(before) - set(ALLOWED_WHILE_ATTACHING) == {"resize", "snapshot", "restore"}
    assert (await ada.http.get(f"/vms/{vm.id}")).json()["allowed_actions"] == ALLOWED_WHILE_ATTACHING
    resize = await ada.http.post(f"/vms/{vm.id}/actions/resize", json={"flavor_id": unknown_id()})
    problem = resize.json()
    assert (resize.status_code, problem["code"], problem["current_status"]) == (409, "attachment_in_progress", "ACTIVE")
    assert (problem["allowed_actions"], problem["task_state"]) == (ALLOWED_WHILE_ATTACHING, None)
    second = await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": str(other.id)})
    assert (second.status_code, second.json()["device"]) == (202, "/dev/vdc")
    assert (await ada.http.post(f"/vms/{vm.id}/actions/stop")).status_code == 202


async def test_a_volume_gets_the_first_free_device_and_the_26th_volume_is_refused(
    ada: Person, engine: AsyncEngine
) -> None:
    vm = await vm_of(ada, engine)
    volumes = [await volume_of(ada, engine) for _ in range(26)]
    path = f"/vms/{vm.id}/volumes"
    answers = [await ada.http.post(path, json={"volume_id": str(volume.id)}) for volume in volumes]
    assert [answer.json().get("device") for answer in answers] == [*DEVICES, None]
    problem = answers[-1].json()
    assert (answers[-1].status_code, problem["code"]) == (409, "no_free_device")
    assert "at most 25 volumes" in problem["detail"]
    assert (await ada.http.get(f"/volumes/{volumes[-1].id}")).json()["status"] == "AVAILABLE"
    assert (await read_vm(engine, vm.id)).attaching == 25
    async with engine.begin() as tx:
        await note_vms_changed(tx)
        await tx.exec_driver_sql("DELETE FROM attachments WHERE device = '/dev/vdk'")
    retry = await ada.http.post(path, json={"volume_id": str(volumes[-1].id)})
    assert retry.json()["device"] == "/dev/vdk"


async def test_a_busy_vm_without_a_free_device_is_refused_because_it_is_busy(ada: Person, engine: AsyncEngine) -> None:
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
async def test_no_volume_is_attached_to_or_detached_from_a_vm_that_is_not_at_rest(
    ada: Person, engine: AsyncEngine, state: dict[str, Any]
) -> None:
    vm, volume = await vm_of(ada, engine, **state), await volume_of(ada, engine)
    attached, attachment = await attached_to(vm, ada, engine)
    allowed = (await ada.http.get(f"/vms/{vm.id}")).json()["allowed_actions"]
    conflict = {"current_status": vm.status, "task_state": vm.task_state, "allowed_actions": allowed}
    attach = await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": str(volume.id)})
    await check_refused_and_unchanged(engine, vm, attach, "invalid_transition", **conflict)
    detach = await ada.http.delete(f"/vms/{vm.id}/volumes/{attached.id}")
    await check_refused_and_unchanged(engine, vm, detach, "invalid_transition", **conflict)
    assert await rows_of(engine, Volume) == [volume, attached]
    assert await rows_of(engine, Attachment) == [attachment]


@pytest.mark.parametrize("status", sorted(set(VolumeStatus) - {VolumeStatus.AVAILABLE}))
async def test_only_an_available_volume_can_be_attached(ada: Person, engine: AsyncEngine, status: VolumeStatus) -> None:
    vm, volume = await vm_of(ada, engine), await volume_of(ada, engine, status=status)
    answer = await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": str(volume.id)})
    allowed = {VolumeStatus.IN_USE: ["detach-volume", "extend-volume"], VolumeStatus.ERROR: ["delete-volume"]}.get(
        status, []
    )
    conflict = {"current_status": status, "task_state": None, "allowed_actions": allowed}
    await check_refused_and_unchanged(engine, vm, answer, "invalid_transition", **conflict)
    assert (await rows_of(engine, Volume), await count(engine, Attachment)) == ([volume], 0)


async def test_a_second_detach_of_a_volume_returns_the_same_operation(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    volume, _ = await attached_to(vm, ada, engine, device="/dev/vdc")
    path = f"/vms/{vm.id}/volumes/{volume.id}"
    first = await ada.http.delete(path)
    operation = await check_delete_answer(ada, engine, first)
    second = await ada.http.delete(path)
    assert (second.status_code, second.headers["Operation-Location"]) == (204, first.headers["Operation-Location"])
    assert [row.id for row in await operations_of(engine, vm.id)] == [operation.id]
    assert (operation.action, operation.vm_id) == (Action.DETACH_VOLUME, vm.id)
    assert (operation.resource_type, operation.resource_id) == ("volume", volume.id)
    assert operation.input == {"name": "data", "device": "/dev/vdc"}
    assert (await ada.http.get(path)).json()["status"] == "DETACHING"
    assert (await ada.http.get(f"/volumes/{volume.id}")).json()["status"] == "DETACHING"
    assert (await read_vm(engine, vm.id)).attaching == 1


async def test_a_volume_that_is_being_attached_cannot_be_detached(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    volume, attachment = await attached_to(vm, ada, engine, AttachmentStatus.ATTACHING)
    answer = await ada.http.delete(f"/vms/{vm.id}/volumes/{volume.id}")
    conflict: dict[str, Any] = {"current_status": "ATTACHING", "task_state": None, "allowed_actions": []}
    await check_refused_and_unchanged(engine, vm, answer, "invalid_transition", **conflict)
    assert await rows_of(engine, Attachment) == [attachment]


async def test_a_detach_from_a_vm_that_is_being_deleted_returns_the_operation_of_the_delete(
    ada: Person, engine: AsyncEngine
) -> None:
    vm = await vm_of(ada, engine)
    volume, _ = await attached_to(vm, ada, engine)
    delete = await ada.http.delete(f"/vms/{vm.id}")
    detach = await ada.http.delete(f"/vms/{vm.id}/volumes/{volume.id}")
    assert (detach.status_code, detach.headers["Operation-Location"]) == (204, delete.headers["Operation-Location"])


async def test_a_volume_that_the_vm_does_not_have_is_not_found(ada: Person, engine: AsyncEngine) -> None:
    vm, other, loose = await vm_of(ada, engine), await vm_of(ada, engine), await volume_of(ada, engine)
    attached, _ = await attached_to(vm, ada, engine)
    for vm_id, volume_id in (
        (other.id, attached.id),
        (vm.id, loose.id),
        (vm.id, unknown_id()),
        (unknown_id(), attached.id),
    ):
        path = f"/vms/{vm_id}/volumes/{volume_id}"
        answers = [await ada.http.get(path), await ada.http.delete(path)]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "not_found")] * 2
    unknown_volume = await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": unknown_id()})
    unknown_vm = await ada.http.post(f"/vms/{unknown_id()}/volumes", json={"volume_id": str(loose.id)})
    assert (unknown_volume.status_code, unknown_vm.status_code) == (404, 404)
    assert await count(engine, Operation) == 0


async def test_the_volumes_of_a_vm_are_sorted_by_device(ada: Person, engine: AsyncEngine) -> None:
    vm, other = await vm_of(ada, engine), await vm_of(ada, engine)
    for device in ("/dev/vdd", "/dev/vdb", "/dev/vdc"):
        await attached_to(vm, ada, engine, device=device)
    await attached_to(other, ada, engine)
    first = (await ada.http.get(f"/vms/{vm.id}/volumes", params={"page_size": 2})).json()
    second = await ada.http.get(f"/vms/{vm.id}/volumes", params={"page_size": 2, "cursor": first["next_cursor"]})
    assert (first["total"], first["pages"], second.json()["next_cursor"]) == (3, 2, None)
    devices = [item["device"] for item in first["items"] + second.json()["items"]]
    assert devices == ["/dev/vdb", "/dev/vdc", "/dev/vdd"]


async def test_only_one_of_ten_concurrent_vms_gets_the_volume(ada: Person, engine: AsyncEngine) -> None:
    vms, volume = [await vm_of(ada, engine) for _ in range(10)], await volume_of(ada, engine)
    body = {"volume_id": str(volume.id)}
    answers = await asyncio.gather(*(ada.http.post(f"/vms/{vm.id}/volumes", json=body) for vm in vms))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 9
    refused = [answer.json() for answer in answers if answer.status_code == 409]
    assert {problem["current_status"] for problem in refused} == {"ATTACHING"}
    assert await count(engine, Operation) == 1
    assert sum([(await read_vm(engine, vm.id)).attaching for vm in vms]) == 1


async def test_ten_concurrent_attaches_to_one_vm_get_ten_devices(ada: Person, engine: AsyncEngine) -> None:
    vm, volumes = await vm_of(ada, engine), [await volume_of(ada, engine) for _ in range(10)]
    path = f"/vms/{vm.id}/volumes"
    answers = await asyncio.gather(*(ada.http.post(path, json={"volume_id": str(volume.id)}) for volume in volumes))
    assert {answer.status_code for answer in answers} == {202}
    assert sorted(answer.json()["device"] for answer in answers) == DEVICES[:10]
    assert (await read_vm(engine, vm.id)).attaching == 10
