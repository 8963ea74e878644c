"""Names instead of ids: of the flavor, image and networks of a new VM, of a resize, and of an interface."""

from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM, Flavor, Image, Network, Operation
from tests.api.conftest import FLAVOR, Person, count, operations_of, pointers
from tests.api.networks import BACKEND, EDGE, PRIVATE, interfaces_of, is_valid
from tests.api.vm_resources import check_refused_and_unchanged, vm_of
from tests.support.rows import FLAVOR_IDS, IMAGE_IDS

MEDIUM, TINY = str(FLAVOR_IDS["m1.medium"]), str(FLAVOR_IDS["m1.tiny"])
DEBIAN = str(IMAGE_IDS["debian-12"])
NO_INTERFACES: dict[str, Any] = {"networks": []}


async def create(ada: Person, **body: Any) -> httpx.Response:
    return await ada.http.post("/vms", json={"name": "web-1"} | body)


async def add_twin(engine: AsyncEngine, model: type[Any], name: str, **values: Any) -> str:
    """Another row of the catalogue with this name; returns its id."""
    row: dict[str, Any] = {"id": uuid4(), "name": name} | values
    if model is Flavor:
        row = {"vcpus": 1, "ram_mb": 512, "disk_gb": 20} | row
    elif model is Image:
        row = {"size_gb": 1, "is_default": False} | row
    else:
        row = {"cidr": "10.9.0.0/24", "gateway": "10.9.0.1", "is_default": False} | row
    async with engine.begin() as tx:
        await tx.execute(insert(model).values(row))
    return str(row["id"])


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "the key"}], ids=["plain", "with key"])
async def test_a_vm_is_created_with_names(ada: Person, engine: AsyncEngine, headers: dict[str, str]) -> None:
    body = {"name": "web-1", "flavor": "m1.medium", "image": "debian-12", "networks": ["edge", "private"]}
    answer = await ada.http.post("/vms", json=body, headers=headers)
    vm = answer.json()
    assert answer.status_code == 202, answer.text
    assert (vm["flavor_id"], vm["image_id"]) == (MEDIUM, DEBIAN)
    shown = await interfaces_of(ada, vm["id"])
    assert [interface["network_id"] for interface in shown] == [EDGE, PRIVATE]
    assert all(map(is_valid, shown))
    (operation,) = await operations_of(engine, vm["id"])
    assert operation.input == {
        "name": "web-1",
        "flavor_id": MEDIUM,
        "image_id": DEBIAN,
        "network_ids": [EDGE, PRIVATE],
    }


async def test_where_a_name_goes_an_id_goes_too(ada: Person) -> None:
    answer = await create(ada, flavor=MEDIUM.upper(), image=DEBIAN, networks=["edge", BACKEND])
    vm = answer.json()
    assert (answer.status_code, vm["flavor_id"], vm["image_id"]) == (202, MEDIUM, DEBIAN)
    assert [each["network_id"] for each in await interfaces_of(ada, vm["id"])] == [EDGE, BACKEND]


async def test_an_id_comes_before_a_name_that_looks_like_it(ada: Person, engine: AsyncEngine) -> None:
    await add_twin(engine, Flavor, MEDIUM)
    assert (await create(ada, flavor=MEDIUM)).json()["flavor_id"] == MEDIUM


async def test_names_and_ids_may_be_mixed_and_defaults_stay(ada: Person) -> None:
    vm = (await create(ada, flavor="m1.medium", image_id=DEBIAN)).json()
    assert (vm["flavor_id"], vm["image_id"]) == (MEDIUM, DEBIAN)
    assert [each["network_id"] for each in await interfaces_of(ada, vm["id"])] == [PRIVATE]
    vm = (await create(ada, flavor_id=MEDIUM, networks=[])).json()
    assert (vm["image_id"], await interfaces_of(ada, vm["id"])) == (str(IMAGE_IDS["cirros-0.6.3"]), [])


async def test_interfaces_name_their_networks_too(ada: Person) -> None:
    wanted = [{"network": "edge", "ip_address": "10.2.0.9"}, {"network_id": BACKEND}]
    answer = await create(ada, flavor="m1.tiny", interfaces=wanted)
    assert answer.status_code == 202, answer.text
    shown = await interfaces_of(ada, answer.json()["id"])
    assert [(each["network_id"], each["ip_address"]) for each in shown[:1]] == [(EDGE, "10.2.0.9")]
    assert shown[1]["network_id"] == BACKEND


