"""Images of snapshots: saved and deleted once, and told from those that will never be saved."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.openstack.errors import Service
from activities.backends.resources import Ref
from domain.rules.cloud import ImageState
from tests.backends.openstack.cloud_server import PREFIXES, CloudServer, Reply
from tests.backends.openstack.guarded import let_time_pass
from tests.backends.openstack.resource_cloud import CUT, ResourceCloud, code_of, token

LOST_RACE = Reply(500, {"computeFault": {"code": 500, "message": "UnexpectedTaskStateError"}})
AT = "2999-01-01T00:00:00.000000"
ENDED = {"event": "compute_snapshot_instance", "start_time": AT, "finish_time": AT, "result": "Success"}
BUSY = {"OS-EXT-STS:task_state": "image_snapshot"}


@pytest.fixture
def vm(resources: ResourceCloud) -> Ref:
    """A VM with a server."""
    return Ref(uuid4(), resources.add_server())


def add_image(resources: ResourceCloud, vm: Ref, status: str = "active", **fields: object) -> Ref:
    """Add an image of the VM's server with our marks."""
    id, server_id = uuid4(), vm.cloud_id
    marks = {"osvm_snapshot": str(id), "osvm_server": server_id, "instance_uuid": server_id}
    return Ref(id, resources.add("images", status=status, **(marks | fields)))


async def test_a_snapshot_is_taken_once_and_has_our_marks(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref
) -> None:
    id, call = uuid4(), token()
    cloud_id = await backend.create_server_image(call, vm, id, "before")
    assert await backend.create_server_image(call, vm, id, "before") == cloud_id
    (request,) = server.seen("POST", "/action")
    built_from = resources.things["servers"][str(vm.cloud_id)]["image"]["id"]
    of_server = {"osvm_server": vm.cloud_id, "osvm_base": built_from}
    marks = {"osvm_snapshot": str(id), "osvm_vm": str(vm.id), **of_server}
    call_marks = {"osvm_operation": str(call.operation_id), "osvm_step": call.step}
    assert request.body == {"createImage": {"name": "before", "metadata": marks | call_marks}}


async def test_a_snapshot_whose_answer_is_lost_is_found_by_its_marks_and_the_servers_entry(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref
) -> None:
    resources.lost, call, id = {("POST", "/action")}, token(), uuid4()
    assert await code_of(backend.create_server_image(call, vm, id, "before"), retryable=True) == "cloud_timeout"
    assert await code_of(backend.create_server_image(call, vm, id, "before"), retryable=True) == "settling"
    resources.add_entry(str(vm.cloud_id), "createImage")
    assert await backend.create_server_image(call, vm, id, "before") in resources.things["images"]
    assert len(server.seen("POST", "/action")) == 1


async def test_a_snapshot_that_lost_a_race_is_taken_again_and_its_dead_image_is_removed(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref
) -> None:
    call, id = token(), uuid4()
    resources.refused = {("POST", "/action"): LOST_RACE}
    assert await code_of(backend.create_server_image(call, vm, id, "before"), retryable=True) == "busy"
    marks = {"osvm_snapshot": str(id), "osvm_server": vm.cloud_id, "instance_uuid": vm.cloud_id}
    resources.add("images", status="queued", **marks)
    resources.refused = {}
    cloud_id = await backend.create_server_image(call, vm, id, "before")
    assert list(resources.things["images"]) == [cloud_id]
    assert len(server.seen("POST", "/action")) == 2


async def test_a_snapshot_of_a_server_that_does_not_exist_is_refused(
    backend: OpenStackBackend, server: CloudServer
) -> None:
    vm = Ref(uuid4(), str(uuid4()))
    call = backend.create_server_image(token(), vm, uuid4(), "before")
    assert await code_of(call, retryable=False) == "server_not_found"
    assert not server.seen("POST", "/action")


async def test_an_image_is_deleted_by_its_id_or_by_its_mark(
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref
) -> None:
    images = [add_image(resources, vm) for _ in range(2)]
    other = add_image(resources, vm)
    await backend.delete_image(token(), images[0])
    await backend.delete_image(token(), Ref(images[1].id))
    await backend.delete_image(token(), images[0])
    await backend.delete_image(token(undoes=True), Ref(uuid4()))
    assert list(resources.things["images"]) == [other.cloud_id]


