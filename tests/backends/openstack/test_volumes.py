"""Volumes of a cloud: created, listed and deleted, each once, whatever happens to the answers."""

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.openstack.backend import OpenStackBackend
from activities.backends.openstack.errors import Service
from activities.backends.resources import Ref, Volume
from domain.rules.cloud import VolumeState
from tests.backends.openstack.cloud_server import CloudServer, Reply
from tests.backends.openstack.guarded import let_time_pass
from tests.backends.openstack.resource_cloud import CUT, ResourceCloud, add_volume, code_of, token

ATTACHED = Reply(400, {"badRequest": {"code": 400, "message": "Invalid volume: Volume status must be available"}})


async def test_a_new_volume_has_our_marks_and_is_made_once(backend: OpenStackBackend, server: CloudServer) -> None:
    id, call = uuid4(), token()
    cloud_id = await backend.create_volume(call, id, "data", 3)
    assert await backend.create_volume(call, id, "data", 3) == cloud_id
    (request,) = server.seen("POST", "/volumes")
    marks = {"osvm_volume": str(id), "osvm_operation": str(call.operation_id), "osvm_step": call.step}
    assert request.body == {"volume": {"name": "data", "size": 3, "metadata": marks}}


async def test_a_volume_whose_answer_is_lost_is_found_by_its_mark_among_others(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer
) -> None:
    add_volume(resources)
    resources.ignores_filters = True
    resources.lost = {("POST", "/volumes")}
    id, call = uuid4(), token()
    assert await code_of(backend.create_volume(call, id, "data", 1), retryable=True) == "cloud_timeout"
    cloud_id = await backend.create_volume(call, id, "data", 1)
    assert resources.things["volumes"][cloud_id]["metadata"]["osvm_volume"] == str(id)
    assert len(server.seen("POST", "/volumes")) == 1


async def test_a_volume_that_was_never_made_is_asked_for_again_after_the_settle_time(
    backend: OpenStackBackend, server: CloudServer, engine: AsyncEngine
) -> None:
    server.add(Service.VOLUME, "POST", "/volumes", CUT)
    id, call = uuid4(), token()
    for code in ("cloud_timeout", "settling"):
        assert await code_of(backend.create_volume(call, id, "data", 1), retryable=True) == code
    await let_time_pass(engine, 121)
    await backend.create_volume(call, id, "data", 1)
    assert len(server.seen("POST", "/volumes")) == 2


async def test_an_undo_waits_for_a_volume_that_may_still_appear(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer
) -> None:
    server.add(Service.VOLUME, "POST", "/volumes", CUT)
    id, call = uuid4(), token()
    await code_of(backend.create_volume(call, id, "data", 1), retryable=True)
    await backend.revoke(call.operation_id)
    undo = token(operation_id=call.operation_id, undoes=True)
    assert await code_of(backend.delete_volume(undo, Ref(id)), retryable=True) == "settling"
    resources.add("volumes", metadata={"osvm_volume": str(id)})
    await backend.delete_volume(undo, Ref(id))
    assert not resources.things["volumes"]


async def test_an_undo_ends_once_nothing_can_appear_any_more(
    backend: OpenStackBackend, server: CloudServer, engine: AsyncEngine
) -> None:
    server.add(Service.VOLUME, "POST", "/volumes", CUT)
    id, call = uuid4(), token()
    await code_of(backend.create_volume(call, id, "data", 1), retryable=True)
    undo = token(operation_id=call.operation_id, undoes=True)
    await let_time_pass(engine, 121)
    await backend.delete_volume(undo, Ref(id))
    assert not server.seen("DELETE", "")


async def test_a_delete_of_somebody_else_does_not_wait_for_what_others_have_lost(
    backend: OpenStackBackend, server: CloudServer
) -> None:
    server.add(Service.VOLUME, "POST", "/volumes", CUT)
    id, call = uuid4(), token()
    await code_of(backend.create_volume(call, id, "data", 1), retryable=True)
    await backend.delete_volume(token(), Ref(id))
    await backend.delete_volume(token(undoes=True), Ref(id))


@pytest.mark.parametrize("status", [None, "deleting"], ids=["gone", "going"])
async def test_what_is_gone_or_going_is_not_deleted_again(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, status: str | None
) -> None:
    volume = add_volume(resources, status) if status else Ref(uuid4(), str(uuid4()))
    await backend.delete_volume(token(), volume)
    assert not server.seen("DELETE", "")


@pytest.mark.parametrize("answer", [Reply(404), ATTACHED], ids=["gone", "going"])
async def test_a_volume_that_somebody_deletes_in_the_same_moment_is_deleted(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer, answer: Reply
) -> None:
    volume = add_volume(resources)
    path = f"/volumes/{volume.cloud_id}"
    shown = {"volume": resources.things["volumes"][str(volume.cloud_id)]}
    if answer.status == 404:
        answer = Reply(404, {"itemNotFound": {"code": 404, "message": f"Volume {volume.cloud_id} could not be found."}})
    del resources.things["volumes"][str(volume.cloud_id)]
    server.add(Service.VOLUME, "GET", path, Reply(200, shown))
    server.add(Service.VOLUME, "DELETE", path, answer)
    await backend.delete_volume(token(), volume)


