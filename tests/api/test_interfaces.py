"""Interfaces of VMs: attach and detach, valid and unique addresses, full networks, and concurrent requests."""

import asyncio
from ipaddress import IPv4Address, IPv4Network
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import ColumnElement, Text, literal_column
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import addresses
from domain.data.catalogue import NETWORKS
from domain.data.models import VM, IdempotencyKey, Interface, Operation
from domain.rules.resources import AttachmentStatus
from domain.rules.states import Action, Status, TaskState
from tests.api.conftest import FLAVOR, Person, count, operations_of, pointers
from tests.api.vm_resources import (
    check_create_answer,
    check_delete_answer,
    check_refused_and_unchanged,
    rows_of,
    set_vm,
    unknown_id,
    vm_of,
)
from tests.support.rows import NETWORK_IDS, add_interface, add_vm, read_vm

FIELDS = {*("id", "vm_id", "network_id", "ip_address", "mac_address", "status", "operation_id", "created_at")}
PRIVATE, BACKEND, EDGE = (str(NETWORK_IDS[name]) for name in ("private", "backend", "edge"))
NETWORKS_BY_ID = {str(row["id"]): row for row in NETWORKS}
EDGE_SIZE = 13  # addresses that VMs can have in the smallest network


def is_valid(interface: dict[str, Any]) -> bool:
    """Whether a VM may have this address in the network, and the MAC address has OpenStack's prefix."""
    row = NETWORKS_BY_ID[interface["network_id"]]
    hosts = set(IPv4Network(row["cidr"]).hosts()) - {IPv4Address(row["gateway"])}
    mac: str = interface["mac_address"]
    return IPv4Address(interface["ip_address"]) in hosts and mac.startswith("fa:16:3e:") and len(mac) == 17


async def free_in(ada: Person, network: str) -> int:
    """The number of free addresses that the API shows for the network."""
    free: int = (await ada.http.get(f"/networks/{network}")).json()["free_addresses"]
    listed = {row["id"]: row["free_addresses"] for row in (await ada.http.get("/networks")).json()["items"]}
    assert listed[network] == free
    return free


async def interfaces_of(ada: Person, vm_id: object) -> list[dict[str, Any]]:
    """The VM's interfaces, as the API lists them."""
    found: list[dict[str, Any]] = (await ada.http.get(f"/vms/{vm_id}/interfaces")).json()["items"]
    return found


