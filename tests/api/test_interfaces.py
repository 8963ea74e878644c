"""Interfaces of VMs: addresses are given with a VM or later, legal and unique, and given back."""

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
ROWS = {str(row["id"]): row for row in NETWORKS}
IN_EDGE = 13  # addresses that VMs can have there


def is_legal(interface: dict[str, Any]) -> bool:
    """Whether its address is one that a VM may have in its network, and its MAC address one of OpenStack's."""
    row = ROWS[interface["network_id"]]
    hosts = set(IPv4Network(row["cidr"]).hosts()) - {IPv4Address(row["gateway"])}
    mac: str = interface["mac_address"]
    return IPv4Address(interface["ip_address"]) in hosts and mac.startswith("fa:16:3e:") and len(mac) == 17


async def free_in(ada: Person, network: str) -> int:
    """How many addresses the API says are left."""
    one: int = (await ada.http.get(f"/networks/{network}")).json()["free_addresses"]
    listed = {row["id"]: row["free_addresses"] for row in (await ada.http.get("/networks")).json()["items"]}
    assert listed[network] == one
    return one


async def interfaces_of(ada: Person, vm_id: object) -> list[dict[str, Any]]:
    """The VM's interfaces, as the API lists them."""
    found: list[dict[str, Any]] = (await ada.http.get(f"/vms/{vm_id}/interfaces")).json()["items"]
    return found


async def fill_edge(ada: Person, engine: AsyncEngine, but: int = 0) -> VM:
    """A VM that has all addresses of the smallest network, but for so many."""
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user)
        for place in range(2, 2 + IN_EDGE - but):
            await add_interface(tx, vm, f"10.2.0.{place}", network="edge")
    return vm


async def attach(ada: Person, vm: VM, network: str = EDGE, **headers: str) -> Any:
    """Ask for an interface."""
    return await ada.http.post(f"/vms/{vm.id}/interfaces", json={"network_id": network}, headers=headers)


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.SHUTOFF])
async def test_an_interface_gets_its_addresses_at_once_and_the_vm_stays_as_it_is(
    ada: Person, engine: AsyncEngine, status: Status
) -> None:
    vm = await vm_of(ada, engine, status=status)
    answer = await attach(ada, vm)
    made = answer.json()
    operation = await check_create_answer(ada, engine, answer, f"/vms/{vm.id}/interfaces/{made['id']}")
    assert set(made) == FIELDS
    assert made | {"vm_id": str(vm.id), "network_id": EDGE, "status": "ATTACHING"} == made
    assert is_legal(made)
    held = await read_vm(engine, vm.id)
    assert (held.status, held.task_state, held.operation_id, held.attaching) == (status, None, vm.operation_id, 1)
    assert (operation.action, operation.vm_id, operation.previous_status) == (Action.ATTACH_INTERFACE, vm.id, None)
    assert (operation.resource_type, str(operation.resource_id)) == ("interface", made["id"])
    assert operation.input == {"ip_address": made["ip_address"], "network": "edge"}


