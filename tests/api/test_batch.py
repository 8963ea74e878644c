"""POST /vms/batch: a hundred VMs in one transaction, or none."""

import asyncio
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.accounts import IdempotencyKey
from domain.data.guests import UserData
from domain.data.models import VM, Interface, Network, Operation
from domain.rules import cloud_init
from tests.api.conftest import FLAVOR, Person, count, operations_of, pointers
from tests.api.networks import BACKEND, EDGE, EDGE_SIZE, PRIVATE, fill_edge, interfaces_of, is_valid
from tests.api.vm_resources import NO_ID, rows_of, unknown_id
from tests.support.rows import FLAVOR_IDS
from tests.support.ssh_keys import new_key
from tests.support.statements import statements_of_requests

TINY = str(FLAVOR_IDS["m1.tiny"])


def batch(*vms: dict[str, Any]) -> dict[str, Any]:
    """The body for these VMs; each gets a name and a flavor if it has none."""
    return {
        "vms": [
            {"name": f"web-{n}"} | ({} if "flavor_id" in vm else {"flavor": "m1.small"}) | vm
            for n, vm in enumerate(vms)
        ]
    }


async def post(ada: Person, *vms: dict[str, Any], **headers: str) -> httpx.Response:
    return await ada.http.post("/vms/batch", json=batch(*vms), headers=headers)


async def refused(engine: AsyncEngine, answer: httpx.Response, status: int, code: str) -> dict[str, str]:
    """Check that the answer is this problem and that nothing was made; returns the codes by pointer."""
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    assert [await count(engine, model) for model in (VM, Operation, IdempotencyKey)] == [0, 0, 0]
    return {error["pointer"]: error["code"] for error in problem.get("errors", [])}


async def test_all_vms_are_made_in_the_order_of_the_request(ada: Person, engine: AsyncEngine) -> None:
    answer = await post(
        ada, {"labels": {"n": "0"}}, {"flavor_id": TINY, "networks": ["edge", "private"]}, {"networks": []}
    )
    items = answer.json()["items"]
    assert answer.status_code == 202, answer.text
    assert (answer.headers["Retry-After"], "Operation-Location" in answer.headers) == ("1", False)
    assert [vm["name"] for vm in items] == ["web-0", "web-1", "web-2"]
    assert [vm["flavor_id"] for vm in items] == [FLAVOR, TINY, FLAVOR]
    assert items[0]["labels"] == {"n": "0"}
    assert {vm["status"] for vm in items} == {"BUILDING"}
    networks = [[each["network_id"] for each in await interfaces_of(ada, vm["id"])] for vm in items]
    assert networks == [[PRIVATE], [EDGE, PRIVATE], []]
    for vm in items:
        assert (await ada.http.get(f"/vms/{vm['id']}")).json() == vm
        (operation,) = await operations_of(engine, vm["id"])
        assert (str(operation.id), operation.workflow_id) == (vm["operation_id"], f"create-{vm['id']}-{operation.id}")
        assert operation.input["name"] == vm["name"]


async def test_a_hundred_vms_get_different_addresses(ada: Person, engine: AsyncEngine) -> None:
    answer = await post(ada, *[{"networks": ["private", "backend"]}] * 100)
    assert answer.status_code == 202, answer.text
    rows = await rows_of(engine, Interface)
    assert len({(row.network_id, row.ip_address) for row in rows}) == len({row.mac_address for row in rows}) == 200
    for vm in answer.json()["items"][::33]:
        assert all(map(is_valid, await interfaces_of(ada, vm["id"])))


async def test_a_hundred_vms_cost_as_many_statements_as_two(app: FastAPI, ada: Person, engine: AsyncEngine) -> None:
    line = new_key("laptop")
    assert (await ada.http.post("/ssh-keys", json={"name": "laptop", "public_key": line})).status_code == 201
    rich = {"ssh_keys": ["laptop"], "user_data": "#!/bin/sh\n", "security_groups": ["web"], "availability_zone": "nova"}
    counts = []
    for size in (2, 100):
        with statements_of_requests(app.state.vmapi.engine) as seen:
            answer = await post(ada, *[rich] * size, **{"Idempotency-Key": f"of {size}"})
        assert answer.status_code == 202, answer.text
        counts.append(len(seen))
    assert await count(engine, UserData) == 102
    assert 4 <= counts[0] <= counts[1] <= counts[0] + 1, seen  # a few of a hundred MAC addresses may be drawn again


