"""Names of the catalogue are found in every spelling of their letters, and go to the cloud in the cloud's own."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data.catalogue import zone_id
from domain.data.models import VM, Flavor, Image, Network
from domain.data.placement import AvailabilityZone, SecurityGroup
from tests.api.conftest import FLAVOR, Person, operations_of, pointers
from tests.api.networks import BACKEND, interfaces_of
from tests.api.vm_resources import rows_of, vm_of
from tests.support.rows import FLAVOR_IDS, IMAGE_IDS, NETWORK_IDS

NFC, NFD = "gr\u00f6\u00dfe", "gro\u0308\u00dfe"
SPELLINGS = pytest.mark.parametrize("sent", [NFC, NFD], ids=["NFC", "NFD"])


@pytest.fixture(autouse=True)
async def named(engine: AsyncEngine) -> None:
    """Name one row of each table so; those of the cloud's spelling in NFD, the others in NFC as the reader does."""
    rows: dict[Any, UUID] = {
        Flavor: FLAVOR_IDS["m1.medium"],
        Image: IMAGE_IDS["debian-12"],
        Network: NETWORK_IDS["backend"],
    }
    async with engine.begin() as tx:
        for model, id in rows.items():
            await tx.execute(update(model).where(model.id == id).values(name=NFC))
        await tx.execute(insert(SecurityGroup).values(id=uuid4(), name=NFD, description=""))
        await tx.execute(insert(AvailabilityZone).values(id=zone_id(NFD), name=NFD))


@SPELLINGS
async def test_a_create_finds_them(ada: Person, engine: AsyncEngine, sent: str) -> None:
    body = {"name": "web", "flavor": sent, "image": sent, "networks": [sent]}
    answer = await ada.http.post("/vms", json=body | {"availability_zone": sent, "security_groups": [sent]})
    assert answer.status_code == 202, answer.text
    (vm,) = await rows_of(engine, VM)
    assert (vm.flavor_id, vm.image_id) == (FLAVOR_IDS["m1.medium"], IMAGE_IDS["debian-12"])
    assert [each["network_id"] for each in await interfaces_of(ada, str(vm.id))] == [BACKEND]
    assert (vm.availability_zone, [group["name"] for group in vm.security_groups]) == (NFD, [NFD])
    (operation,) = await operations_of(engine, str(vm.id))
    assert (operation.input["availability_zone"], operation.input["security_groups"]) == (NFD, [NFD])


@SPELLINGS
async def test_a_resize_and_an_attach_find_them(ada: Person, engine: AsyncEngine, sent: str) -> None:
    one, other = await vm_of(ada, engine), await vm_of(ada, engine)
    assert (await ada.http.post(f"/vms/{one.id}/actions/resize", json={"flavor": sent})).status_code == 202
    answer = await ada.http.post(f"/vms/{other.id}/interfaces", json={"network": sent})
    assert answer.status_code == 202, answer.text


async def test_a_network_in_two_spellings_is_named_twice(ada: Person) -> None:
    body = {"name": "web", "flavor_id": FLAVOR, "networks": [NFC, NFD]}
    answer = await ada.http.post("/vms", json=body)
    assert (answer.status_code, pointers(answer.json())) == (422, {"#/networks/1"})


async def test_of_two_in_a_cloud_each_is_found_by_its_own_spelling(ada: Person, engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        await tx.execute(insert(SecurityGroup).values(id=uuid4(), name=NFC, description=""))
        await tx.execute(insert(AvailabilityZone).values(id=zone_id(NFC), name=NFC))
    for name in (NFC, NFD):
        vm = await ada.create(availability_zone=name, security_groups=[name])
        assert (vm["availability_zone"], vm["security_groups"]) == (name, [name])