async def test_a_vm_may_have_several_in_one_network_until_none_is_left(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    made = [(await attach(ada, vm)).json() for _ in range(IN_EDGE)]
    assert len({one["ip_address"] for one in made}) == len({one["mac_address"] for one in made}) == IN_EDGE
    assert all(map(is_legal, made))
    assert await free_in(ada, EDGE) == 0
    before = await read_vm(engine, vm.id)
    refused = await attach(ada, vm)
    assert (refused.status_code, refused.json()["code"]) == (409, "no_free_address")
    assert "edge" in refused.json()["detail"]
    assert await read_vm(engine, vm.id) == before
    assert await count(engine, Operation) == IN_EDGE


@pytest.mark.parametrize(
    "state",
    [{"status": Status.ERROR}, {"status": Status.VERIFY_RESIZE}, {"task_state": TaskState.POWERING_OFF}],
    ids=["error", "undecided", "busy"],
)
async def test_a_vm_that_is_not_at_rest_is_left_alone(ada: Person, engine: AsyncEngine, state: dict[str, Any]) -> None:
    vm = await vm_of(ada, engine, **state)
    async with engine.begin() as tx:
        interface = await add_interface(tx, vm)
    allowed = (await ada.http.get(f"/vms/{vm.id}")).json()["allowed_actions"]
    conflict = {"current_status": vm.status, "task_state": vm.task_state, "allowed_actions": allowed}
    await check_refused_and_unchanged(engine, vm, await attach(ada, vm), "invalid_transition", **conflict)
    detach = await ada.http.delete(f"/vms/{vm.id}/interfaces/{interface.id}")
    await check_refused_and_unchanged(engine, vm, detach, "invalid_transition", **conflict)
    assert await rows_of(engine, Interface) == [interface]


async def test_a_vm_that_is_not_at_rest_is_said_before_a_network_that_is_full(ada: Person, engine: AsyncEngine) -> None:
    await fill_edge(ada, engine)
    vm = await vm_of(ada, engine, status=Status.ERROR)
    await check_refused_and_unchanged(engine, vm, await attach(ada, vm), "invalid_transition")


async def test_an_interface_is_detached_once_however_often_it_is_asked(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    async with engine.begin() as tx:
        interface = await add_interface(tx, vm, "10.2.0.7", network="edge")
    path = f"/vms/{vm.id}/interfaces/{interface.id}"
    first = await ada.http.delete(path)
    operation = await check_delete_answer(ada, engine, first)
    again = await ada.http.delete(path)
    assert (again.status_code, again.headers["Operation-Location"]) == (204, first.headers["Operation-Location"])
    assert [one.id for one in await operations_of(engine, vm.id)] == [operation.id]
    assert (operation.action, operation.resource_id) == (Action.DETACH_INTERFACE, interface.id)
    assert operation.input == {"ip_address": "10.2.0.7", "network": "edge"}
    assert (await ada.http.get(path)).json()["status"] == "DETACHING"
    assert await free_in(ada, EDGE) == IN_EDGE - 1, "it has its address until it is detached"


async def test_an_interface_on_its_way_is_not_detached(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    async with engine.begin() as tx:
        interface = await add_interface(tx, vm, status=AttachmentStatus.ATTACHING)
    answer = await ada.http.delete(f"/vms/{vm.id}/interfaces/{interface.id}")
    conflict: dict[str, Any] = {"current_status": "ATTACHING", "task_state": None, "allowed_actions": []}
    problem = await check_refused_and_unchanged(engine, vm, answer, "invalid_transition", **conflict)
    assert "Cannot detach an interface" in problem["detail"]


async def test_what_a_vm_does_not_have_is_not_found_and_an_unknown_network_is_pointed_at(
    ada: Person, engine: AsyncEngine
) -> None:
    vm, other = await vm_of(ada, engine), await vm_of(ada, engine)
    async with engine.begin() as tx:
        interface = await add_interface(tx, vm)
    for where, id in ((other.id, interface.id), (vm.id, unknown_id()), (unknown_id(), interface.id)):
        path = f"/vms/{where}/interfaces/{id}"
        answers = [await ada.http.get(path), await ada.http.delete(path)]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "not_found")] * 2
    unknown = await attach(ada, vm, unknown_id())
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_reference")
    assert pointers(unknown.json()) == {"#/network_id"}
    assert await count(engine, Operation) == 0


async def test_interfaces_come_oldest_first_and_by_cursor(ada: Person, engine: AsyncEngine) -> None:
    vm = await fill_edge(ada, engine)
    await fill_edge_of_another(engine, ada)
    path, parameters = f"/vms/{vm.id}/interfaces", {"page_size": "5"}
    found: list[dict[str, Any]] = []
    while True:
        page = (await ada.http.get(path, params=parameters)).json()
        assert page["total"] == IN_EDGE
        found += page["items"]
        if not page["next_cursor"]:
            break
        parameters["cursor"] = page["next_cursor"]
    wanted = [row for row in await rows_of(engine, Interface) if row.vm_id == vm.id]
    wanted.sort(key=lambda row: (row.created_at, row.id))
    assert [one["id"] for one in found] == [str(row.id) for row in wanted]


async def fill_edge_of_another(engine: AsyncEngine, ada: Person) -> None:
    """An interface that no other VM's list may show."""
    async with engine.begin() as tx:
        await add_interface(tx, await add_vm(tx, ada.user))


@pytest.mark.parametrize(
    ("asked", "given"),
    [({}, [PRIVATE]), ({"network_ids": []}, []), ({"network_ids": [EDGE, PRIVATE, BACKEND]}, [EDGE, PRIVATE, BACKEND])],
    ids=["default", "none", "several"],
)
async def test_a_new_vm_has_an_address_in_each_of_its_networks(
    ada: Person, asked: dict[str, Any], given: list[str]
) -> None:
    vm = await ada.create(**asked)
    found = await interfaces_of(ada, vm["id"])
    assert sorted(one["network_id"] for one in found) == sorted(given)
    assert all(map(is_legal, found))
    assert {(one["status"], one["operation_id"]) for one in found} <= {("ATTACHING", vm["operation_id"])}
    for network, row in ROWS.items():
        hosts = IPv4Network(row["cidr"]).num_addresses - 3
        assert await free_in(ada, network) == hosts - (network in given)


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "the key"}], ids=["plain", "with key"])
async def test_a_vm_whose_network_is_full_is_not_made(
    ada: Person, engine: AsyncEngine, headers: dict[str, str]
) -> None:
    full = await fill_edge(ada, engine)
    body = {"name": "x", "flavor_id": FLAVOR, "network_ids": [PRIVATE, EDGE]}
    answer = await ada.http.post("/vms", json=body, headers=headers)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "no_free_address")
    assert "edge" in problem["detail"]
    assert [vm.id for vm in await rows_of(engine, VM)] == [full.id]
    counts = [await count(engine, model) for model in (Operation, Interface, IdempotencyKey)]
    assert counts == [0, IN_EDGE, 0]