@pytest.mark.parametrize(
    ("model", "field", "name"),
    [(Flavor, "flavor", "m1.small"), (Image, "image", "debian-12"), (Network, "networks/1", "edge")],
)
async def test_a_name_that_several_things_have_is_refused_with_their_ids(
    ada: Person, engine: AsyncEngine, model: type[Any], field: str, name: str
) -> None:
    twin = await add_twin(engine, model, name)
    body: dict[str, Any] = {"flavor": "m1.medium", "image": "cirros-0.6.3", "networks": ["private", "backend"]}
    body |= {"networks": ["private", name]} if model is Network else {field: name}
    problem = (await create(ada, **body)).json()
    assert (problem["status"], problem["code"], pointers(problem)) == (422, "ambiguous_name", {f"#/{field}"})
    (error,) = problem["errors"]
    assert (error["code"], twin in error["candidates"], len(error["candidates"])) == ("ambiguous_name", True, 2)
    assert name in error["detail"]
    assert (await count(engine, VM), await count(engine, Operation)) == (0, 0)
    for id in error["candidates"]:
        chosen: dict[str, Any] = {"networks": [id]} if model is Network else {field: id}
        assert (await create(ada, **body | chosen)).status_code == 202


async def test_what_one_cannot_ask_for_makes_no_name_ambiguous(ada: Person, engine: AsyncEngine) -> None:
    await add_twin(engine, Flavor, "m1.medium", is_available=False)
    assert (await create(ada, flavor="m1.medium")).json()["flavor_id"] == MEDIUM
    async with engine.begin() as tx:
        await tx.execute(update(Flavor).where(Flavor.name == "m1.medium").values(is_available=False))
    problem = (await create(ada, flavor="m1.medium")).json()
    assert (problem["code"], pointers(problem)) == ("unknown_reference", {"#/flavor"})


async def test_at_most_twenty_ids_are_shown_for_a_name(ada: Person, engine: AsyncEngine) -> None:
    for _ in range(21):
        await add_twin(engine, Image, "nightly")
    (error,) = (await create(ada, flavor="m1.medium", image="nightly")).json()["errors"]
    assert (len(error["candidates"]), error["detail"].partition(" ")[0]) == (20, "21")


async def test_all_names_that_do_not_exist_are_named_at_once(ada: Person, engine: AsyncEngine) -> None:
    await add_twin(engine, Network, "edge")
    body = {"flavor": "m9.huge", "image": "windows", "networks": ["private", "edge", "dmz"]}
    problem = (await create(ada, **body)).json()
    assert problem["code"] == "unknown_reference"
    codes = {error["pointer"]: error["code"] for error in problem["errors"]}
    unknown = dict.fromkeys(("#/flavor", "#/image", "#/networks/2"), "unknown_reference")
    assert codes == unknown | {"#/networks/1": "ambiguous_name"}
    assert problem["errors"][0]["detail"] == "There is no such flavor: m9.huge."


