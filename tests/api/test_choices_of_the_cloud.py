"""What only the cloud can know is null until it is known: addresses in its networks, and devices of its volumes."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import addresses
from domain.data.models import Attachment, Interface, Network
from domain.rules.states import Action
from domain.settings import Settings
from tests.api.conftest import Person, operations_of
from tests.api.networks import EDGE, PRIVATE, attach, interfaces_of, is_valid
from tests.api.vm_resources import vm_of, volume_of
from tests.support.rows import add_attachment, add_interface, add_user, add_vm, add_volume, note_vms_changed


@pytest.fixture
async def tenant(engine: AsyncEngine) -> str:
    """A network in which the cloud chooses the addresses."""
    row = {"id": uuid4(), "name": "tenant", "cidr": "10.9.0.0/30", "gateway": "10.9.0.1", "is_default": False}
    async with engine.begin() as tx:
        await tx.execute(insert(Network).values(row | {"allocates": False}))
    return str(row["id"])


@pytest.fixture
def cloud_chooses_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a real cloud."""
    monkeypatch.setattr(Settings, "chooses_devices", property(lambda _: False))


def chosen(interface: dict[str, Any]) -> tuple[str | None, str | None]:
    return interface["ip_address"], interface["mac_address"]


async def test_a_new_vm_has_addresses_only_where_the_service_chooses_them(ada: Person, tenant: str) -> None:
    vm = await ada.create(network_ids=[tenant, PRIVATE, EDGE])
    shown = await interfaces_of(ada, vm["id"])
    assert [interface["network_id"] for interface in shown] == [tenant, PRIVATE, EDGE]
    assert chosen(shown[0]) == (None, None)
    assert all(is_valid(interface) for interface in shown[1:])


async def test_a_network_of_the_cloud_is_never_full_for_the_service(ada: Person, tenant: str) -> None:
    """It has room for one VM, but only the cloud knows whom else it has given an address."""
    for _ in range(3):
        vm = await ada.create(network_ids=[tenant])
        assert [chosen(interface) for interface in await interfaces_of(ada, vm["id"])] == [(None, None)]


@pytest.mark.usefixtures("cloud_chooses_devices")
async def test_a_vm_has_at_most_64_volumes_whose_devices_the_cloud_chooses(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    async with engine.begin() as tx:
        for _ in range(63):
            await add_attachment(tx, vm, await add_volume(tx, ada.user), device=None)
    first, second = [await volume_of(ada, engine) for _ in range(2)]
    path = f"/vms/{vm.id}/volumes"
    assert (await ada.http.post(path, json={"volume_id": str(first.id)})).status_code == 202
    refused = await ada.http.post(path, json={"volume_id": str(second.id)})
    assert (refused.status_code, refused.json()["code"]) == (409, "no_free_device")


async def test_an_attached_interface_has_no_addresses_until_the_cloud_has_chosen_them(
    ada: Person, engine: AsyncEngine, tenant: str
) -> None:
    vm = await vm_of(ada, engine)
    answer = await attach(ada, vm, tenant)
    assert answer.status_code == 202
    assert chosen(answer.json()) == (None, None)
    (operation,) = await operations_of(engine, vm.id)
    assert operation.input == {"network": "tenant", "network_id": tenant}
    async with engine.begin() as tx:
        await note_vms_changed(tx)
        await tx.execute(update(Interface).values(ip_address="10.9.0.2", mac_address="fa:16:3e:00:00:01"))
    assert [chosen(interface) for interface in await interfaces_of(ada, vm.id)] == [("10.9.0.2", "fa:16:3e:00:00:01")]


async def test_an_interface_without_addresses_can_be_detached(ada: Person, engine: AsyncEngine, tenant: str) -> None:
    vm = await vm_of(ada, engine)
    async with engine.begin() as tx:
        row = await add_interface(tx, vm)
        await note_vms_changed(tx)
        await tx.execute(update(Interface).values(network_id=tenant, ip_address=None, mac_address=None))
    assert (await ada.http.delete(f"/vms/{vm.id}/interfaces/{row.id}")).status_code == 204
    (operation,) = await operations_of(engine, vm.id)
    assert (operation.action, operation.input) == (Action.DETACH_INTERFACE, {"network": "tenant"})


async def test_rows_without_addresses_do_not_conflict(engine: AsyncEngine, tenant: str) -> None:
    async with engine.begin() as tx:
        vm = await add_vm(tx, await add_user(tx))
        rows = [await add_interface(tx, vm, f"10.0.0.{number}") for number in (9, 10)]
        await tx.execute(update(Interface).values(network_id=tenant, ip_address=None, mac_address=None))
        assert len({row.id for row in rows}) == 2
        assert await tx.scalar(select(addresses.surely_free).where(Network.name == "private")) is not None


@pytest.mark.usefixtures("cloud_chooses_devices")
async def test_an_attachment_has_no_device_until_the_cloud_has_chosen_it(ada: Person, engine: AsyncEngine) -> None:
    vm, volume = await vm_of(ada, engine), await volume_of(ada, engine)
    answer = await ada.http.post(f"/vms/{vm.id}/volumes", json={"volume_id": str(volume.id)})
    assert (answer.status_code, answer.json()["device"]) == (202, None)
    (operation,) = await operations_of(engine, vm.id)
    assert operation.input == {"name": "data", "delete_on_termination": False}
    assert (await ada.http.get(f"/volumes/{volume.id}")).json()["device"] is None
    async with engine.begin() as tx:
        await note_vms_changed(tx)
        await tx.execute(update(Attachment).values(device="/dev/sdb"))
    assert (await ada.http.get(f"/vms/{vm.id}/volumes/{volume.id}")).json()["device"] == "/dev/sdb"


async def test_every_attachment_is_on_a_page_whether_it_has_a_device_or_not(ada: Person, engine: AsyncEngine) -> None:
    vm = await vm_of(ada, engine)
    async with engine.begin() as tx:
        for device in ("/dev/vdb", None, "/dev/vdc", None, None):
            volume = await add_volume(tx, ada.user)
            await add_attachment(tx, vm, volume, device=device)
    shown, cursor = [], None
    for _ in range(5):
        query = {"page_size": "1"} | ({"cursor": cursor} if cursor else {})
        page = (await ada.http.get(f"/vms/{vm.id}/volumes", params=query)).json()
        shown += page["items"]
        cursor = page["next_cursor"]
    assert cursor is None
    assert [attachment["device"] for attachment in shown] == [None, None, None, "/dev/vdb", "/dev/vdc"]
    assert len({attachment["volume_id"] for attachment in shown}) == 5
