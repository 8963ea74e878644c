"""Addresses that a request asks for: of a new VM's interfaces, and of one that is attached later."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import addresses
from domain.data.models import Interface, Network, Operation
from tests.api.conftest import FLAVOR, Person, count, operations_of, pointers
from tests.api.networks import BACKEND, EDGE, PRIVATE, attach, interfaces_of, is_valid
from tests.api.test_addresses import draw_of
from tests.api.vm_resources import rows_of, vm_of

UNUSABLE = [
    ("10.2.1.5", "is not in 10.2.0.0/28"),
    ("::1", "is not in 10.2.0.0/28"),
    ("10.2.0.1", "is the gateway's"),
    ("10.2.0.0", "is the network's own"),
    ("10.2.0.15", "is the broadcast address"),
]


async def create(ada: Person, *interfaces: dict[str, Any], **headers: str) -> Any:
    """Ask for a VM with these interfaces."""
    body = {"name": "web", "flavor_id": FLAVOR, "interfaces": interfaces}
    return await ada.http.post("/vms", json=body, headers=headers)


def at(network: str, ip_address: str) -> dict[str, str]:
    """An interface with this address in the network."""
    return {"network_id": network, "ip_address": ip_address}


async def test_a_new_vm_gets_the_addresses_it_asks_for_and_others_where_it_does_not(
    ada: Person, engine: AsyncEngine
) -> None:
    answer = await create(ada, at(EDGE, "10.2.0.9"), {"network_id": PRIVATE}, at(BACKEND, "10.1.0.200"))
    assert answer.status_code == 202, answer.text
    shown = await interfaces_of(ada, answer.json()["id"])
    assert [interface["network_id"] for interface in shown] == [EDGE, PRIVATE, BACKEND]
    assert (shown[0]["ip_address"], shown[2]["ip_address"]) == ("10.2.0.9", "10.1.0.200")
    assert all(map(is_valid, shown))
    (operation,) = await operations_of(engine, answer.json()["id"])
    assert operation.input["network_ids"] == [EDGE, PRIVATE, BACKEND]
    assert operation.input["ip_addresses"] == {EDGE: "10.2.0.9", BACKEND: "10.1.0.200"}


async def test_interfaces_may_be_none_or_have_no_address_of_their_own(ada: Person) -> None:
    assert await interfaces_of(ada, (await create(ada)).json()["id"]) == []
    answer = await create(ada, {"network_id": EDGE, "ip_address": None})
    (interface,) = await interfaces_of(ada, answer.json()["id"])
    assert is_valid(interface)


async def test_an_attached_interface_gets_the_address_it_asks_for(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    answer = await ada.http.post(f"/vms/{vm.id}/interfaces", json=at(EDGE, "10.2.0.9"))
    assert (answer.status_code, answer.json()["ip_address"]) == (202, "10.2.0.9")
    assert is_valid(answer.json())
    (operation,) = await operations_of(engine, vm.id)
    assert operation.input | {"ip_address": "10.2.0.9", "wanted_address": "10.2.0.9"} == operation.input


@pytest.mark.parametrize(("address", "reason"), UNUSABLE)
async def test_an_address_that_no_vm_can_have_is_refused(
    ada: Person, engine: AsyncEngine, address: str, reason: str
) -> None:
    vm = await vm_of(ada, engine)
    answers = {
        "#/interfaces/1/ip_address": await create(ada, {"network_id": PRIVATE}, at(EDGE, address)),
        "#/ip_address": await ada.http.post(f"/vms/{vm.id}/interfaces", json=at(EDGE, address)),
    }
    for pointer, answer in answers.items():
        problem = answer.json()
        assert (answer.status_code, problem["code"], pointers(problem)) == (422, "invalid_address", {pointer})
        assert problem["errors"][0]["detail"] == f"No VM can have {address} in network edge: it {reason}."
    assert await count(engine, Operation) == 0


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "the key"}], ids=["plain", "with key"])
async def test_an_address_that_an_interface_has_is_refused(
    ada: Person, engine: AsyncEngine, headers: dict[str, str]
) -> None:
    await create(ada, at(EDGE, "10.2.0.9"))
    vm = await vm_of(ada, engine)
    answers = {
        "#/interfaces/0/ip_address": await create(ada, at(EDGE, "10.2.0.9"), **headers),
        "#/ip_address": await ada.http.post(f"/vms/{vm.id}/interfaces", json=at(EDGE, "10.2.0.9"), headers=headers),
    }
    for pointer, answer in answers.items():
        problem = answer.json()
        assert (answer.status_code, problem["code"], pointers(problem)) == (409, "address_in_use", {pointer})
    assert await count(engine, Operation) == 1
    assert (await create(ada, at(EDGE, "10.2.0.10"))).status_code == 202


async def test_the_same_address_in_another_network_is_another_address(ada: Person, engine: AsyncEngine) -> None:
    twin = {"id": uuid4(), "name": "twin", "cidr": "10.2.0.0/28", "gateway": "10.2.0.14", "is_default": False}
    async with engine.begin() as tx:
        await tx.execute(insert(Network).values(twin))
    await create(ada, at(EDGE, "10.2.0.8"))
    for of_edge, of_twin in (("10.2.0.9", "10.2.0.9"), ("10.2.0.10", "10.2.0.8")):
        answer = await create(ada, at(EDGE, of_edge), at(str(twin["id"]), of_twin))
        assert answer.status_code == 202, answer.text


async def test_of_twenty_requests_for_one_address_one_succeeds(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    creates = [create(ada, at(EDGE, "10.2.0.9"), **({"Idempotency-Key": f"{n}"} if n % 2 else {})) for n in range(10)]
    attaches = [ada.http.post(f"/vms/{vm.id}/interfaces", json=at(EDGE, "10.2.0.9")) for _ in range(10)]
    answers = await asyncio.gather(*creates, *attaches)
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 19
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"address_in_use"}
    assert [row.ip_address for row in await rows_of(engine, Interface)] == ["10.2.0.9"]


async def test_a_request_without_a_wish_avoids_an_address_that_another_one_asks_for(
    ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "likely_free", draw_of("10.2.0.9"))
    vm = await vm_of(ada, engine)
    answers = await asyncio.gather(create(ada, at(EDGE, "10.2.0.9")), *(attach(ada, vm) for _ in range(8)))
    assert {answer.status_code for answer in answers[1:]} == {202}
    found = [row.ip_address for row in await rows_of(engine, Interface)]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("cidr", "address", "kept"),
    [
        ("2001:db8::/64", "2001:DB8:0::A", "2001:db8::a"),
        ("2001:db8::/64", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8::ffff:ffff:ffff:ffff"),
        ("10.9.0.0/31", "10.9.0.0", "10.9.0.0"),
        ("10.9.0.0/24", "10.9.0.1", "10.9.0.1"),
    ],
)
async def test_where_the_cloud_chooses_addresses_a_wanted_one_is_kept_in_its_usual_form(
    ada: Person, engine: AsyncEngine, cidr: str, address: str, kept: str
) -> None:
    """The MAC address is still the cloud's choice."""
    row = {"id": uuid4(), "name": "tenant", "cidr": cidr, "gateway": None, "is_default": False, "allocates": False}
    async with engine.begin() as tx:
        await tx.execute(insert(Network).values(row))
    answer = await create(ada, at(str(row["id"]), address))
    assert answer.status_code == 202, answer.text
    (interface,) = await interfaces_of(ada, answer.json()["id"])
    assert (interface["ip_address"], interface["mac_address"]) == (kept, None)


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({"interfaces": [at(EDGE, "10.2.0")]}, "#/interfaces/0/ip_address", "wrong_format"),
        ({"interfaces": [at(EDGE, "fe80::1%eth0")]}, "#/interfaces/0/ip_address", "wrong_format"),
        ({"interfaces": [at(EDGE, "10.2.0.9/28")]}, "#/interfaces/0/ip_address", "wrong_format"),
        ({"interfaces": [at(EDGE, "1" * 46)]}, "#/interfaces/0/ip_address", "too_long"),
        ({"interfaces": [{"ip_address": "10.2.0.9"}]}, "#/interfaces/0/network_id", "required"),
        ({"interfaces": [{"network_id": EDGE, "name": "x"}]}, "#/interfaces/0/name", "unknown_field"),
        ({"interfaces": [{"network_id": EDGE}, at(EDGE, "10.2.0.9")]}, "#/interfaces", "repeated_items"),
        ({"interfaces": [{"network_id": EDGE}] * 65}, "#/interfaces", "too_long"),
        ({"interfaces": [], "network_ids": []}, "#/interfaces", "conflicting_fields"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_an_invalid_interface_is_named(visitor: Person, body: dict[str, Any], pointer: str, code: str) -> None:
    answer = await visitor.http.post("/vms", json={"name": "web", "flavor_id": FLAVOR} | body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "validation_failed")
    assert {(error["pointer"], error["code"]) for error in problem["errors"]} == {(pointer, code)}


async def test_a_network_that_does_not_exist_is_named_where_the_body_has_it(ada: Person) -> None:
    problem = (await create(ada, {"network_id": EDGE}, at(str(uuid4()), "10.2.0.9"))).json()
    assert (problem["code"], pointers(problem)) == ("unknown_reference", {"#/interfaces/1/network_id"})
