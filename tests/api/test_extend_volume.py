"""Volumes that are made larger, attached or not."""

from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import Attachment, Operation, Volume
from domain.rules.resources import VolumeStatus
from domain.rules.states import Action, OperationStatus
from tests.api.conftest import Person, count
from tests.api.vm_resources import attached_to, operation_of, rows_of, unknown_id, vm_of, volume_of
from tests.support.rows import read_operation

EXTENSION = {"name": "data", "size_gb": 20, "previous_size_gb": 10}


async def test_the_answer_to_an_extension_shows_the_volume_and_links_to_its_operation(
    ada: Person, engine: AsyncEngine
) -> None:
    volume = await volume_of(ada, engine)
    answer = await ada.http.post(f"/volumes/{volume.id}/actions/extend", json={"size_gb": 20})
    assert (answer.status_code, answer.headers["Retry-After"]) == (202, "1")
    assert answer.json() == (await ada.http.get(f"/volumes/{volume.id}")).json()
    assert (answer.json()["status"], answer.json()["size_gb"]) == ("EXTENDING", 10)
    operation = await operation_of(ada, engine, answer)
    assert (operation.action, operation.resource_type, operation.vm_id) == (Action.EXTEND_VOLUME, "volume", None)
    assert operation.input == EXTENSION | {"was": "AVAILABLE"}


async def test_an_attached_volume_is_extended_beside_its_vm(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    volume, attachment = await attached_to(vm, ada, engine)
    answer = await ada.http.post(f"/volumes/{volume.id}/actions/extend", json={"size_gb": 20})
    shown = answer.json()
    assert (shown["status"], shown["vm_id"], shown["device"]) == ("EXTENDING", str(vm.id), "/dev/vdb")
    operation = await operation_of(ada, engine, answer)
    assert (operation.vm_id, operation.input) == (vm.id, EXTENSION | {"was": "IN_USE"})
    assert await rows_of(engine, Attachment) == [attachment]
    detach = await ada.http.delete(f"/vms/{vm.id}/volumes/{volume.id}")
    assert (detach.status_code, detach.json()["current_status"]) == (409, "EXTENDING")
    assert "reboot" in (await ada.http.get(f"/vms/{vm.id}")).json()["allowed_actions"]


async def test_a_volume_in_error_after_an_extension_is_not_deleted_while_a_vm_has_it(
    ada: Person, engine: AsyncEngine
) -> None:
    volume, attachment = await attached_to(await vm_of(ada, engine), ada, engine)
    async with engine.begin() as tx:
        await tx.execute(update(Volume).values(status=VolumeStatus.ERROR))
    answer = await ada.http.delete(f"/volumes/{volume.id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "invalid_transition")
    assert answer.json()["detail"] == "Cannot delete a volume that is attached to a VM; allowed now: nothing."
    assert await rows_of(engine, Attachment) == [attachment]
    assert (await ada.http.get(f"/volumes/{volume.id}")).json()["status"] == "ERROR"


@pytest.mark.parametrize("goes_with_vm", [True, False])
async def test_a_delete_of_the_vm_supersedes_an_extension(
    ada: Person, engine: AsyncEngine, *, goes_with_vm: bool
) -> None:
    vm = await vm_of(ada, engine)
    volume, _ = await attached_to(vm, ada, engine, delete_on_termination=goes_with_vm)
    answer = await ada.http.post(f"/volumes/{volume.id}/actions/extend", json={"size_gb": 20})
    extension = await operation_of(ada, engine, answer)
    assert (await ada.http.delete(f"/vms/{vm.id}")).status_code == 204
    assert (await read_operation(engine, extension.id)).status is OperationStatus.SUPERSEDED
    shown = (await ada.http.get(f"/volumes/{volume.id}")).json()
    assert shown["status"] == ("DELETING" if goes_with_vm else "DETACHING")


@pytest.mark.parametrize("size", [1, 9, 10])
async def test_a_volume_can_only_become_larger(ada: Person, engine: AsyncEngine, size: int) -> None:
    volume = await volume_of(ada, engine)
    answer = await ada.http.post(f"/volumes/{volume.id}/actions/extend", json={"size_gb": size})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "volume_too_small")
    assert problem["errors"][0]["pointer"] == "#/size_gb"
    assert "10 GiB" in problem["detail"]
    assert (await rows_of(engine, Volume), await count(engine, Operation)) == ([volume], 0)


@pytest.mark.parametrize("size", [0, 16_385, "20", None])
async def test_a_size_that_no_volume_can_have_is_invalid(ada: Person, engine: AsyncEngine, size: Any) -> None:
    volume = await volume_of(ada, engine)
    answer = await ada.http.post(f"/volumes/{volume.id}/actions/extend", json={"size_gb": size})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


@pytest.mark.parametrize("status", sorted(set(VolumeStatus) - {VolumeStatus.AVAILABLE, VolumeStatus.IN_USE}))
async def test_no_other_volume_can_be_extended(ada: Person, engine: AsyncEngine, status: VolumeStatus) -> None:
    volume = await volume_of(ada, engine, status=status)
    answer = await ada.http.post(f"/volumes/{volume.id}/actions/extend", json={"size_gb": 5})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["current_status"]) == (409, "invalid_transition", status)
    assert "Cannot extend a volume" in problem["detail"]
    assert (await rows_of(engine, Volume), await count(engine, Operation)) == ([volume], 0)


async def test_a_volume_of_somebody_else_is_not_found(ada: Person, bob: Person, engine: AsyncEngine) -> None:
    volume = await volume_of(ada, engine)
    for id in (volume.id, unknown_id()):
        answer = await bob.http.post(f"/volumes/{id}/actions/extend", json={"size_gb": 20})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
