"""Resizes on a running stack: confirmed and reverted, with killed processes, with faults, and deleted at every step."""

import asyncio
from uuid import UUID, uuid4

import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.backends.faults import add_fault
from activities.backends.mock.schema import FaultMode
from domain.rules.messages import OperationInput
from domain.rules.states import Action, Status
from domain.settings import Settings
from tests.support.stack import Stack
from tests.support.truth import differences
from tests.support.users import User

KILLS = [
    ("worker", "resize_migrating"),
    ("temporal", "resize_confirming"),
    ("api", "resize_confirming"),
    ("postgres", "resize_migrating"),
]
DECISIONS = {"resize_confirming": "confirm-resize", "resize_reverting": "revert-resize"}


async def test_a_stopped_vm_is_resized_and_confirmed_then_resized_and_reverted(stack: Stack, user: User) -> None:
    small, large, larger = (await user.flavors())[:3]
    vm_id = await user.create_active("off")
    await user.act(vm_id, "stop")
    await user.until(vm_id, "SHUTOFF")
    for flavor, decision, kept in ((large, "confirm-resize", large), (larger, "revert-resize", large)):
        resize = await user.act(vm_id, "resize", flavor_id=flavor)
        vm = await user.until(vm_id, "VERIFY_RESIZE", "ERROR")
        assert (vm["status"], vm["flavor_id"], vm["confirm_by"]) == ("VERIFY_RESIZE", flavor, None)
        decided = await user.act(vm_id, decision)
        assert decided["workflow_id"] == resize["workflow_id"]
        vm = await user.until(vm_id, "SHUTOFF", "ERROR")
        assert (vm["status"], vm["flavor_id"]) == ("SHUTOFF", kept)
    assert small != large
    operations = (await user.read(f"/vms/{vm_id}/operations"))["items"]
    assert {operation["status"] for operation in operations} == {"SUCCEEDED"}
    assert await differences(stack) == []


@pytest.mark.parametrize(("part", "task_state"), KILLS)
async def test_a_resize_succeeds_although_a_process_is_killed(
    stack: Stack, user: User, part: str, task_state: str
) -> None:
    vm_id = await user.create_active(f"survives-{part}")
    large = (await user.flavors())[1]
    await user.act(vm_id, "resize", flavor_id=large)
    if task_state == "resize_migrating":
        await user.until(vm_id, task_state=task_state)
        stack.kill(part)
    await user.until(vm_id, "VERIFY_RESIZE", "ERROR")
    await user.act(vm_id, "confirm-resize")
    if task_state == "resize_confirming":
        stack.kill(part)
    vm = await user.until(vm_id, "ACTIVE", "ERROR")
    assert (vm["status"], vm["flavor_id"]) == ("ACTIVE", large)
    assert await differences(stack) == []


FAULTS = {
    "the move is refused": ("resize_server", FaultMode.REFUSE, "ERROR", "FAILED"),
    "the move fails once": ("resize_server", FaultMode.FAIL, "VERIFY_RESIZE", "SUCCEEDED"),
    "the answer to the move is lost": ("resize_server", FaultMode.FAIL_AFTER_EFFECT, "VERIFY_RESIZE", "SUCCEEDED"),
}


async def test_each_fault_of_the_cloud_during_a_resize_has_its_specified_end(
    stack: Stack, user: User, cloud: Settings
) -> None:
    small, large = (await user.flavors())[:2]

    async def resize(fault: str, verb: str, mode: FaultMode, status: str, end: str) -> None:
        vm_id = await user.create_active(fault)
        await add_fault(cloud, verb, mode, vm_id=UUID(vm_id))
        resize = await user.act(vm_id, "resize", flavor_id=large)
        vm = await user.until(vm_id, "ACTIVE", "VERIFY_RESIZE", "ERROR")
        resize = await user.read(f"/operations/{resize['id']}")
        flavor = large if end == "SUCCEEDED" else small
        assert (vm["status"], vm["flavor_id"], resize["status"]) == (status, flavor, end), fault

    await asyncio.gather(*(resize(fault, *case) for fault, case in FAULTS.items()))
    assert await differences(stack) == []


