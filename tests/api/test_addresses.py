"""Every interface gets a valid address of its own, also in a nearly full network and when requests race."""

import asyncio
from ipaddress import IPv4Network
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import ColumnElement, Text, literal_column
from sqlalchemy.ext.asyncio import AsyncEngine

from api.web.idempotency import ATTEMPTS
from domain.data import addresses
from domain.data.accounts import IdempotencyKey
from domain.data.models import VM, Interface, Operation
from tests.api.conftest import FLAVOR, Person, count
from tests.api.networks import (
    BACKEND,
    EDGE,
    EDGE_SIZE,
    NETWORKS_BY_ID,
    PRIVATE,
    attach,
    fill_edge,
    free_in,
    interfaces_of,
    is_valid,
)
from tests.api.vm_resources import rows_of, vm_of
from tests.support.rows import read_vm


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
    """A replacement for `addresses.likely_free`: at random this address, whether free or taken, or NULL (none found).

    A taken address stands for one that another request takes between the draw and the insert.
    """
    return literal_column(f"CASE WHEN random() < 0.5 THEN '{address}' END", Text())


async def test_an_attach_is_repeated_until_its_address_is_still_free_at_the_insert(
    ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About half of the draws find nothing. Then the complete search finds an address that is really free."""
    vm = await fill_edge(ada, engine, free=8)
    monkeypatch.setattr(addresses, "likely_free", draw_of("10.2.0.2"))
    answers = [await attach(ada, vm, **{"Idempotency-Key": f"key {n}"} if n % 2 else {}) for n in range(8)]
    assert {answer.status_code for answer in answers} == {202}
    assert {answer.json()["ip_address"] for answer in answers} == {f"10.2.0.{host}" for host in range(7, 15)}
    assert (await read_vm(engine, vm.id)).attaching == await count(engine, Operation) == 8
    assert await count(engine, IdempotencyKey) == 4


async def test_a_request_whose_address_is_always_taken_ends(
    ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill_edge(ada, engine, free=8)
    taken = str((await rows_of(engine, Interface))[0].mac_address)
    drawn = []

    def draw() -> str:
        drawn.append(taken)
        return taken

    monkeypatch.setattr(addresses, "new_mac_address", draw)
    answer = await ada.http.post("/vms", json={"name": "x", "flavor_id": FLAVOR, "network_ids": [EDGE]})
    assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
    assert answer.headers["retry-after"] == "1"
    assert (len(drawn), await count(engine, Operation)) == (ATTEMPTS, 0)


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
