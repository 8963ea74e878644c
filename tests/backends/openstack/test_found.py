"""Servers that others have made: what is told of them, and how the parts of the backend find their VMs."""

from collections.abc import Collection
from uuid import UUID, uuid4

from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.resources import Ref
from domain.rules.cloud import ServerStatus
from domain.rules.resources import Kind
from tests.backends.openstack.resource_cloud import NETWORK, ResourceCloud

VOLUMES = "os-extended-volumes:volumes_attached"


async def none_known(_: Collection[str]) -> Collection[str]:
    """No server is that of a VM."""
    return ()


async def test_a_server_of_others_is_told_with_its_volumes_and_ports(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    volume = resources.add("volumes", name="data", size=7, metadata={})
    id = resources.add_server(name="old", **{VOLUMES: [{"id": volume, "delete_on_termination": True}]})
    resources.attach(id, volume)
    port = resources.add("ports", device_id=id, network_id=NETWORK, name="by hand", description="")
    resources.add("ports", device_id=str(uuid4()))
    (found,) = await backend.list_other_servers(none_known)
    assert (found.cloud_id, found.id, found.name, found.status) == (id, UUID(id), "old", ServerStatus.ACTIVE)
    assert (found.flavor, found.vcpus, found.ram_mb, found.disk_gb, found.is_busy) == ("m1.tiny", 1, 512, 1, False)
    (attached,) = found.volumes
    assert (attached.id, attached.name, attached.size_gb, attached.device) == (UUID(volume), "data", 7, "/dev/sdb")
    assert (attached.delete_on_termination, attached.is_shared) == (True, False)
    (plugged,) = found.ports
    assert (plugged.cloud_id, plugged.id, plugged.network_id, plugged.vm_id) == (port, None, UUID(NETWORK), UUID(id))


async def test_servers_that_are_known_deleted_or_in_a_cell_that_is_down_are_left_out(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    known = resources.add_server()
    resources.add_server(status="DELETED")
    resources.things["servers"]["down"] = {"id": str(uuid4()), "status": "UNKNOWN"}

    async def only_the_first(ids: Collection[str]) -> Collection[str]:
        return {known} & set(ids)

    assert await backend.list_other_servers(only_the_first) == []


async def test_a_server_and_a_volume_with_our_marks_keep_our_ids(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    vm_id, volume_id = uuid4(), uuid4()
    volume = resources.add("volumes", metadata={"osvm_volume": str(volume_id)})
    id = resources.add("servers", tags=[f"vm:{vm_id}"], metadata={}, **{VOLUMES: [{"id": volume}]})
    resources.attach(id, volume)
    (found,) = await backend.list_other_servers(none_known)
    assert (found.id, found.volumes[0].id, found.volumes[0].delete_on_termination) == (vm_id, volume_id, False)


async def test_a_volume_at_two_servers_is_shared(backend: OpenStackBackend, resources: ResourceCloud) -> None:
    volume = resources.add("volumes", metadata={})
    id = resources.add_server(**{VOLUMES: [{"id": volume}]})
    resources.attach(id, volume)
    resources.things["volumes"][volume]["attachments"].append({"server_id": str(uuid4()), "device": "/dev/sdc"})
    (found,) = await backend.list_other_servers(none_known)
    assert found.volumes[0].is_shared


async def test_the_volume_of_an_adopted_server_is_attached_to_its_vm(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    """The server has no mark, and this worker has never been told its VM."""
    volume = resources.add("volumes", metadata={})
    id = resources.add_server()
    resources.attach(id, volume)
    shown = await backend.list_volumes([Ref(UUID(volume), volume)])
    assert shown[UUID(volume)].vm_id == UUID(id)


async def test_the_inventory_tells_which_operation_made_a_thing(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    id, operation_id = uuid4(), uuid4()
    by_metadata = {"osvm_vm": str(id), "osvm_volume": str(id), "osvm_operation": str(operation_id)}
    tagged = resources.add("servers", tags=[f"vm:{id}", f"op:{operation_id}"], metadata={})
    stripped = resources.add("servers", tags=[], metadata=by_metadata)
    unknown = resources.add("servers", tags=[f"vm:{id}", "op:x"], metadata={})
    volume = resources.add("volumes", metadata=by_metadata)
    items = {**(await backend.inventory(Kind.VM, None)).items, **(await backend.inventory(Kind.VOLUME, None)).items}
    expected = {tagged: operation_id, stripped: operation_id, unknown: None, volume: operation_id}
    assert {cloud_id: item.operation_id for cloud_id, item in items.items()} == expected


async def test_the_inventory_tells_which_ports_are_plugged_in(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    mark = {"name": f"osvm-{uuid4()}-1", "description": f"osvm vm:{uuid4()}"}
    free, plugged = resources.add("ports", device_id="", **mark), resources.add("ports", device_id="x", **mark)
    items = (await backend.inventory(Kind.INTERFACE, None)).items
    assert {cloud_id: item.is_plugged for cloud_id, item in items.items()} == {free: False, plugged: True}


async def test_the_double_of_a_server_is_purged_without_the_ports_of_its_vm(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    vm_id = uuid4()
    own, double = (resources.add("servers", tags=[f"vm:{vm_id}"], metadata={}) for _ in range(2))
    port = resources.add("ports", device_id="", name=f"osvm-{uuid4()}-1", description=f"osvm vm:{vm_id}")
    await backend.purge(Ref(UUID(double), double))
    assert (set(resources.things["servers"]), set(resources.things["ports"])) == ({own}, {port})
