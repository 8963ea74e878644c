"""The whole life of VMs, volumes and snapshots on a real cloud, over our HTTP; in the end the cloud has none of it."""

import pytest

from tests.openstack.contents import OurThings
from tests.openstack.life import Life, finished
from tests.support.users import User, operation_path

TOO_MUCH_RAM = 1 << 28  # MiB


async def test_a_vm_lives_and_nothing_of_it_is_left(user: User, ours: OurThings) -> None:
    life = await Life.of_new_vm(user, "life")
    (interface,) = (await user.read(f"/vms/{life.vm_id}/interfaces"))["items"]
    server_id = ours.server_id(life.vm_id)
    assert ours.ports(server_id) == [interface["ip_address"]]
    await life.act("stop", "SHUTOFF")
    assert ours.servers(life.vm_id) == ["SHUTOFF"]
    await life.act("start", "ACTIVE")
    await life.act("reboot", "ACTIVE")
    await life.act("reboot", "ACTIVE", type="HARD")
    await life.ask("DELETE", f"/vms/{life.vm_id}")
    assert (await life.vm())["status"] == "DELETED"
    assert (ours.servers(life.vm_id), ours.ports(server_id)) == ([], [])
    operations = (await user.read(f"/vms/{life.vm_id}/operations"))["items"]
    assert {operation["status"] for operation in operations} == {"SUCCEEDED"}


async def test_a_resize_is_confirmed_and_another_reverted(user: User) -> None:
    life = await Life.of_new_vm(user, "resized")
    small, large = (await user.flavors())[:2]
    await life.act("resize", "VERIFY_RESIZE", flavor_id=large)
    await life.act("confirm-resize", "ACTIVE")
    assert (await life.vm())["flavor_id"] == large
    await life.act("stop", "SHUTOFF")
    await life.act("resize", "VERIFY_RESIZE", flavor_id=small)
    await life.act("revert-resize", "SHUTOFF")
    assert (await life.vm())["flavor_id"] == large
    await life.ask("DELETE", f"/vms/{life.vm_id}")


async def test_a_flavor_without_a_host_fails_with_its_reason(user: User, ours: OurThings) -> None:
    giant = await too_large_flavor(user)
    answer = await user.request("POST", "/vms", json={"name": "giant", "flavor_id": giant})
    vm = await user.until(answer.json()["id"], "ERROR", "ACTIVE")
    assert vm["fault"]["code"] == "no_valid_host"
    assert ours.servers(vm["id"]) == []

    life = await Life.of_new_vm(user, "stays-small")
    answer = await user.request("POST", f"/vms/{life.vm_id}/actions/resize", json={"flavor_id": giant})
    await user.until(life.vm_id, "ACTIVE")
    operation = await user.read(operation_path(answer))
    assert (operation["status"], operation["error"]["code"]) == ("FAILED", "no_valid_host")
    assert (await life.vm())["flavor_id"] == (await user.flavors())[0]
    await life.ask("DELETE", f"/vms/{life.vm_id}")


async def test_volumes_interfaces_and_snapshots_come_and_go(user: User, ours: OurThings) -> None:
    life = await Life.of_new_vm(user, "full")
    path, server_id = f"/vms/{life.vm_id}", ours.server_id(life.vm_id)
    created = await user.request("POST", "/volumes", json={"name": "data", "size_gb": 1})
    volume_id = created.json()["id"]
    await finished(user, operation_path(created))
    await life.ask("POST", f"{path}/volumes", volume_id=volume_id)
    assert ours.volumes(volume_id) == ["in-use"]
    (attachment,) = (await user.read(f"{path}/volumes"))["items"]
    assert attachment["device"].startswith("/dev/")
    network = (await user.read("/networks"))["items"][0]["id"]
    await life.ask("POST", f"{path}/interfaces", network_id=network)
    interfaces = (await user.read(f"{path}/interfaces"))["items"]
    assert sorted(ours.ports(server_id)) == sorted(interface["ip_address"] for interface in interfaces)
    await life.ask("DELETE", f"{path}/interfaces/{interfaces[-1]['id']}")
    assert len(ours.ports(server_id)) == 1

    saved = await user.request("POST", f"{path}/snapshots", json={"name": "before"})
    snapshot_id = saved.json()["id"]
    await finished(user, operation_path(saved))
    assert ours.images(snapshot_id) == ["active"]
    await life.ask("POST", f"{path}/snapshots/{snapshot_id}/restore")
    assert (ours.servers(life.vm_id), ours.volumes(volume_id)) == (["ACTIVE"], ["in-use"])
    await life.ask("DELETE", f"{path}/snapshots/{snapshot_id}")
    assert ours.images(snapshot_id) == []

    await life.ask("DELETE", path)
    volume = await user.read(f"/volumes/{volume_id}")
    assert (volume["status"], ours.volumes(volume_id)) == ("AVAILABLE", ["available"])
    await life.ask("DELETE", f"/volumes/{volume_id}")
    assert not ours.all_marks() & {life.vm_id, volume_id, snapshot_id}


async def too_large_flavor(user: User) -> str:
    """The id of a flavor that no host has room for."""
    flavor = max((await user.read("/flavors"))["items"], key=lambda flavor: flavor["ram_mb"])
    if flavor["ram_mb"] < TOO_MUCH_RAM:
        pytest.skip("every flavor of this cloud may find a host")
    return str(flavor["id"])