async def fill_edge(ada: Person, engine: AsyncEngine, free: int = 0) -> VM:
    """A VM that has all addresses of the smallest network but `free` of them."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        for host in range(2, 2 + EDGE_SIZE - free):
            await add_interface(tx, vm, f"10.2.0.{host}", network="edge")
    return vm


async def attach(ada: Person, vm: VM, network: str = EDGE, **headers: str) -> Any:
    """Request an interface in the network."""
    return await ada.http.post(f"/vms/{vm.id}/interfaces", json={"network_id": network}, headers=headers)


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
    assert operation.input == {"ip_address": interface["ip_address"], "network": "edge"}


async def test_a_vm_may_have_interfaces_in_one_network_until_it_is_full(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    interfaces = [(await attach(ada, vm)).json() for _ in range(EDGE_SIZE)]
    assert len({interface["ip_address"] for interface in interfaces}) == EDGE_SIZE
    assert len({interface["mac_address"] for interface in interfaces}) == EDGE_SIZE
    assert all(map(is_valid, interfaces))
    assert await free_in(ada, EDGE) == 0
    before = await read_vm(engine, vm.id)
    refusal = await attach(ada, vm)
    assert (refusal.status_code, refusal.json()["code"]) == (409, "no_free_address")
    assert "edge" in refusal.json()["detail"]
    assert await read_vm(engine, vm.id) == before
    assert await count(engine, Operation) == EDGE_SIZE


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


@pytest.mark.parametrize(
    ("option", "network_ids"),
    [({}, [PRIVATE]), ({"network_ids": []}, []), ({"network_ids": [EDGE, PRIVATE, BACKEND]}, [EDGE, PRIVATE, BACKEND])],
    ids=["default", "none", "several"],
)
async def test_a_new_vm_has_an_address_in_each_of_its_networks(
    ada: Person, option: dict[str, Any], network_ids: list[str]
) -> None:
    vm = await ada.create(**option)
    found = await interfaces_of(ada, vm["id"])
    assert sorted(interface["network_id"] for interface in found) == sorted(network_ids)
    assert all(map(is_valid, found))
    assert {(interface["status"], interface["operation_id"]) for interface in found} <= {
        ("ATTACHING", vm["operation_id"])
    }
    for network, row in NETWORKS_BY_ID.items():
        hosts = IPv4Network(row["cidr"]).num_addresses - 3
        assert await free_in(ada, network) == hosts - (network in network_ids)


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "the key"}], ids=["plain", "with key"])
async def test_a_vm_in_a_full_network_is_not_created(ada: Person, engine: AsyncEngine, headers: dict[str, str]) -> None:
    other = await fill_edge(ada, engine)
    body = {"name": "x", "flavor_id": FLAVOR, "network_ids": [PRIVATE, EDGE]}
    answer = await ada.http.post("/vms", json=body, headers=headers)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "no_free_address")
    assert "edge" in problem["detail"]
    assert [vm.id for vm in await rows_of(engine, VM)] == [other.id]
    counts = [await count(engine, model) for model in (Operation, Interface, IdempotencyKey)]
    assert counts == [0, EDGE_SIZE, 0]


async def test_the_last_free_address_of_a_network_is_found(ada: Person, engine: AsyncEngine) -> None:
    await fill_edge(ada, engine, free=1)
    vm = await ada.create(network_ids=[EDGE])
    assert [interface["ip_address"] for interface in await interfaces_of(ada, vm["id"])] == ["10.2.0.14"]
    assert await free_in(ada, EDGE) == 0


async def test_a_vm_that_is_being_deleted_keeps_its_addresses(ada: Person) -> None:
    vm = await ada.create(network_ids=[EDGE])
    await ada.http.delete(f"/vms/{vm['id']}")
    assert [interface["status"] for interface in await interfaces_of(ada, vm["id"])] == ["DETACHING"]
    assert await free_in(ada, EDGE) == EDGE_SIZE - 1


async def test_of_twenty_concurrent_creates_as_many_succeed_as_there_are_addresses(
    ada: Person, engine: AsyncEngine
) -> None:
    body = {"name": "x", "flavor_id": FLAVOR, "network_ids": [EDGE]}
    keys: list[dict[str, str]] = [{}, {"Idempotency-Key": "the key"}]
    calls = [ada.http.post("/vms", json=body, headers=keys[n % 20 == 19]) for n in range(20)]
    answers = await asyncio.gather(*calls)
    assert sorted(answer.status_code for answer in answers) == [202] * EDGE_SIZE + [409] * 7
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"no_free_address"}
    found = await rows_of(engine, Interface)
    assert {row.ip_address for row in found} == {f"10.2.0.{host}" for host in range(2, 15)}
    assert {row.vm_id for row in found} == {
        UUID(answer.json()["id"]) for answer in answers if answer.status_code == 202
    }
    assert await count(engine, VM) == await count(engine, Operation) == EDGE_SIZE


def draw_of(address: str) -> ColumnElement[str]:
    """Replaces `addresses.likely_free`: at random this address, free or not, or NULL (no address found).

    A taken address stands for one that another request takes between the draw and the insert.
    """
    return literal_column(f"CASE WHEN random() < 0.5 THEN '{address}' END", Text())


async def test_an_attach_is_repeated_until_its_address_is_still_free_at_the_insert(
    ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second draw finds nothing, and only then does the search find an address that is really free."""
    vm = await fill_edge(ada, engine, free=8)
    monkeypatch.setattr(addresses, "likely_free", draw_of("10.2.0.2"))
    answers = [await attach(ada, vm, **{"Idempotency-Key": f"key {n}"} if n % 2 else {}) for n in range(8)]
    assert {answer.status_code for answer in answers} == {202}
    assert {answer.json()["ip_address"] for answer in answers} == {f"10.2.0.{host}" for host in range(7, 15)}
    assert (await read_vm(engine, vm.id)).attaching == await count(engine, Operation) == 8
    assert await count(engine, IdempotencyKey) == 4


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "the key"}], ids=["plain", "with key"])
async def test_a_create_is_repeated_when_another_request_takes_its_address_first(
    ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """Here the first two MAC addresses are taken, which ends in the same IntegrityError as a taken IP address."""
    vm = await fill_edge(ada, engine, free=8)
    (taken, *_) = [row.mac_address for row in await rows_of(engine, Interface)]
    mac_addresses = iter([taken, taken, "fa:16:3e:00:00:01"])
    monkeypatch.setattr(addresses, "new_mac_address", lambda: next(mac_addresses))
    body = {"name": "x", "flavor_id": FLAVOR, "network_ids": [EDGE]}
    answer = await ada.http.post("/vms", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    (interface,) = await interfaces_of(ada, answer.json()["id"])
    assert interface["mac_address"] == "fa:16:3e:00:00:01"
    assert next(mac_addresses, None) is None
    assert {row.id for row in await rows_of(engine, VM)} == {vm.id, UUID(answer.json()["id"])}
    assert (await count(engine, Operation), await count(engine, IdempotencyKey)) == (1, len(headers))


async def test_a_deleted_vm_has_no_interfaces_and_gets_none(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    await set_vm(engine, vm, status=Status.DELETED)
    answer = await ada.http.get(f"/vms/{vm.id}/interfaces")
    assert (answer.status_code, answer.json()["total"]) == (200, 0)
    assert (await attach(ada, vm)).json()["current_status"] == "DELETED"