async def test_a_refused_confirm_or_revert_ends_in_error_and_the_vm_can_be_deleted(
    stack: Stack, user: User, cloud: Settings
) -> None:
    async def refuse(decision: str) -> None:
        vm_id = (await user.create_resized("undecided"))["id"]
        await add_fault(cloud, f"{decision}_server_resize", FaultMode.REFUSE, vm_id=UUID(vm_id))
        decided = await user.act(vm_id, f"{decision}-resize")
        vm = await user.until(vm_id, "ACTIVE", "ERROR")
        assert (vm["status"], vm["fault"]["code"]) == ("ERROR", "mock_refused")
        assert (await user.read(f"/operations/{decided['id']}"))["error"] == vm["fault"]
        await user.request("DELETE", f"/vms/{vm_id}")
        await user.until(vm_id, "DELETED")

    await asyncio.gather(refuse("confirm"), refuse("revert"))
    assert await differences(stack) == []


async def test_a_resize_that_fits_on_no_host_leaves_the_vm_unchanged(stack: Stack, user: User) -> None:
    vm_id = await user.create_active("stays-small")
    flavors = await user.flavors()
    resize = await user.act(vm_id, "resize", flavor_id=flavors[-1])
    vm = await user.until(vm_id)
    assert (vm["status"], vm["flavor_id"], vm["fault"]) == ("ACTIVE", flavors[0], None)
    resize = await user.read(f"/operations/{resize['id']}")
    assert (resize["status"], resize["error"]["code"]) == ("FAILED", "no_valid_host")
    assert await differences(stack) == []


async def test_a_delete_at_each_step_of_a_resize_leaves_nothing(stack: Stack, user: User) -> None:
    temporal, large = await stack.temporal(), (await user.flavors())[1]

    async def delete_at(moment: str) -> None:
        vm_id = await user.create_active(moment)
        resize = await user.act(vm_id, "resize", flavor_id=large)
        if moment == "resize_migrating":
            await user.until(vm_id, task_state=moment)
        elif moment != "accepted":
            await user.until(vm_id, "VERIFY_RESIZE")
        if moment in DECISIONS:
            await user.act(vm_id, DECISIONS[moment])
        assert (await user.request("DELETE", f"/vms/{vm_id}")).status_code == 204
        assert (await user.until(vm_id, "DELETED", "ERROR"))["status"] == "DELETED", moment
        assert not await is_running(temporal, resize["workflow_id"]), moment

    moments = ("accepted", "resize_migrating", "VERIFY_RESIZE", *DECISIONS)
    await asyncio.gather(*(delete_at(moment) for moment in moments))
    assert await differences(stack) == []


async def is_running(temporal: Client, workflow_id: str) -> bool:
    try:
        description = await temporal.get_workflow_handle(workflow_id).describe()
    except RPCError as error:
        # NOT_FOUND: the VM was deleted before the resize was delivered, so no workflow was started
        return error.status is not RPCStatusCode.NOT_FOUND
    return description.status is WorkflowExecutionStatus.RUNNING


async def test_a_revert_succeeds_although_the_waiting_workflow_was_terminated(stack: Stack, user: User) -> None:
    vm = await user.create_resized("abandoned")
    resize = await user.read(f"/operations/{vm['operation_id']}")
    await (await stack.temporal()).get_workflow_handle(resize["workflow_id"]).terminate()
    revert = await user.act(vm["id"], "revert-resize")
    vm = await user.until(vm["id"], "ACTIVE", "ERROR")
    assert (vm["status"], vm["flavor_id"]) == ("ACTIVE", (await user.flavors())[0])
    revert = await user.read(f"/operations/{revert['id']}")
    assert (revert["status"], revert["workflow_id"]) == ("SUCCEEDED", f"revert-resize-{vm['id']}-{revert['id']}")
    assert await differences(stack) == []


async def test_signals_sent_by_hand_change_nothing(stack: Stack, user: User) -> None:
    vm_id = await user.create_active("by-hand")
    resize = await user.act(vm_id, "resize", flavor_id=(await user.flavors())[1])
    await user.until(vm_id, task_state="resize_migrating")
    waiting = (await stack.temporal()).get_workflow_handle(resize["workflow_id"])
    await waiting.signal("confirm")
    unknown = OperationInput(uuid4(), UUID(vm_id), Action.REVERT_RESIZE, previous_status=Status.ACTIVE)
    await waiting.signal("revert", unknown)
    await user.until(vm_id, "VERIFY_RESIZE")
    await user.act(vm_id, "confirm-resize")
    vm = await user.until(vm_id, "ACTIVE", "ERROR")
    assert (vm["status"], vm["flavor_id"]) == ("ACTIVE", (await user.flavors())[1])
    await waiting.result()
    assert await differences(stack) == []
