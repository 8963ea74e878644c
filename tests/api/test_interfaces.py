"""Interfaces of VMs: attach, detach and list them."""

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import Interface, Operation
from domain.rules.resources import MOST_INTERFACES, AttachmentStatus
from domain.rules.states import Action, Status, TaskState
from tests.api.conftest import Person, count, operations_of, pointers
from tests.api.networks import EDGE, EDGE_SIZE, attach, fill_edge, free_in, is_valid
from tests.api.vm_resources import (
    check_create_answer,
    check_delete_answer,
    check_refused_and_unchanged,
    rows_of,
    set_vm,
    unknown_id,
    vm_of,
)
from tests.support.rows import add_interface, add_vm, read_vm

FIELDS = {*("id", "vm_id", "network_id", "ip_address", "mac_address", "status", "operation_id", "created_at")}


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.SHUTOFF])
async def test_attaching_an_interface_reserves_its_addresses_and_leaves_the_state_of_the_vm_unchanged(
    ada: Person, engine: AsyncEngine, status: Status
) -> None:
    vm = await vm_of(ada, engine, status=status)
    answer = await attach(ada, vm)
    interface = answer.json()
    operation = await check_create_answer(ada, engine, answer, f"/vms/{vm.id}/interfaces/{interface['id']}")
    assert set(interface) == FIELDS
    assert interface | {"vm_id": str(vm.id), "network_id": EDGE, "status": "ATTACHING"} == interface
    assert is_valid(interface)
    now = await read_vm(engine, vm.id)
    assert (now.status, now.task_state, now.operation_id, now.attaching) == (status, None, vm.operation_id, 1)
    assert (operation.action, operation.vm_id, operation.previous_status) == (Action.ATTACH_INTERFACE, vm.id, None)
    assert (operation.resource_type, str(operation.resource_id)) == ("interface", interface["id"])
    assert operation.input == {"ip_address": interface["ip_address"], "network": "edge", "network_id": EDGE}


@pytest.mark.parametrize(
    "state",
    [{"status": Status.ERROR}, {"status": Status.VERIFY_RESIZE}, {"task_state": TaskState.POWERING_OFF}],
    ids=["error", "undecided", "busy"],
)
async def test_no_interface_is_attached_to_or_detached_from_a_vm_that_is_not_at_rest(
    ada: Person, engine: AsyncEngine, state: dict[str, Any]
) -> None:
    vm = await vm_of(ada, engine, **state)
    async with engine.begin() as tx:
        interface = await add_interface(tx, vm)
    allowed = (await ada.http.get(f"/vms/{vm.id}")).json()["allowed_actions"]
    conflict = {"current_status": vm.status, "task_state": vm.task_state, "allowed_actions": allowed}
    await check_refused_and_unchanged(engine, vm, await attach(ada, vm), "invalid_transition", **conflict)
    detach = await ada.http.delete(f"/vms/{vm.id}/interfaces/{interface.id}")
    await check_refused_and_unchanged(engine, vm, detach, "invalid_transition", **conflict)
    assert await rows_of(engine, Interface) == [interface]


async def test_a_vm_in_error_is_refused_for_its_status_although_the_network_is_full_too(
    ada: Person, engine: AsyncEngine
) -> None:
    await fill_edge(ada, engine)
    vm = await vm_of(ada, engine, status=Status.ERROR)
    await check_refused_and_unchanged(engine, vm, await attach(ada, vm), "invalid_transition")


async def test_a_vm_gets_no_more_interfaces_than_a_delete_can_end(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    async with engine.begin() as tx:
        for number in range(MOST_INTERFACES - 1):
            await add_interface(tx, vm, f"10.0.1.{number}")
    assert (await attach(ada, vm)).status_code == 202
    refused = await attach(ada, vm)
    assert (refused.status_code, refused.json()["code"]) == (409, "no_free_device")
    assert refused.json()["detail"] == "A VM has at most 64 interfaces. Detach one first."
    assert (await read_vm(engine, vm.id)).attaching == 1


async def test_a_second_detach_of_an_interface_returns_the_same_operation(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    async with engine.begin() as tx:
        interface = await add_interface(tx, vm, "10.2.0.7", network="edge")
    path = f"/vms/{vm.id}/interfaces/{interface.id}"
    first = await ada.http.delete(path)
    operation = await check_delete_answer(ada, engine, first)
    second = await ada.http.delete(path)
    assert (second.status_code, second.headers["Operation-Location"]) == (204, first.headers["Operation-Location"])
    assert [row.id for row in await operations_of(engine, vm.id)] == [operation.id]
    assert (operation.action, operation.resource_id) == (Action.DETACH_INTERFACE, interface.id)
    assert operation.input == {"ip_address": "10.2.0.7", "network": "edge"}
    assert (await ada.http.get(path)).json()["status"] == "DETACHING"
    assert await free_in(ada, EDGE) == EDGE_SIZE - 1, "an interface keeps its address until it is detached"


async def test_an_interface_that_is_being_attached_cannot_be_detached(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    async with engine.begin() as tx:
        interface = await add_interface(tx, vm, status=AttachmentStatus.ATTACHING)
    answer = await ada.http.delete(f"/vms/{vm.id}/interfaces/{interface.id}")
    conflict: dict[str, Any] = {"current_status": "ATTACHING", "task_state": None, "allowed_actions": []}
    problem = await check_refused_and_unchanged(engine, vm, answer, "invalid_transition", **conflict)
    assert "Cannot detach an interface" in problem["detail"]


async def test_an_interface_of_another_vm_is_not_found_and_an_unknown_network_is_named(
    ada: Person, engine: AsyncEngine
) -> None:
    vm, other = await vm_of(ada, engine), await vm_of(ada, engine)
    async with engine.begin() as tx:
        interface = await add_interface(tx, vm)
    for vm_id, interface_id in ((other.id, interface.id), (vm.id, unknown_id()), (unknown_id(), interface.id)):
        path = f"/vms/{vm_id}/interfaces/{interface_id}"
        answers = [await ada.http.get(path), await ada.http.delete(path)]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "not_found")] * 2
    unknown = await attach(ada, vm, unknown_id())
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_reference")
    assert pointers(unknown.json()) == {"#/network_id"}
    assert await count(engine, Operation) == 0


async def test_interfaces_are_listed_oldest_first_in_pages(ada: Person, engine: AsyncEngine) -> None:
    vm = await fill_edge(ada, engine)
    await add_other_vm(ada, engine)
    path, parameters = f"/vms/{vm.id}/interfaces", {"page_size": "5"}
    found: list[dict[str, Any]] = []
    while True:
        page = (await ada.http.get(path, params=parameters)).json()
        assert page["total"] == EDGE_SIZE
        found += page["items"]
        if not page["next_cursor"]:
            break
        parameters["cursor"] = page["next_cursor"]
    expected = [row for row in await rows_of(engine, Interface) if row.vm_id == vm.id]
    expected.sort(key=lambda row: (row.created_at, row.id))
    assert [interface["id"] for interface in found] == [str(row.id) for row in expected]


async def add_other_vm(ada: Person, engine: AsyncEngine) -> None:
    """Add a VM with an interface that the lists of other VMs must not show."""
    async with engine.begin() as tx:
        await add_interface(tx, await add_vm(tx, ada.user))


async def test_a_deleted_vm_has_no_interfaces_and_gets_none(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    await set_vm(engine, vm, status=Status.DELETED)
    answer = await ada.http.get(f"/vms/{vm.id}/interfaces")
    assert (answer.status_code, answer.json()["total"]) == (200, 0)
    assert (await attach(ada, vm)).json()["current_status"] == "DELETED"
