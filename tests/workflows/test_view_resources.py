"""The view of operations on snapshots, volumes and interfaces."""

import asyncio

import pytest

from domain.rules.messages import Activity, FailedAttemptInput
from domain.rules.states import Action, Status
from tests.workflows.resizing import state_of
from tests.workflows.stories import EFFECTS, ON_RESOURCES, after_failure, failure_of
from tests.workflows.test_view import cancel, details_of, until_details, waits_for
from tests.workflows.world import HANG, HAS_RESOURCES, WITHOUT_VM, World, new_operation, refused

A = Activity
SUMMARIES = {
    (Action.SNAPSHOT, A.CREATE_SERVER_IMAGE): "Begin to save the disk as an image",
    (Action.SNAPSHOT, A.UPLOAD_IMAGE): "Check that the image is being saved",
    (Action.SNAPSHOT, A.WAIT_FOR_IMAGE): "Wait for the image to be saved",
    (Action.RESTORE, A.REBUILD_SERVER): "Rebuild the server from the snapshot",
    (Action.RESTORE, A.WAIT_FOR_SERVER): "Wait for the server to be ACTIVE",
    (Action.RESTORE, A.CHECK_FLAVOR): "Check the server's size",
    (Action.DELETE_SNAPSHOT, A.DELETE_IMAGE): "Delete the image",
    (Action.CREATE_VOLUME, A.CREATE_VOLUME): "Create the volume",
    (Action.CREATE_VOLUME, A.WAIT_FOR_VOLUME): "Wait for the volume to be available",
    (Action.DELETE_VOLUME, A.DELETE_VOLUME): "Delete the volume",
    (Action.DELETE_VOLUME, A.WAIT_FOR_VOLUME): "Wait for the volume to be gone",
    (Action.EXTEND_VOLUME, A.EXTEND_VOLUME): "Extend the volume",
    (Action.EXTEND_VOLUME, A.WAIT_FOR_EXTENSION): "Wait for the volume to have its new size",
    (Action.ATTACH_VOLUME, A.ATTACH_VOLUME): "Attach the volume",
    (Action.ATTACH_VOLUME, A.WAIT_FOR_VOLUME): "Wait for the volume to be in-use",
    (Action.DETACH_VOLUME, A.DETACH_VOLUME): "Detach the volume",
    (Action.DETACH_VOLUME, A.WAIT_FOR_VOLUME): "Wait for the volume to be available",
    (Action.ATTACH_INTERFACE, A.CREATE_INTERFACE): "Attach the port",
    (Action.DETACH_INTERFACE, A.DELETE_INTERFACE): "Detach the port",
    (Action.DELETE, A.RELEASE_RESOURCES): "Release its volumes, remove unfinished images",
}
AFTER_FAILURE = {
    Action.SNAPSHOT: "Remove the unfinished image",
    Action.RESTORE: "Wait until the server is at rest",
    Action.DELETE_SNAPSHOT: "Check whether the image is still there",
    Action.CREATE_VOLUME: "Remove the unfinished volume",
    Action.DELETE_VOLUME: "Wait until the volume is at rest",
    Action.EXTEND_VOLUME: "Wait until the volume is at rest",
    Action.ATTACH_VOLUME: "Detach the volume",
    Action.DETACH_VOLUME: "Wait until the volume is at rest",
    Action.ATTACH_INTERFACE: "Detach the port",
    Action.DETACH_INTERFACE: "Check whether the port is there",
}
STATES = {
    A.CREATE_SERVER_IMAGE: "image_snapshot",
    A.UPLOAD_IMAGE: "image_uploading",
    A.WAIT_FOR_IMAGE: "image_uploading",
    A.REBUILD_SERVER: "restoring",
    A.WAIT_FOR_SERVER: "restoring",
    A.CHECK_FLAVOR: "restoring",
}
HOLD_VM = {Action.SNAPSHOT, Action.RESTORE}
each_action = pytest.mark.parametrize("action", ON_RESOURCES)


def test_every_step_on_resources_is_tested() -> None:
    steps = {(action, point) for action in ON_RESOURCES for point in EFFECTS[action]}
    assert set(SUMMARIES) == steps | {(Action.DELETE, A.RELEASE_RESOURCES)}
    assert set(AFTER_FAILURE) == set(ON_RESOURCES)