@pytest.mark.parametrize("networks", [["edge", EDGE], [EDGE, "edge"]])
async def test_one_network_cannot_be_named_twice(ada: Person, engine: AsyncEngine, networks: list[str]) -> None:
    problem = (await create(ada, flavor="m1.tiny", networks=networks)).json()
    assert (problem["status"], problem["code"], pointers(problem)) == (422, "validation_failed", {"#/networks/1"})
    assert problem["errors"][0]["code"] == "repeated_items"
    wanted = [{"network": networks[0]}, {"network": networks[1]}]
    problem = (await create(ada, flavor="m1.tiny", interfaces=wanted)).json()
    assert (problem["code"], pointers(problem)) == ("validation_failed", {"#/interfaces/1/network"})
    assert await count(engine, VM) == 0


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        ({}, "#/flavor_id", "required"),
        ({"flavor": None, "flavor_id": None}, "#/flavor_id", "required"),
        ({"flavor": ""}, "#/flavor", "too_short"),
        ({"flavor": 7}, "#/flavor", "wrong_type"),
        ({"flavor": "x" * 256}, "#/flavor", "too_long"),
        ({"flavor": "m1.tiny", "flavor_id": TINY}, "#/flavor_id", "conflicting_fields"),
        ({"flavor": "m1.tiny", "image": "debian-12", "image_id": DEBIAN}, "#/image", "conflicting_fields"),
        ({"flavor": "m1.tiny", "image": "debian-12", "snapshot_id": TINY}, "#/snapshot_id", "conflicting_fields"),
        ({"flavor": "m1.tiny", "networks": [], "network_ids": []}, "#/networks", "conflicting_fields"),
        ({"flavor": "m1.tiny", "networks": [], "interfaces": []}, "#/interfaces", "conflicting_fields"),
        ({"flavor": "m1.tiny", "networks": ["edge", "edge"]}, "#/networks", "repeated_items"),
        ({"flavor": "m1.tiny", "networks": "edge"}, "#/networks", "wrong_type"),
        ({"flavor": "m1.tiny", "networks": ["x"] * 65}, "#/networks", "too_long"),
        ({"flavor": "m1.tiny", "interfaces": [{}]}, "#/interfaces/0/network_id", "required"),
        (
            {"flavor": "m1.tiny", "interfaces": [{"network": "edge", "network_id": EDGE}]},
            "#/interfaces/0/network_id",
            "conflicting_fields",
        ),
        ({"flavor": "m1.tiny", "interfaces": [{"network": "edge"}] * 2}, "#/interfaces", "repeated_items"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_an_invalid_name_is_pointed_at(visitor: Person, body: dict[str, Any], pointer: str, code: str) -> None:
    problem = (await create(visitor, **body)).json()
    assert (problem["status"], problem["code"]) == (422, "validation_failed"), problem
    assert [(error["pointer"], error["code"]) for error in problem["errors"]] == [(pointer, code)]


async def test_a_flavor_that_is_too_small_is_pointed_at_where_the_body_has_it(ada: Person) -> None:
    for field, value in (("flavor", "m1.tiny"), ("flavor_id", TINY)):
        problem = (await create(ada, image="debian-12", **{field: value})).json()
        assert (problem["code"], pointers(problem)) == ("flavor_too_small", {f"#/{field}"})


async def test_a_resize_takes_a_name(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    path = f"/vms/{vm.id}/actions/resize"
    await add_twin(engine, Flavor, "m1.large")
    refusals = {
        "m9.huge": "unknown_reference",
        "m1.small": "same_flavor",
        FLAVOR: "same_flavor",
        "m1.large": "ambiguous_name",
    }
    for name, code in refusals.items():
        problem = (await ada.http.post(path, json={"flavor": name})).json()
        assert (problem["status"], problem["code"], pointers(problem)) == (422, code, {"#/flavor"})
    answer = await ada.http.post(path, json={"flavor": "m1.medium"})
    assert (answer.status_code, answer.json()["status"]) == (202, "RESIZING")
    (operation,) = await operations_of(engine, vm.id)
    assert (operation.input["flavor_id"], operation.input["flavor"]) == (MEDIUM, "m1.medium")
    for body in ({}, {"flavor": "m1.tiny", "flavor_id": TINY}):
        assert pointers((await ada.http.post(path, json=body)).json()) == {"#/flavor_id"}


async def test_a_resize_to_a_small_flavor_points_at_the_name(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine, image_id=IMAGE_IDS["debian-12"])
    answer = await ada.http.post(f"/vms/{vm.id}/actions/resize", json={"flavor": "m1.tiny"})
    assert (answer.json()["code"], pointers(answer.json())) == ("flavor_too_small", {"#/flavor"})


async def test_an_interface_takes_the_name_of_its_network(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    path = f"/vms/{vm.id}/interfaces"
    await add_twin(engine, Network, "backend")
    for name, code in {"dmz": "unknown_reference", "backend": "ambiguous_name"}.items():
        problem = (await ada.http.post(path, json={"network": name})).json()
        assert (problem["status"], problem["code"], pointers(problem)) == (422, code, {"#/network"})
    answer = await ada.http.post(path, json={"network": "edge", "ip_address": "10.2.0.9"})
    assert answer.status_code == 202, answer.text
    assert (answer.json()["network_id"], answer.json()["ip_address"]) == (EDGE, "10.2.0.9")
    assert (await ada.http.post(path, json={"network": BACKEND})).json()["network_id"] == BACKEND


async def test_a_refusal_by_the_state_comes_before_one_by_a_name(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine, status="ERROR")
    answer = await ada.http.post(f"/vms/{vm.id}/actions/resize", json={"flavor": "m9.huge"})
    await check_refused_and_unchanged(engine, vm, answer, "invalid_transition")
