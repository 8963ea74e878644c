"""The catalogue of a real cloud: names repeat, facts are missing, and what goes away stays readable."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Update, insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.models import VM, Flavor, Image, Interface, Network
from tests.api.conftest import Person, count, pointers
from tests.api.networks import EDGE, attach
from tests.api.vm_resources import vm_of
from tests.support.rows import FLAVOR_IDS, IMAGE_IDS, NETWORK_IDS, add_interface, add_vm

KINDS = [
    ("flavors", Flavor, FLAVOR_IDS["m1.large"]),
    ("images", Image, IMAGE_IDS["debian-12"]),
    ("networks", Network, NETWORK_IDS["edge"]),
]


def gone(model: type[Any], id: UUID) -> Update:
    """The cloud no longer has this row."""
    return update(model).where(model.id == id).values(is_available=False)


@pytest.fixture
async def without(engine: AsyncEngine) -> None:
    """A flavor, an image and a network went away."""
    async with engine.begin() as tx:
        for _, model, id in KINDS:
            await tx.execute(gone(model, id))


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize(("path", "id"), [(path, str(id)) for path, _, id in KINDS])
async def test_what_went_away_is_in_no_list_and_stays_readable(ada: Person, path: str, id: str) -> None:
    page = (await ada.http.get(f"/{path}")).json()
    assert id not in {item["id"] for item in page["items"]}
    assert page["total"] == len(page["items"]) > 1
    assert all(item["is_available"] for item in page["items"])
    found = await ada.http.get(f"/{path}/{id}")
    assert (found.status_code, found.json()["id"], found.json()["is_available"]) == (200, id, False)


@pytest.mark.usefixtures("without")
async def test_a_new_vm_cannot_have_what_went_away(ada: Person, engine: AsyncEngine) -> None:
    flavor, image, network = (str(id) for _, _, id in KINDS)
    body = {
        "name": "web",
        "flavor_id": flavor,
        "image_id": image,
        "network_ids": [str(NETWORK_IDS["private"]), network],
    }
    answer = await ada.http.post("/vms", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "unknown_reference")
    assert pointers(problem) == {"#/flavor_id", "#/image_id", "#/network_ids/1"}
    assert await count(engine, VM) == 0


@pytest.mark.usefixtures("without")
async def test_a_vm_is_neither_resized_to_nor_attached_to_what_went_away(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    resize = await ada.http.post(f"/vms/{vm.id}/actions/resize", json={"flavor_id": str(FLAVOR_IDS["m1.large"])})
    for answer, pointer in ((resize, "#/flavor_id"), (await attach(ada, vm, EDGE), "#/network_id")):
        problem = answer.json()
        assert (answer.status_code, problem["code"], pointers(problem)) == (422, "unknown_reference", {pointer})
    assert await count(engine, Interface) == 0


@pytest.mark.usefixtures("without")
async def test_a_vm_that_has_what_went_away_goes_on(ada: Person, engine: AsyncEngine) -> None:
    (_, _, flavor), (_, _, image), _ = KINDS
    async with engine.begin() as tx:
        vm = await add_vm(tx, ada.user, flavor_id=flavor, image_id=image)
        interface = await add_interface(tx, vm, "10.2.0.7", network="edge")
    shown = (await ada.http.get(f"/vms/{vm.id}")).json()
    assert (shown["flavor_id"], shown["image_id"]) == (str(flavor), str(image))
    assert (await ada.http.get(f"/vms/{vm.id}/interfaces")).json()["items"][0]["network_id"] == EDGE
    assert (await ada.http.delete(f"/vms/{vm.id}/interfaces/{interface.id}")).status_code == 204
    async with engine.begin() as tx:
        await tx.execute(update(VM).values(attaching=0))
    body = {"flavor_id": str(FLAVOR_IDS["m1.medium"])}
    resize = await ada.http.post(f"/vms/{vm.id}/actions/resize", json=body)
    assert resize.status_code == 202, resize.text


@pytest.mark.parametrize(("path", "model"), [("flavors", Flavor), ("images", Image), ("networks", Network)])
async def test_rows_with_the_same_name_are_all_on_a_page(
    ada: Person, engine: AsyncEngine, path: str, model: type[Any]
) -> None:
    same = {"vcpus": 1, "ram_mb": 512, "disk_gb": 1} if model is Flavor else {}
    async with engine.begin() as tx:
        await tx.execute(update(model).values(name="same", **same))
    shown, cursor = list[str](), None
    while len(shown) < 10:
        query = {"page_size": "1"} | ({"cursor": cursor} if cursor else {})
        page = (await ada.http.get(f"/{path}", params=query)).json()
        shown += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert shown == sorted(shown)
    assert len(shown) == page["total"] == await count(engine, model)


async def test_what_a_cloud_does_not_tell_is_null(ada: Person, engine: AsyncEngine) -> None:
    """Such as the free addresses of an IPv6 network, which one could not even count."""
    image, network = uuid4(), uuid4()
    async with engine.begin() as tx:
        about: dict[str, Any] = {"size_gb": 1, "is_default": False}
        await tx.execute(insert(Image).values(id=image, name="plain", **about))
        about = {"cidr": "2001:db8::/64", "is_default": False, "allocates": False}
        await tx.execute(insert(Network).values(id=network, name="six", **about))
    shown = (await ada.http.get(f"/images/{image}")).json()
    assert (shown["os_distro"], shown["os_version"]) == (None, None)
    listed = {item["id"]: item for item in (await ada.http.get("/networks")).json()["items"]}
    assert (listed[str(network)]["gateway"], listed[str(network)]["free_addresses"]) == (None, None)
    vm = await ada.create(network_ids=[str(network)])
    (interface,) = (await ada.http.get(f"/vms/{vm['id']}/interfaces")).json()["items"]
    assert (interface["network_id"], interface["ip_address"]) == (str(network), None)
    assert (await attach(ada, await vm_of(ada, engine), str(network))).status_code == 202