@pytest.mark.parametrize(("action", "point"), SUMMARIES)
async def test_a_step_shows_its_summary_and_the_state_of_the_vm(world: World, action: Action, point: Activity) -> None:
    world.script(A.DELETE_SERVER, HAS_RESOURCES)
    world.script(point, HANG)
    handle = await world.start(action)
    await world.reached[point].wait()
    details = await until_details(handle, f"**Now:** {SUMMARIES[action, point]}")
    status = "DELETING" if action is Action.DELETE else "ACTIVE" if action in HOLD_VM else None
    task_state = "deleting" if action is Action.DELETE else STATES[point] if action in HOLD_VM else None
    assert await state_of(handle) == (status, task_state)
    assert ("**State:**" in details) is (status is not None)
    if status:
        assert f"**State:** {status}, {task_state}" in details
    await cancel(handle)


@each_action
async def test_the_view_shows_the_action_the_resource_and_the_requester(world: World, action: Action) -> None:
    operation = new_operation(action)
    world.script(EFFECTS[action][0], HANG)
    handle = await world.start_with(operation)
    details = await until_details(handle, "**Now:** ")
    vm = "" if action in WITHOUT_VM else " VM `web-1`"
    assert details.startswith(f"### {action}{vm} from a to b\n")
    assert "**For:** `ada`" in details
    assert (f"**VM:** `{operation.vm_id}`" in details) is (action not in WITHOUT_VM)
    assert ("**VM:**" in details) is (action not in WITHOUT_VM)
    assert f"**Resource:** `{operation.resource_id}`" in details
    assert f"**Operation:** `{operation.operation_id}`" in details
    await cancel(handle)


async def test_an_operation_on_a_vm_shows_no_other_resource(world: World) -> None:
    world.script(A.STOP_SERVER, HANG)
    handle = await world.start(Action.STOP)
    assert "**Resource:**" not in await until_details(handle, "Shut the server down")
    await cancel(handle)


@each_action
async def test_the_activity_after_a_failure_is_shown_with_the_error(world: World, action: Action) -> None:
    world.script(EFFECTS[action][0], refused("mock_refused"))
    world.script(after_failure(action)[0], release := asyncio.Event())
    handle = await world.start(action)
    details = await until_details(handle, f"**Now:** {AFTER_FAILURE[action]}")
    assert "**Last error:** `mock_refused, for good`" in details
    release.set()
    await failure_of(handle)


@each_action
@pytest.mark.parametrize("previous", [Status.ACTIVE, Status.SHUTOFF])
async def test_a_success_shows_the_previous_status_if_the_operation_held_the_vm(
    world: World, action: Action, previous: Status
) -> None:
    handle = await world.start(action, previous)
    await handle.result()
    details = await details_of(handle)
    assert "**Now:** has ended" in details
    assert await state_of(handle) == (previous if action in HOLD_VM else None, None)
    assert (f"**State:** {previous}, no task state" in details) is (action in HOLD_VM)


@each_action
async def test_a_failure_shows_the_resulting_status_and_the_error(world: World, action: Action) -> None:
    world.script(EFFECTS[action][0], refused("mock_refused"))
    handle = await world.start(action, Status.SHUTOFF)
    await failure_of(handle)
    expected = {Action.SNAPSHOT: "SHUTOFF", Action.RESTORE: "ERROR"}
    assert await state_of(handle) == (expected.get(action), None)
    assert "**Last error:** `mock_refused, for good`" in await details_of(handle)


@each_action
async def test_a_failed_attempt_is_shown_and_can_be_searched_for(world: World, action: Action) -> None:
    point = EFFECTS[action][0]
    world.script(point, HANG)
    handle = await world.start(action)
    await world.reached[point].wait()
    await handle.signal("note_failed_attempt", FailedAttemptInput(point, 2, "busy"))
    assert "**Last error:** `attempt 2: busy`" in await until_details(handle, "attempt 2")
    assert await waits_for(handle) == ["retry"]
    await cancel(handle)
