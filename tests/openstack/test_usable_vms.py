"""VMs that one can use, on a real cloud over our HTTP: logins, user data, consoles, places, addresses, disks."""

from ipaddress import ip_network
from typing import Any
from uuid import uuid4

from tests.openstack.contents import OurThings
from tests.openstack.life import Life, finished
from tests.support.ssh_keys import new_key
from tests.support.users import User, operation_path

SCRIPT = "#!/bin/sh\necho hello\n"


async def created(user: User, path: str, **body: Any) -> dict[str, Any]:
    """Create something, wait until it is there, and return it."""
    answer = await user.request("POST", path, json=body)
    assert answer.status_code == 202, answer.text
    await finished(user, operation_path(answer))
    return dict(await user.read(answer.headers["Location"].removeprefix("/api/v1")))


async def smallest(user: User) -> str:
    """The id of the smallest flavor."""
    return (await user.flavors())[0]


async def test_a_vm_has_keys_user_data_a_group_and_a_zone(user: User) -> None:
    key = await user.request("POST", "/ssh-keys", json={"name": "laptop", "public_key": new_key()})
    assert key.status_code == 201, key.text
    zones = [zone["name"] for zone in (await user.read("/availability-zones"))["items"]]
    groups = [group["name"] for group in (await user.read("/security-groups"))["items"]]
    place = {"availability_zone": zones[0], "security_groups": [groups[0]]}
    login = {"ssh_keys": ["laptop"], "user_data": SCRIPT}
    vm = await created(user, "/vms", name="usable", flavor_id=await smallest(user), **place, **login)
    assert (vm["status"], vm["availability_zone"], vm["security_groups"]) == ("ACTIVE", zones[0], [groups[0]])
    log = await user.request("GET", f"/vms/{vm['id']}/console-log?lines=20")
    assert log.status_code == 200, log.text
    assert set(log.json()) == {"output", "is_truncated"}
    console = await user.request("POST", f"/vms/{vm['id']}/console")
    assert (console.status_code, console.json().get("code")) in {(200, None), (409, "not_supported_by_cloud")}
    await Life(user, vm["id"]).ask("DELETE", f"/vms/{vm['id']}")
    assert (await user.request("DELETE", "/ssh-keys/laptop")).status_code == 204


async def test_a_vm_has_the_address_that_was_wanted_or_the_cloud_says_no(user: User, ours: OurThings) -> None:
    network = next(network for network in (await user.read("/networks"))["items"] if network["is_default"])
    wanted = str(list(ip_network(network["cidr"]).hosts())[-30])
    interfaces = [{"network_id": network["id"], "ip_address": wanted}]
    body = {"name": "placed", "flavor_id": await smallest(user), "interfaces": interfaces}
    answer = await user.request("POST", "/vms", json=body)
    refused = await user.request("POST", "/vms", json=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "address_in_use")
    vm = await user.until(answer.json()["id"], "ACTIVE", "ERROR")
    if vm["fault"]:  # as for most members in networks of others
        assert vm["fault"]["code"] == "not_supported_by_cloud"
        assert ours.servers(vm["id"]) == []
    else:
        assert ours.ports(ours.server_id(vm["id"])) == [wanted]
    await Life(user, vm["id"]).ask("DELETE", f"/vms/{vm['id']}")


async def test_a_volume_grows_and_a_vm_boots_from_one(user: User, ours: OurThings) -> None:
    image = next(image for image in (await user.read("/images"))["items"] if image["is_default"])
    volume = await created(user, "/volumes", name="root", size_gb=max(image["size_gb"], 1), image_id=image["id"])
    assert volume["bootable"]
    boot = {"volume_id": volume["id"]}
    vm = await created(user, "/vms", name="on-a-volume", flavor_id=await smallest(user), boot_volume=boot)
    life = Life(user, vm["id"])
    assert (vm["status"], vm["boot_volume_id"]) == ("ACTIVE", volume["id"])
    larger = volume["size_gb"] + 1
    await life.ask("POST", f"/volumes/{volume['id']}/actions/extend", size_gb=larger)
    assert (await user.read(f"/volumes/{volume['id']}"))["size_gb"] == larger
    detached = await user.request("DELETE", f"/vms/{vm['id']}/volumes/{volume['id']}")
    assert (detached.status_code, detached.json()["code"]) == (409, "root_volume")
    await life.ask("DELETE", f"/vms/{vm['id']}")
    assert ours.volumes(volume["id"]) == ["available"]
    await life.ask("DELETE", f"/volumes/{volume['id']}")


async def test_a_vm_is_built_by_name_with_volumes_which_outlive_it(user: User, ours: OurThings) -> None:
    """A name is unique in the catalogue of the test cloud; where it is not, the answer has the ids."""
    volumes = [await created(user, "/volumes", name=f"data-{n}", size_gb=1) for n in range(2)]
    flavor = (await user.read("/flavors"))["items"][0]
    wanted = [{"volume_id": volume["id"]} for volume in volumes]
    vm = await created(user, "/vms", name="with-data", flavor=flavor["name"], volumes=wanted)
    assert (vm["status"], vm["flavor_id"]) == ("ACTIVE", flavor["id"])
    attached = (await user.read(f"/vms/{vm['id']}/volumes"))["items"]
    assert {each["volume_id"] for each in attached} == {volume["id"] for volume in volumes}
    assert len({each["device"] for each in attached} - {None}) == 2
    assert [ours.volumes(volume["id"]) for volume in volumes] == [["in-use"]] * 2
    life = Life(user, vm["id"])
    await life.ask("DELETE", f"/vms/{vm['id']}/volumes/{volumes[0]['id']}")
    await life.ask("DELETE", f"/vms/{vm['id']}")
    assert [ours.volumes(volume["id"]) for volume in volumes] == [["available"]] * 2
    for volume in volumes:
        await life.ask("DELETE", f"/volumes/{volume['id']}")


async def test_a_vm_is_built_from_a_snapshot_of_another(user: User, ours: OurThings) -> None:
    first = await Life.of_new_vm(user, "first")
    answer = await user.request("POST", f"/vms/{first.vm_id}/snapshots", json={"name": "golden"})
    await finished(user, operation_path(answer))
    snapshot_id = answer.json()["id"]
    body = {"name": f"copy-{uuid4().hex[:6]}", "flavor_id": await smallest(user), "snapshot_id": snapshot_id}
    copy = await created(user, "/vms", **body)
    assert (copy["status"], copy["snapshot_id"]) == ("ACTIVE", snapshot_id)
    await first.ask("DELETE", f"/vms/{copy['id']}")
    await first.ask("DELETE", f"/vms/{first.vm_id}/snapshots/{snapshot_id}")
    await first.ask("DELETE", f"/vms/{first.vm_id}")
    assert ours.images(snapshot_id) == []
