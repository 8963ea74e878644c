"""Servers that boot from a snapshot or a volume, and volumes that are made for that."""

from dataclasses import replace
from uuid import uuid4

import pytest

from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.resources import DataVolume, Ref
from tests.backends.openstack.cloud_server import CloudServer, Reply
from tests.backends.openstack.recordings import Recording
from tests.backends.openstack.resource_cloud import ResourceCloud, code_of
from tests.backends.openstack.server_cloud import IMAGE, ServerCloud, spec_of, token

VOLUME = Ref(uuid4(), str(uuid4()))


@pytest.fixture
def servers(resources: ResourceCloud, server: CloudServer) -> ServerCloud:
    """The cloud's servers."""
    del resources  # this replaces them
    return ServerCloud(server)


async def test_a_server_boots_from_a_volume_which_outlives_it(
    backend: OpenStackBackend, server: CloudServer, servers: ServerCloud
) -> None:
    del servers
    spec, call = replace(spec_of(Ref(uuid4())), boot_volume=VOLUME), token()
    for _ in range(2):
        await backend.create_server(call, spec)
    (request,) = server.seen("POST", "/servers")
    assert "imageRef" not in request.body["server"]
    assert request.body["server"]["block_device_mapping_v2"] == [
        {
            "uuid": VOLUME.cloud_id,
            "source_type": "volume",
            "destination_type": "volume",
            "boot_index": 0,
            "delete_on_termination": False,
        }
    ]


@pytest.mark.parametrize("boots_from", ["image", "volume"])
async def test_a_server_is_built_with_volumes_beside_its_disk(
    backend: OpenStackBackend, server: CloudServer, servers: ServerCloud, boots_from: str
) -> None:
    del servers
    data = Ref(uuid4(), str(uuid4()))
    spec = replace(spec_of(Ref(uuid4())), volumes=(DataVolume(data, "/dev/vdb"),))
    if boots_from == "volume":
        spec = replace(spec, boot_volume=VOLUME)
    await backend.create_server(token(), spec)
    (request,) = server.seen("POST", "/servers")
    volume = {"source_type": "volume", "destination_type": "volume", "delete_on_termination": False}
    root = {"source_type": "image", "destination_type": "local", "delete_on_termination": True, "uuid": IMAGE.cloud_id}
    if boots_from == "volume":
        root = volume | {"uuid": VOLUME.cloud_id}
    disks = [root | {"boot_index": 0}, volume | {"uuid": data.cloud_id, "boot_index": -1}]
    assert request.body["server"]["block_device_mapping_v2"] == disks
    assert request.body["server"].get("imageRef") == (IMAGE.cloud_id if boots_from == "image" else None)


@pytest.mark.parametrize("has_cloud_id", [True, False], ids=["by id", "by mark"])
async def test_a_server_boots_from_the_image_of_a_snapshot(
    backend: OpenStackBackend, server: CloudServer, servers: ServerCloud, *, has_cloud_id: bool
) -> None:
    id, origin = uuid4(), str(uuid4())
    marks = {"osvm_snapshot": str(id), "osvm_server": origin, "instance_uuid": origin, "base_image_ref": None}
    image = Ref(id, servers.add("images", **marks))
    spec = replace(spec_of(Ref(uuid4())), image=image if has_cloud_id else Ref(id))
    await backend.create_server(token(), spec)
    (request,) = server.seen("POST", "/servers")
    assert request.body["server"]["imageRef"] == image.cloud_id


async def test_a_snapshot_whose_image_is_gone_cannot_be_booted_from(
    backend: OpenStackBackend, servers: ServerCloud
) -> None:
    del servers
    spec = replace(spec_of(Ref(uuid4())), image=Ref(uuid4()))
    assert await code_of(backend.create_server(token(), spec), retryable=False) == "image_not_found"


async def test_a_volume_that_another_server_has_is_a_conflict(backend: OpenStackBackend, servers: ServerCloud) -> None:
    answer = Recording("create/from_volume").at("a second one")
    servers.refused = {("POST", "/servers"): Reply(answer.status, answer.body)}
    spec = replace(spec_of(Ref(uuid4())), boot_volume=VOLUME)
    assert await code_of(backend.create_server(token(), spec), retryable=False) == "conflict"


async def test_a_server_without_a_disk_of_its_own_is_neither_saved_nor_rebuilt(
    backend: OpenStackBackend, server: CloudServer, servers: ServerCloud
) -> None:
    vm = servers.add_marked(image="")
    calls = (backend.create_server_image(token(), vm, uuid4(), "before"), backend.rebuild_server(token(), spec_of(vm)))
    for call in calls:
        assert await code_of(call, retryable=False) == "not_supported_by_cloud"
    assert not server.seen("POST", "/action")


async def test_the_volume_that_a_server_boots_from_is_not_detached(
    backend: OpenStackBackend, servers: ServerCloud
) -> None:
    answer = Recording("create/from_volume").at("detach the root")
    vm, volume = servers.add_marked(), Ref(uuid4(), servers.add("volumes"))
    servers.attach(str(vm.cloud_id), str(volume.cloud_id))
    servers.refused = {("DELETE", str(volume.cloud_id)): Reply(answer.status, answer.body)}
    assert await code_of(backend.detach_volume(token(), vm, volume), retryable=False) == "conflict"


async def test_a_volume_is_made_from_an_image(backend: OpenStackBackend, server: CloudServer) -> None:
    await backend.create_volume(token(), uuid4(), "root", 3, IMAGE)
    (request,) = server.seen("POST", "/volumes")
    assert request.body["volume"]["imageRef"] == IMAGE.cloud_id
