"""What an operator reads of an operation on a snapshot, a volume or an interface."""

import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowHandle

from domain.rules.messages import Activity, FailedAttemptInput
from domain.rules.states import Action, Status
from tests.workflows.test_resources import NEW
from tests.workflows.test_stories import EFFECTS, aftermath, failure_of
from tests.workflows.test_view import details_of, ended, until_details, waits_for
from tests.workflows.world import HANG, LEAVES, WITHOUT_VM, World, decision, refused

A = Activity
SUMMARIES = {
    (Action.SNAPSHOT, A.CREATE_SERVER_IMAGE): "Begin to save the disk as an image",
    (Action.SNAPSHOT, A.UPLOAD_IMAGE): "See that the image is being saved",
    (Action.SNAPSHOT, A.WAIT_FOR_IMAGE): "Wait for the image to be saved",
    (Action.RESTORE, A.REBUILD_SERVER): "Make the server anew from the snapshot",
    (Action.RESTORE, A.WAIT_FOR_SERVER): "Wait for the server to be ACTIVE",
    (Action.RESTORE, A.CHECK_FLAVOR): "See that it has its old size",
    (Action.DELETE_SNAPSHOT, A.DELETE_IMAGE): "Delete the image",
    (Action.CREATE_VOLUME, A.CREATE_VOLUME): "Make the volume",
    (Action.CREATE_VOLUME, A.WAIT_FOR_VOLUME): "Wait for the volume to be available",
    (Action.DELETE_VOLUME, A.DELETE_VOLUME): "Delete the volume",
    (Action.DELETE_VOLUME, A.WAIT_FOR_VOLUME): "Wait for the volume to be gone",
    (Action.ATTACH_VOLUME, A.ATTACH_VOLUME): "Attach the volume",
    (Action.ATTACH_VOLUME, A.WAIT_FOR_VOLUME): "Wait for the volume to be in-use",
    (Action.DETACH_VOLUME, A.DETACH_VOLUME): "Detach the volume",
    (Action.DETACH_VOLUME, A.WAIT_FOR_VOLUME): "Wait for the volume to be available",
    (Action.ATTACH_INTERFACE, A.CREATE_INTERFACE): "Plug the port in",
    (Action.DETACH_INTERFACE, A.DELETE_INTERFACE): "Take the port from the server",
    (Action.DELETE, A.RELEASE_RESOURCES): "Free its volumes, remove half-made images",
}
AFTERWARDS = {
    Action.SNAPSHOT: "Remove the half-made image",
    Action.RESTORE: "See how the server settles",
    Action.DELETE_SNAPSHOT: "See whether the image is still there",
    Action.CREATE_VOLUME: "Remove the half-made volume",
    Action.DELETE_VOLUME: "See how the volume settles",
    Action.ATTACH_VOLUME: "Take the volume from the server",
    Action.DETACH_VOLUME: "See how the volume settles",
    Action.ATTACH_INTERFACE: "Take the port from the server",
    Action.DETACH_INTERFACE: "See whether the port is there",
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
each_new = pytest.mark.parametrize("action", NEW)


async def state_of(handle: WorkflowHandle[Any, Any]) -> tuple[str | None, str | None]:
    """What the query `state` answers."""
    state = await handle.query("state")
    return state["status"], state["task_state"]


def test_the_summary_of_every_new_step_is_read_somewhere() -> None:
    steps = {(action, point) for action in NEW for point in EFFECTS[action]}
    assert set(SUMMARIES) == steps | {(Action.DELETE, A.RELEASE_RESOURCES)}
    assert set(AFTERWARDS) == set(NEW)


@pytest.mark.parametrize(("action", "point"), SUMMARIES)
async def test_a_step_shows_what_is_done_and_the_state_it_is_done_in(
    world: World, action: Action, point: Activity
) -> None:
    world.script(A.DELETE_SERVER, LEAVES)
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
    await ended(handle)


@each_new
async def test_the_heading_says_what_is_done_to_what_for_whom(world: World, action: Action) -> None:
    asked = decision(action)
    world.script(EFFECTS[action][0], HANG)
    handle = await world.start_with(asked)
    details = await until_details(handle, "**Now:** ")
    of_vm = "" if action in WITHOUT_VM else " VM `web-1`"
    assert details.startswith(f"### {action}{of_vm} from a to b\n")
    assert "**For:** `ada`" in details
    assert (f"**VM:** `{asked.vm_id}`" in details) is (action not in WITHOUT_VM)
    assert ("**VM:**" in details) is (action not in WITHOUT_VM)
    assert f"**Resource:** `{asked.resource_id}`" in details
    assert f"**Operation:** `{asked.operation_id}`" in details
    await ended(handle)


async def test_an_operation_on_the_vm_itself_names_it_once(world: World) -> None:
    world.script(A.STOP_SERVER, HANG)
    handle = await world.start(Action.STOP)
    assert "**Resource:**" not in await until_details(handle, "Shut the server down")
    await ended(handle)


@each_new
async def test_what_follows_a_failure_shows_with_its_reason(world: World, action: Action) -> None:
    world.script(EFFECTS[action][0], refused("mock_refused"))
    world.script(aftermath(action)[0], may_end := asyncio.Event())
    handle = await world.start(action)
    details = await until_details(handle, f"**Now:** {AFTERWARDS[action]}")
    assert "**Last error:** `mock_refused, for good`" in details
    may_end.set()
    await failure_of(handle)


@each_new
@pytest.mark.parametrize("previous", [Status.ACTIVE, Status.SHUTOFF])
async def test_a_good_end_shows_the_vm_as_before_where_it_was_held(
    world: World, action: Action, previous: Status
) -> None:
    handle = await world.start(action, previous)
    await handle.result()
    details = await details_of(handle)
    assert "**Now:** has ended" in details
    assert await state_of(handle) == (previous if action in HOLD_VM else None, None)
    assert (f"**State:** {previous}, no task state" in details) is (action in HOLD_VM)


@each_new
async def test_a_bad_end_shows_what_it_leaves_and_why(world: World, action: Action) -> None:
    world.script(EFFECTS[action][0], refused("mock_refused"))
    handle = await world.start(action, Status.SHUTOFF)
    await failure_of(handle)
    left = {Action.SNAPSHOT: "SHUTOFF", Action.RESTORE: "ERROR"}
    assert await state_of(handle) == (left.get(action), None)
    assert "**Last error:** `mock_refused, for good`" in await details_of(handle)


@each_new
async def test_a_failed_attempt_shows_and_can_be_searched_for(world: World, action: Action) -> None:
    point = EFFECTS[action][0]
    world.script(point, HANG)
    handle = await world.start(action)
    await world.reached[point].wait()
    await handle.signal("note_failed_attempt", FailedAttemptInput(point, 2, "busy"))
    assert "**Last error:** `attempt 2: busy`" in await until_details(handle, "attempt 2")
    assert await waits_for(handle) == ["retry"]
    await ended(handle)