async def test_an_image_that_another_one_inherited_its_marks_from_is_not_confused_with_it(
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref
) -> None:
    image = add_image(resources, vm, instance_uuid=str(uuid4()))
    assert await backend.list_images([Ref(image.id)]) == {}
    await backend.delete_image(token(), Ref(image.id))
    assert image.cloud_id in resources.things["images"]


async def test_an_undo_waits_for_an_image_that_may_still_appear(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, engine: AsyncEngine, vm: Ref
) -> None:
    call, id = token(), uuid4()
    server.add(Service.COMPUTE, "POST", f"/servers/{vm.cloud_id}/action", CUT)
    await code_of(backend.create_server_image(call, vm, id, "before"), retryable=True)
    undo = token(operation_id=call.operation_id, undoes=True)
    assert await code_of(backend.delete_image(undo, Ref(id)), retryable=True) == "settling"
    resources.add("images", osvm_snapshot=str(id), osvm_server=vm.cloud_id, instance_uuid=vm.cloud_id)
    await backend.delete_image(undo, Ref(id))
    assert not resources.things["images"]
    await let_time_pass(engine, 121)
    await backend.delete_image(undo, Ref(id))


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("queued", ImageState.QUEUED),
        ("saving", ImageState.SAVING),
        ("importing", ImageState.SAVING),
        ("uploading", ImageState.SAVING),
        ("active", ImageState.ACTIVE),
        ("deactivated", ImageState.ERROR),
        ("killed", None),
        ("pending_delete", None),
    ],
)
async def test_images_are_listed_with_their_state(
    backend: OpenStackBackend, resources: ResourceCloud, status: str, state: ImageState | None
) -> None:
    vm = Ref(uuid4(), resources.add_server(**BUSY))
    image, gone = add_image(resources, vm, status), Ref(uuid4(), str(uuid4()))
    unnoted = add_image(resources, vm, status)
    shown = await backend.list_images([image, gone, Ref(unnoted.id), Ref(uuid4())])
    assert {found.cloud_id: found.state for found in shown.values()} == (
        {image.cloud_id: state, unnoted.cloud_id: state} if state else {}
    )


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (None, "left the image queued"),
        ({"message": "Error"}, "failed to do it"),
        ({}, "The host stopped"),
        ({"events": [ENDED]}, "left the image queued"),
    ],
    ids=["never begun", "failed", "interrupted", "ended"],
)
async def test_an_image_that_its_resting_server_will_not_save_is_an_error(
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref, entry: dict[str, Any] | None, words: str
) -> None:
    image = add_image(resources, vm, "queued")
    if entry is not None:
        resources.add_entry(str(vm.cloud_id), "createImage", **entry)
    shown = (await backend.list_images([image]))[image.id]
    assert shown.state is ImageState.ERROR
    assert shown.fault is not None
    assert words in shown.fault


async def test_an_image_that_is_being_saved_without_an_entry_is_no_error(
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref
) -> None:
    image = add_image(resources, vm, "saving")
    shown = (await backend.list_images([image]))[image.id]
    assert (shown.state, shown.fault) == (ImageState.SAVING, None)


async def test_an_image_of_a_deleted_server_will_not_be_saved(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    image = add_image(resources, Ref(uuid4(), str(uuid4())), "queued")
    shown = (await backend.list_images([image]))[image.id]
    assert (shown.state, shown.fault) == (
        ImageState.ERROR,
        "Somebody else deleted the server before the image was saved.",
    )


async def test_an_image_that_is_saved_while_its_server_is_looked_at_is_no_error(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref
) -> None:
    image = add_image(resources, vm)
    queued = resources.things["images"][str(image.cloud_id)] | {"status": "queued"}
    server.add(Service.IMAGE, "GET", f"/images/{image.cloud_id}", Reply(200, queued))
    assert (await backend.list_images([image]))[image.id].fault is None
    reads = [request for request in server.received if request.path.startswith(PREFIXES[Service.IMAGE])]
    assert len(reads) == 2
