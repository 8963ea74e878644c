"""POST /admin/vms/{id}/reset-state: an admin sets the status of a VM at once."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import queries
from domain.data.models import VM
from domain.rules.resources import AttachmentStatus
from domain.rules.states import Action, OperationStatus, Status, TaskState
from tests.api.conftest import Person, operations_of
from tests.support.rows import INPUTS, add_interface, add_operation, add_vm, read_operation, read_vm


@pytest.mark.parametrize("status", ["ACTIVE", "SHUTOFF", "ERROR"])
async def test_a_reset_ends_the_operation_that_holds_the_vm_and_is_recorded(
    ada: Person, root: Person, engine: AsyncEngine, status: str
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=Status.REBOOTING, task_state=TaskState.REBOOTING)
        holder = await add_operation(tx, vm, Action.REBOOT_SOFT, next_retry_at=func.now())
    answer = await root.http.post(f"/admin/vms/{vm.id}/reset-state", json={"status": status})
    assert answer.status_code == 202, answer.text
    vm = await read_vm(engine, vm.id)
    assert (vm.status, vm.task_state) == (status, None)
    assert (vm.fault or {}).get("code") == ("state_reset" if status == "ERROR" else None)
    assert (await read_operation(engine, holder.id)).status is OperationStatus.SUPERSEDED
    resets = (await ada.http.get("/operations", params={"vm_id": str(vm.id), "action": "reset-state"})).json()["items"]
    assert [(reset["actor"], reset["status"], reset["progress"]) for reset in resets] == [("root", "SUCCEEDED", 100)]
    assert resets[0]["temporal_url"] is None  # no workflow carries it out
    assert (await ada.http.post(f"/vms/{vm.id}/actions/reboot", json={"type": "HARD"})).status_code == 202


async def test_a_vm_that_is_reset_during_its_build_keeps_its_address(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    """The cloud may have made the port already, and nothing is undone there."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=Status.BUILDING, task_state=TaskState.SPAWNING, launched=False)
        build = await add_operation(tx, vm, Action.CREATE)
        interface = await add_interface(tx, vm, status=AttachmentStatus.ATTACHING, operation_id=build.id)
    assert (await root.http.post(f"/admin/vms/{vm.id}/reset-state", json={"status": "ERROR"})).status_code == 202
    (shown,) = (await ada.http.get(f"/vms/{vm.id}/interfaces")).json()["items"]
    assert (shown["id"], shown["status"]) == (str(interface.id), "ATTACHED")
    assert (await ada.http.delete(f"/vms/{vm.id}")).status_code == 204


async def test_a_vm_with_an_undecided_resize_can_be_reset_to_verify_resize_and_confirmed(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=Status.ERROR)
        await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED)
    reset = await root.http.post(f"/admin/vms/{vm.id}/reset-state", json={"status": "VERIFY_RESIZE"})
    assert reset.status_code == 202
    assert (await ada.http.post(f"/vms/{vm.id}/actions/confirm-resize")).status_code == 202
    assert [operation.action for operation in await operations_of(engine, vm.id)][-1] is Action.CONFIRM_RESIZE


@pytest.mark.parametrize("status_before", [Status.RESIZING, Status.ERROR])
async def test_a_resize_that_a_reset_cut_off_after_it_had_begun_can_still_be_reverted(
    ada: Person, root: Person, engine: AsyncEngine, status_before: Status
) -> None:
    """The cloud may have moved the server already. The admin says so with a reset to VERIFY_RESIZE."""
    new_flavor_id = INPUTS[Action.RESIZE]["flavor_id"]
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=Status.RESIZING, task_state=TaskState.RESIZE_MIGRATING)
        await add_operation(tx, vm, Action.RESIZE, previous_status=Status.ACTIVE, started_at=func.now())
    assert str(vm.flavor_id) != new_flavor_id
    path = f"/admin/vms/{vm.id}/reset-state"
    if status_before is Status.ERROR:
        assert (await root.http.post(path, json={"status": "ERROR"})).status_code == 202
    assert (await root.http.post(path, json={"status": "VERIFY_RESIZE"})).json()["flavor_id"] == new_flavor_id
    assert (await ada.http.post(f"/vms/{vm.id}/actions/revert-resize")).status_code == 202
    revert = (await operations_of(engine, vm.id))[-1]
    assert (revert.previous_status, revert.input["flavor_id"]) == (Status.ACTIVE, str(vm.flavor_id))


async def test_a_vm_whose_resize_was_confirmed_cannot_be_reset_to_verify_resize(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        await add_operation(tx, vm, Action.RESIZE, status=OperationStatus.SUCCEEDED)
        later = queries.from_now(1)
        await add_operation(tx, vm, Action.CONFIRM_RESIZE, status=OperationStatus.SUCCEEDED, created_at=later)
    refusal = await root.http.post(f"/admin/vms/{vm.id}/reset-state", json={"status": "VERIFY_RESIZE"})
    assert (refusal.status_code, refusal.json()["code"]) == (409, "invalid_transition")
    assert "reset to VERIFY_RESIZE" in refusal.json()["detail"]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"status": Status.DELETED}, "ERROR"),
        ({"status": Status.ERROR, "launched": False}, "ACTIVE"),
        ({"status": Status.ERROR}, "VERIFY_RESIZE"),
    ],
    ids=["deleted", "never launched", "no resize"],
)
async def test_a_vm_cannot_be_reset_to_a_status_that_it_cannot_have(
    ada: Person, root: Person, engine: AsyncEngine, values: dict[str, Any], status: str
) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, **values)
        await add_operation(tx, vm, Action.STOP, status=OperationStatus.FAILED)
    refusal = await root.http.post(f"/admin/vms/{vm.id}/reset-state", json={"status": status})
    assert (refusal.status_code, refusal.json()["code"]) == (409, "invalid_transition")
    async with engine.connect() as connection:
        assert await connection.scalar(select(VM.status)) is values["status"]


async def test_a_reset_or_retry_of_what_has_changed_since_is_refused(
    ada: Person, root: Person, engine: AsyncEngine
) -> None:
    """Also of what belongs to others. It is where a stale view does the most harm: a reset ends an operation."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, status=Status.ERROR)
        failed = await add_operation(tx, vm, Action.START, status=OperationStatus.FAILED)
    reset = (f"/admin/vms/{vm.id}/reset-state", {"status": "SHUTOFF"}, f"/vms/{vm.id}")
    retry = (f"/admin/operations/{failed.id}/retry", None, f"/operations/{failed.id}")
    for path, body, shown in (reset, retry):
        tag = (await ada.http.get(shown)).headers["ETag"]
        stale = await root.http.post(path, json=body, headers={"If-Match": '"stale"'})
        assert (stale.status_code, stale.json()["code"]) == (412, "precondition_failed")
        assert (await ada.http.get(shown)).headers["ETag"] == tag
        assert (await root.http.post(path, json=body, headers={"If-Match": tag})).status_code == 202


async def test_a_status_that_cannot_be_set_is_refused_in_the_words_of_the_api(root: Person) -> None:
    answer = await root.http.post(f"/admin/vms/{uuid4()}/reset-state", json={"status": "active"})
    assert answer.json()["errors"][0]["detail"] == "Input should be 'ACTIVE', 'SHUTOFF', 'VERIFY_RESIZE' or 'ERROR'."
