"""Attachments of volumes to servers: begun and ended once, and never those of somebody else."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.openstack.errors import Service
from activities.backends.resources import Ref, Volume
from domain.rules.cloud import VolumeState
from tests.backends.openstack.cloud_server import REQUEST_ID, CloudServer, Reply
from tests.backends.openstack.guarded import let_time_pass
from tests.backends.openstack.resource_cloud import CUT, ResourceCloud, add_volume, code_of, token


def refused(message: str) -> Reply:
    """A refusal that is about the state of a volume."""
    return Reply(400, {"badRequest": {"code": 400, "message": f"Invalid volume: {message}"}})


NOT_FREE = refused("volume is already attached to instances: another")
NOT_ATTACHED = refused("Unable to detach volume. Volume status must be 'in-use'")


@pytest.fixture
def vm(resources: ResourceCloud) -> Ref:
    """A VM with a server that lost its marks."""
    return Ref(uuid4(), resources.add_server())


@pytest.fixture
def volume(resources: ResourceCloud) -> Ref:
    """A free volume."""
    return add_volume(resources)


def path_of(vm: Ref, volume: Ref) -> str:
    """Return the path of the attachment."""
    return f"/servers/{vm.cloud_id}/os-volume_attachments/{volume.cloud_id}"


async def test_an_attach_is_sent_once_and_the_cloud_chooses_the_device(
    backend: OpenStackBackend, server: CloudServer, vm: Ref, volume: Ref
) -> None:
    call = token()
    for _ in range(2):
        assert await backend.attach_volume(call, vm, volume, "/dev/vdx") == "/dev/sdb"
    (request,) = server.seen("POST", "/os-volume_attachments")
    assert request.body == {"volumeAttachment": {"volumeId": volume.cloud_id, "delete_on_termination": False}}


async def test_an_attach_whose_answer_is_lost_is_found(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref, volume: Ref
) -> None:
    resources.lost, call = {("POST", "/os-volume_attachments")}, token()
    assert await code_of(backend.attach_volume(call, vm, volume, None), retryable=True) == "cloud_timeout"
    assert await backend.attach_volume(call, vm, volume, None) == "/dev/sdb"
    assert len(server.seen("POST", "/os-volume_attachments")) == 1


async def test_a_volume_that_an_earlier_request_has_just_attached_is_attached(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref, volume: Ref
) -> None:
    resources.attach(str(vm.cloud_id), str(volume.cloud_id))
    server.add(Service.COMPUTE, "GET", path_of(vm, volume), Reply(404, {"itemNotFound": {"message": "No."}}))
    resources.refused = {("POST", "/os-volume_attachments"): NOT_FREE}
    assert await backend.attach_volume(token(), vm, volume, None) == "/dev/sdb"


async def test_a_volume_of_another_server_is_not_attached(
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref, volume: Ref
) -> None:
    resources.refused = {("POST", "/os-volume_attachments"): NOT_FREE}
    assert await code_of(backend.attach_volume(token(), vm, volume, None), retryable=False) == "conflict"


async def test_nothing_is_attached_that_does_not_exist(
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref, volume: Ref
) -> None:
    attach = backend.attach_volume
    assert await code_of(attach(token(), vm, Ref(uuid4()), None), retryable=False) == "volume_not_found"
    assert await code_of(attach(token(), Ref(uuid4()), volume, None), retryable=False) == "server_not_found"
    resources.attach(str(vm.cloud_id), str(volume.cloud_id))
    call = token()
    await attach(call, vm, volume, None)
    resources.attached.clear()
    assert await code_of(attach(call, vm, volume, None), retryable=False) == "volume_detached"


async def test_an_attached_volume_is_shown_at_its_vm_though_its_server_lost_the_marks(
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref, volume: Ref
) -> None:
    await backend.attach_volume(token(), vm, volume, None)
    resources.attach(str(vm.cloud_id), str(volume.cloud_id))
    shown = Volume(volume.id, VolumeState.IN_USE, vm.id, "/dev/sdb", size_gb=1)
    assert await backend.list_volumes([volume]) == {volume.id: shown}


async def test_a_worker_that_attached_nothing_learns_the_vm_from_the_marks(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, volume: Ref
) -> None:
    vm_id = uuid4()
    resources.attach(resources.add("servers", tags=[f"vm:{vm_id}"]), str(volume.cloud_id))
    for _ in range(2):
        assert (await backend.list_volumes([volume]))[volume.id].vm_id == vm_id
    assert len([request for request in server.received if "/servers" in request.path]) == 1


@pytest.mark.parametrize("server_exists", [True, False])
async def test_a_volume_of_somebody_elses_server_is_at_the_vm_that_would_adopt_it(
    backend: OpenStackBackend, resources: ResourceCloud, volume: Ref, *, server_exists: bool
) -> None:
    server_id = resources.add_server() if server_exists else str(uuid4())
    resources.attach(server_id, str(volume.cloud_id))
    expected = UUID(server_id) if server_exists else None
    assert (await backend.list_volumes([volume]))[volume.id].vm_id == expected


async def test_a_server_that_the_cloud_cannot_show_is_not_taken_for_somebody_elses(
    backend: OpenStackBackend, resources: ResourceCloud, volume: Ref
) -> None:
    server_id = str(uuid4())
    resources.things["servers"][server_id] = {"id": server_id, "status": "UNKNOWN"}
    resources.attach(server_id, str(volume.cloud_id))
    assert await code_of(backend.list_volumes([volume]), retryable=True) == "cloud_unavailable"


async def test_a_detach_is_sent_once_and_what_is_not_attached_needs_none(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref, volume: Ref
) -> None:
    await backend.detach_volume(token(), vm, volume)
    await backend.detach_volume(token(), vm, Ref(uuid4()))
    await backend.detach_volume(token(), Ref(uuid4()), volume)
    assert not server.seen("DELETE", "")
    resources.attach(str(vm.cloud_id), str(volume.cloud_id))
    call = token()
    for _ in range(2):
        await backend.detach_volume(call, vm, volume)
    assert len(server.seen("DELETE", "")) == 1
    assert resources.things["volumes"][str(volume.cloud_id)]["status"] == "detaching"


@pytest.mark.parametrize("outcome", [("attaching", "busy", True), ("in-use", "conflict", False)])
async def test_a_detach_that_is_refused_is_repeated_only_if_it_came_too_early(
    backend: OpenStackBackend,
    resources: ResourceCloud,
    vm: Ref,
    volume: Ref,
    outcome: tuple[str, str, bool],
) -> None:
    status, code, retryable = outcome
    resources.attach(str(vm.cloud_id), str(volume.cloud_id), status)
    resources.refused = {("DELETE", str(volume.cloud_id)): NOT_ATTACHED}
    assert await code_of(backend.detach_volume(token(), vm, volume), retryable=retryable) == code


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (409, "conflictingRequest", "Cannot 'detach_volume' instance x while it is in vm_state deleted"),
        (400, "badRequest", "Cannot detach a root device volume"),
    ],
)
async def test_a_detach_from_a_server_that_is_just_deleted_waits_for_that(  # noqa: PLR0913, PLR0917
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref, volume: Ref, status: int, kind: str, message: str
) -> None:
    resources.attach(str(vm.cloud_id), str(volume.cloud_id))
    resources.things["servers"][str(vm.cloud_id)]["status"] = "DELETED"
    refusal = Reply(status, {kind: {"code": status, "message": message}})
    resources.refused = {("DELETE", str(volume.cloud_id)): refusal}
    assert await code_of(backend.detach_volume(token(), vm, volume), retryable=True) == "busy"
    resources.attached.clear()
    await backend.detach_volume(token(), vm, volume)


async def test_a_detach_that_is_refused_is_done_if_somebody_else_does_it(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, vm: Ref, volume: Ref
) -> None:
    resources.attach(str(vm.cloud_id), str(volume.cloud_id), "detaching")
    resources.refused = {("DELETE", str(volume.cloud_id)): NOT_ATTACHED}
    await backend.detach_volume(token(), vm, volume)
    server.add(Service.COMPUTE, "GET", path_of(vm, volume), Reply(200, {"volumeAttachment": {}}))
    resources.attached.clear()
    await backend.detach_volume(token(), vm, volume)


@pytest.mark.parametrize("has_failed", [True, False])
async def test_only_a_detach_that_failed_is_sent_again_to_a_volume_that_is_attached(
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref, volume: Ref, *, has_failed: bool
) -> None:
    resources.attach(str(vm.cloud_id), str(volume.cloud_id))
    call, message = token(), "Error" if has_failed else None
    await backend.detach_volume(call, vm, volume)
    resources.add_entry(str(vm.cloud_id), "detach_volume", request_id=REQUEST_ID, message=message)
    resources.attach(str(vm.cloud_id), str(volume.cloud_id))  # as it was, or once more
    await backend.detach_volume(call, vm, volume)
    assert len(resources.server.seen("DELETE", "")) == (2 if has_failed else 1)


async def test_an_undo_waits_for_an_attach_that_may_still_begin(
    backend: OpenStackBackend, resources: ResourceCloud, engine: AsyncEngine, vm: Ref, volume: Ref
) -> None:
    call = token()
    resources.server.add(Service.COMPUTE, "POST", f"/servers/{vm.cloud_id}/os-volume_attachments", CUT)
    await code_of(backend.attach_volume(call, vm, volume, None), retryable=True)
    undo = token(operation_id=call.operation_id, undoes=True)
    assert await code_of(backend.detach_volume(undo, vm, volume), retryable=True) == "settling"
    resources.attach(str(vm.cloud_id), str(volume.cloud_id))
    await backend.detach_volume(undo, vm, volume)
    assert len(resources.server.seen("DELETE", "")) == 1
    resources.attached.clear()
    await let_time_pass(engine, 121)
    await backend.detach_volume(token(operation_id=call.operation_id, undoes=True), vm, volume)


@pytest.mark.parametrize("message", ["Error", None], ids=["failed", "done"])
async def test_the_servers_entry_tells_whether_an_attach_failed(
    backend: OpenStackBackend, resources: ResourceCloud, vm: Ref, volume: Ref, message: str | None
) -> None:
    call = token()
    assert await backend.is_over(call.operation_id, vm)
    await backend.attach_volume(call, vm, volume, None)
    assert await backend.is_over(call.operation_id, vm), "there is no entry yet"
    resources.add_entry(str(vm.cloud_id), "attach_volume", request_id=REQUEST_ID, message=message)
    if message:
        assert await code_of(backend.is_over(call.operation_id, vm), retryable=False) == "action_failed"
    else:
        assert await backend.is_over(call.operation_id, vm)