async def test_the_last_address_is_found_and_its_number_counts_down(ada: Person, engine: AsyncEngine) -> None:
    await fill_edge(ada, engine, but=1)
    vm = await ada.create(network_ids=[EDGE])
    assert [one["ip_address"] for one in await interfaces_of(ada, vm["id"])] == ["10.2.0.14"]
    assert await free_in(ada, EDGE) == 0


async def test_a_vm_that_goes_keeps_its_addresses_until_it_is_gone(ada: Person) -> None:
    vm = await ada.create(network_ids=[EDGE])
    await ada.http.delete(f"/vms/{vm['id']}")
    assert [one["status"] for one in await interfaces_of(ada, vm["id"])] == ["DETACHING"]
    assert await free_in(ada, EDGE) == IN_EDGE - 1


async def test_of_twenty_vms_at_once_as_many_are_made_as_there_are_addresses(ada: Person, engine: AsyncEngine) -> None:
    body = {"name": "x", "flavor_id": FLAVOR, "network_ids": [EDGE]}
    keys: list[dict[str, str]] = [{}, {"Idempotency-Key": "the key"}]
    calls = [ada.http.post("/vms", json=body, headers=keys[n % 20 == 19]) for n in range(20)]
    answers = await asyncio.gather(*calls)
    assert sorted(answer.status_code for answer in answers) == [202] * IN_EDGE + [409] * 7
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"no_free_address"}
    found = await rows_of(engine, Interface)
    assert {row.ip_address for row in found} == {f"10.2.0.{place}" for place in range(2, 15)}
    assert {row.vm_id for row in found} == {UUID(one.json()["id"]) for one in answers if one.status_code == 202}
    assert await count(engine, VM) == await count(engine, Operation) == IN_EDGE


def always(address: str) -> ColumnElement[str]:
    """A draw that finds the same address again and again, free or not, as if somebody took it after the look."""
    return literal_column(f"CASE WHEN random() < 0.5 THEN '{address}' END", Text())


async def test_an_address_that_somebody_else_gets_first_is_chosen_again(
    ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again until the draw, which is right one time in two, says that it does not know."""
    vm = await fill_edge(ada, engine, but=8)
    monkeypatch.setattr(addresses, "likely_free", always("10.2.0.2"))
    answers = [await attach(ada, vm, **{"Idempotency-Key": f"key {n}"} if n % 2 else {}) for n in range(8)]
    assert {answer.status_code for answer in answers} == {202}
    assert {answer.json()["ip_address"] for answer in answers} == {f"10.2.0.{place}" for place in range(7, 15)}
    assert (await read_vm(engine, vm.id)).attaching == await count(engine, Operation) == 8
    assert await count(engine, IdempotencyKey) == 4


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "the key"}], ids=["plain", "with key"])
async def test_a_create_whose_address_somebody_else_gets_first_is_done_again(
    ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """The first two MAC addresses that are drawn are taken."""
    vm = await fill_edge(ada, engine, but=8)
    (taken, *_) = [row.mac_address for row in await rows_of(engine, Interface)]
    draws = iter([taken, taken, "fa:16:3e:00:00:01"])
    monkeypatch.setattr(addresses, "new_mac_address", lambda: next(draws))
    body = {"name": "x", "flavor_id": FLAVOR, "network_ids": [EDGE]}
    answer = await ada.http.post("/vms", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    (interface,) = await interfaces_of(ada, answer.json()["id"])
    assert interface["mac_address"] == "fa:16:3e:00:00:01"
    assert next(draws, None) is None
    assert {row.id for row in await rows_of(engine, VM)} == {vm.id, UUID(answer.json()["id"])}
    assert (await count(engine, Operation), await count(engine, IdempotencyKey)) == (1, len(headers))


async def test_the_interfaces_of_a_deleted_vm_are_none(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    await set_vm(engine, vm, status=Status.DELETED)
    answer = await ada.http.get(f"/vms/{vm.id}/interfaces")
    assert (answer.status_code, answer.json()["total"]) == (200, 0)
    assert (await attach(ada, vm)).json()["current_status"] == "DELETED"