async def test_what_a_batch_makes_of_one_key_is_bounded_as_its_body_is(
    ada: Person, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes name keys that each VM gets whole; a trial and a refusal write them, too, and take them back."""
    await ada.http.post("/ssh-keys", json={"name": "laptop", "public_key": new_key()})
    vm = {"ssh_keys": ["laptop"]}
    assert (await post(ada, vm)).status_code == 202
    async with engine.connect() as connection:
        size = await connection.scalar(select(func.octet_length(UserData.content)))
    monkeypatch.setattr(cloud_init, "LARGEST_TOGETHER", 2 * (size or 0))
    assert (await post(ada, vm, vm)).status_code == 202
    refused = await post(ada, vm, vm, vm)
    assert (refused.status_code, refused.json()["code"]) == (422, "user_data_too_large")
    assert pointers(refused.json()) == {"#/vms"}
    assert await count(engine, VM) == 3


async def test_an_error_points_at_its_vm_and_nothing_is_made(ada: Person, engine: AsyncEngine) -> None:
    answer = await post(
        ada, {}, {"flavor_id": unknown_id()}, {"image": "windows"}, {"network_ids": [EDGE, unknown_id()]}
    )
    found = await refused(engine, answer, 422, "unknown_reference")
    assert found == dict.fromkeys(("#/vms/1/flavor_id", "#/vms/2/image", "#/vms/3/network_ids/1"), "unknown_reference")


@pytest.mark.parametrize(
    ("vm", "code", "place"),
    [
        ({"flavor_id": TINY, "image": "debian-12"}, "flavor_too_small", "flavor_id"),
        ({"security_groups": ["web", "none"]}, "unknown_reference", "security_groups/1"),
        ({"availability_zone": "none"}, "unknown_reference", "availability_zone"),
        ({"ssh_keys": ["none"]}, "unknown_reference", "ssh_keys/0"),
        ({"snapshot_id": NO_ID}, "unknown_reference", "snapshot_id"),
        ({"boot_volume": {"volume_id": NO_ID}}, "unknown_reference", "boot_volume/volume_id"),
        ({"volumes": [{"volume_id": NO_ID}]}, "unknown_reference", "volumes/0/volume_id"),
        ({"user_data": "x" * 49_150}, "user_data_too_large", "user_data"),
        ({"interfaces": [{"network": "edge", "ip_address": "10.2.0.1"}]}, "invalid_address", "interfaces/0/ip_address"),
        ({"networks": ["edge", EDGE]}, "validation_failed", "networks/1"),
        ({"color": "red"}, "validation_failed", "color"),
        ({"name": ""}, "validation_failed", "name"),
        ({"labels": {"-a": "b"}}, "validation_failed", "labels/-a"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_every_kind_of_refusal_points_into_its_vm(
    ada: Person, engine: AsyncEngine, vm: dict[str, Any], code: str, place: str
) -> None:
    answer = await post(ada, {}, vm, **{"Idempotency-Key": "the key"})
    assert set(await refused(engine, answer, 422, code)) == {f"#/vms/1/{place}"}


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({}, "#/vms", "required"),
        ({"vms": []}, "#/vms", "too_short"),
        ({"vms": [{"name": "x", "flavor": "m1.tiny"}] * 101}, "#/vms", "too_long"),
        ({"vms": [{}] * 5000}, "#/vms", "too_long"),
        ({"vms": {}}, "#/vms", "wrong_type"),
        ({"vms": [7]}, "#/vms/0", "wrong_type"),
        ({"vms": [{"name": "x", "flavor": "m1.tiny"}], "count": 2}, "#/count", "unknown_field"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_batch_has_one_to_a_hundred_vms(
    ada: Person, engine: AsyncEngine, body: dict[str, Any], pointer: str, code: str
) -> None:
    answer = await ada.http.post("/vms/batch", json=body)
    assert await refused(engine, answer, 422, "validation_failed") == {pointer: code}


async def test_two_vms_of_a_batch_cannot_ask_for_one_address(ada: Person, engine: AsyncEngine) -> None:
    by_name, by_id = {"network": "edge", "ip_address": "10.2.0.9"}, {"network_id": EDGE, "ip_address": "10.2.0.9"}
    answer = await post(ada, {"interfaces": [by_name]}, {}, {"interfaces": [by_id]})
    assert await refused(engine, answer, 422, "validation_failed") == {
        "#/vms/2/interfaces/0/ip_address": "repeated_items"
    }


async def test_no_vm_draws_an_address_that_another_asks_for(ada: Person, engine: AsyncEngine) -> None:
    """All addresses of a small network are needed, so each drawn one that is asked for would clash."""
    asked = [{"interfaces": [{"network": "edge", "ip_address": f"10.2.0.{host}"}]} for host in (3, 7, 14)]
    answer = await post(ada, *[{"networks": ["edge"]}] * (EDGE_SIZE - 3), *asked)
    assert answer.status_code == 202, answer.text
    rows = await rows_of(engine, Interface)
    assert {row.ip_address for row in rows} == {f"10.2.0.{host}" for host in range(2, 2 + EDGE_SIZE)}


async def test_a_network_that_is_too_full_for_the_batch_refuses_all_of_it(ada: Person, engine: AsyncEngine) -> None:
    vm = await fill_edge(ada, engine, free=3)
    answer = await post(ada, *[{"networks": ["edge"]}] * 4)
    assert (answer.status_code, answer.json()["code"]) == (409, "no_free_address")
    assert [row.id for row in await rows_of(engine, VM)] == [vm.id]
    assert (await post(ada, *[{"networks": ["edge"]}] * 3)).status_code == 202


async def test_concurrent_batches_share_a_network_without_a_clash(
    ada: Person, bob: Person, engine: AsyncEngine
) -> None:
    """Each draws addresses that another may take first, and then begins again."""
    answers = await asyncio.gather(
        *(
            post(user, *[{"networks": ["backend"]}] * 15, **headers)
            for user in (ada, bob)
            for headers in ({}, {"Idempotency-Key": "k"})
        ),
        *(ada.create(network_ids=[BACKEND]) for _ in range(4)),
    )
    assert [answer.status_code for answer in answers[:4] if isinstance(answer, httpx.Response)] == [202] * 4
    rows = await rows_of(engine, Interface)
    assert max(Counter(row.ip_address for row in rows).values()) == 1
    assert len(rows) == 64


async def test_where_the_cloud_chooses_addresses_they_are_null(ada: Person, engine: AsyncEngine) -> None:
    row = {
        "id": uuid4(),
        "name": "tenant",
        "cidr": "10.7.0.0/24",
        "gateway": None,
        "is_default": False,
        "allocates": False,
    }
    async with engine.begin() as tx:
        await tx.execute(insert(Network).values(row))
    answer = await post(ada, *[{"networks": ["tenant"]}] * 3)
    assert answer.status_code == 202, answer.text
    assert {(each.ip_address, each.mac_address) for each in await rows_of(engine, Interface)} == {(None, None)}


async def test_a_key_covers_the_whole_batch(ada: Person, engine: AsyncEngine) -> None:
    first = await post(ada, {}, {}, **{"Idempotency-Key": "the key"})
    again = await post(ada, {}, {}, **{"Idempotency-Key": "the key"})
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await post(ada, {}, {"labels": {"a": "b"}}, **{"Idempotency-Key": "the key"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await count(engine, VM) == 2


async def test_each_vm_gets_its_own_user_data(ada: Person, engine: AsyncEngine) -> None:
    answer = await post(ada, {"user_data": "#!/bin/sh\nfirst"}, {}, {"user_data": "#!/bin/sh\nthird"})
    items = answer.json()["items"]
    async with engine.connect() as connection:
        rows = (await connection.execute(select(UserData.vm_id, UserData.content))).all()
    assert {row.vm_id: row.content for row in rows} == {
        UUID(items[0]["id"]): b"#!/bin/sh\nfirst",
        UUID(items[2]["id"]): b"#!/bin/sh\nthird",
    }


async def test_the_errors_of_all_vms_are_shown_together(ada: Person, engine: AsyncEngine) -> None:
    wrong = batch({"labels": {"-a": "x"}}, {}, {"user_data": 1, "image": 2})
    answer = await ada.http.post("/vms/batch", json={"vms": [*wrong["vms"], 3]})
    found = await refused(engine, answer, 422, "validation_failed")
    assert set(found) == {"#/vms/0/labels/-a", "#/vms/2/image", "#/vms/2/user_data", "#/vms/3"}


async def test_errors_are_at_most_twenty(ada: Person, engine: AsyncEngine) -> None:
    answer = await post(ada, *[{"image": "windows"}] * 100)
    assert len(await refused(engine, answer, 422, "unknown_reference")) == 20
    answer = await post(ada, *[{"labels": {f"-{n}": "x" for n in range(64)}}] * 100)
    assert len(pointers(answer.json())) == 20