async def test_a_delete_that_the_cloud_accepted_and_failed_is_sent_again_under_its_token(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer
) -> None:
    volume, call = add_volume(resources), token()
    server.add(Service.VOLUME, "DELETE", f"/volumes/{volume.cloud_id}", Reply(202))
    await backend.delete_volume(call, volume)
    resources.things["volumes"][str(volume.cloud_id)]["status"] = "error_deleting"
    await backend.delete_volume(call, volume)
    assert not resources.things["volumes"]
    await backend.delete_volume(call, volume)
    assert len(server.seen("DELETE", "")) == 2


async def test_a_revoked_delete_is_not_sent_again(
    backend: OpenStackBackend, resources: ResourceCloud, server: CloudServer
) -> None:
    volume, call = add_volume(resources), token()
    server.add(Service.VOLUME, "DELETE", f"/volumes/{volume.cloud_id}", Reply(202))
    await backend.delete_volume(call, volume)
    await backend.revoke(call.operation_id)
    await backend.delete_volume(call, volume)
    assert len(server.seen("DELETE", "")) == 1


@pytest.mark.parametrize(
    "outcome",
    [
        ("in-use", "conflict", False),
        ("attaching", "busy", True),
        ("creating", "busy", True),
        ("extending", "busy", True),
    ],
)
async def test_a_volume_at_a_server_is_not_deleted_and_one_on_its_way_not_yet(
    backend: OpenStackBackend, resources: ResourceCloud, outcome: tuple[str, str, bool]
) -> None:
    status, code, retryable = outcome
    volume = add_volume(resources, status)
    resources.server.add(Service.VOLUME, "DELETE", f"/volumes/{volume.cloud_id}", ATTACHED)
    assert await code_of(backend.delete_volume(token(), volume), retryable=retryable) == code


async def test_a_volume_that_stays_on_its_way_for_ever_is_not_waited_for(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    volume = add_volume(resources, "creating", age=timedelta(minutes=11))
    resources.server.add(Service.VOLUME, "DELETE", f"/volumes/{volume.cloud_id}", ATTACHED)
    assert await code_of(backend.delete_volume(token(), volume), retryable=False) == "conflict"


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("creating", VolumeState.CREATING),
        ("downloading", VolumeState.CREATING),
        ("available", VolumeState.AVAILABLE),
        ("reserved", VolumeState.ATTACHING),
        ("attaching", VolumeState.ATTACHING),
        ("in-use", VolumeState.IN_USE),
        ("detaching", VolumeState.DETACHING),
        ("extending", VolumeState.EXTENDING),
        ("deleting", VolumeState.DELETING),
        ("error", VolumeState.ERROR),
        ("error_deleting", VolumeState.ERROR),
        ("backing-up", VolumeState.AVAILABLE),
    ],
)
async def test_volumes_are_listed_with_their_state(
    backend: OpenStackBackend, resources: ResourceCloud, status: str, state: VolumeState
) -> None:
    resources.refused = {("GET", "/messages"): Reply(200, {"messages": []})}
    volume, gone = add_volume(resources, status), Ref(uuid4(), str(uuid4()))
    unnoted = Ref(add_volume(resources, status).id)
    shown = await backend.list_volumes([volume, gone, unnoted, Ref(uuid4())])
    assert shown == {ref.id: Volume(ref.id, state, size_gb=1) for ref in (volume, unnoted)}


async def test_a_cloud_id_means_that_volume_and_no_other_with_the_mark(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    volume = add_volume(resources)
    assert await backend.list_volumes([Ref(volume.id, str(uuid4()))]) == {}


async def test_a_strange_volume_of_the_project_does_not_keep_the_others_from_being_listed(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    resources.add("volumes", attachments=[{"server_id": None, "host_name": "a-host"}])
    volumes = [add_volume(resources) for _ in range(2)]
    assert len(await backend.list_volumes(volumes)) == 2


async def test_a_volume_that_cannot_be_read_is_not_taken_for_gone(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    volumes = [add_volume(resources) for _ in range(2)]
    resources.refused = {
        ("GET", "/volumes/detail"): Reply(200, {"volumes": []}),
        ("GET", f"/{volumes[0].cloud_id}"): Reply(500),
    }
    assert await code_of(backend.list_volumes(volumes), retryable=True) == "cloud_unavailable"


async def test_a_volume_in_error_has_the_newest_reason_that_the_cloud_tells(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    volume = add_volume(resources, "error")
    told = {"Too late.": "2026-01-02T00:00:00.000000", "Too early.": "2026-01-01T00:00:00.000000"}
    messages = [{"user_message": message, "created_at": at} for message, at in told.items()]
    for answer, fault in ((Reply(200, {"messages": messages}), "Too late."), (Reply(403), None)):
        resources.refused = {("GET", "/messages"): answer}
        shown = (await backend.list_volumes([volume]))[volume.id]
        assert (shown.state, shown.fault) == (VolumeState.ERROR, fault)


async def test_a_comparison_does_not_ask_for_the_reason_of_each_volume_in_error(
    backend: OpenStackBackend, resources: ResourceCloud
) -> None:
    volumes = [add_volume(resources, "error") for _ in range(3)]
    told = {"user_message": "Too late.", "created_at": "2026-01-01T00:00:00.000000"}
    resources.refused = {("GET", "/messages"): Reply(200, {"messages": [told]})}
    shown = await backend.list_volumes(volumes, with_faults=False)
    assert {(volume.state, volume.fault) for volume in shown.values()} == {(VolumeState.ERROR, None)}
