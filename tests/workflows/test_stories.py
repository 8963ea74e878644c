"""Each workflow tells its row of the lifecycle table, and every way it can end is one a user can act on."""

from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity
from domain.rules.states import Action, Status, TaskState
from domain.rules.table import TABLE
from tests.workflows.world import HANG, SLOW, World, failed, refused

ENTERS = {
    Activity.SCHEDULE_SERVER: TaskState.SCHEDULING,
    Activity.CREATE_PORTS: TaskState.NETWORKING,
    Activity.SPAWN_SERVER: TaskState.SPAWNING,
    Activity.START_SERVER: TaskState.POWERING_ON,
    Activity.STOP_SERVER: TaskState.POWERING_OFF,
    Activity.REBOOT_SERVER: TaskState.REBOOTING,
    Activity.REBOOT_SERVER_HARD: TaskState.REBOOTING_HARD,
    Activity.PREPARE_RESIZE: TaskState.RESIZE_PREP,
    Activity.RESIZE_SERVER: TaskState.RESIZE_MIGRATING,
    Activity.FINISH_RESIZE: TaskState.RESIZE_FINISH,
    Activity.CONFIRM_RESIZE: TaskState.RESIZE_CONFIRMING,
    Activity.REVERT_RESIZE: TaskState.RESIZE_REVERTING,
    Activity.CREATE_SERVER_IMAGE: TaskState.IMAGE_SNAPSHOT,
    Activity.UPLOAD_IMAGE: TaskState.IMAGE_UPLOADING,
    Activity.REBUILD_SERVER: TaskState.RESTORING,
    Activity.PREEMPT_OPERATIONS: TaskState.DELETING,
    Activity.DELETE_SERVER: TaskState.DELETING,
}
EFFECTS = {
    Action.CREATE: [Activity.SCHEDULE_SERVER, Activity.CREATE_PORTS, Activity.SPAWN_SERVER, Activity.WAIT_FOR_SERVER],
    Action.START: [Activity.START_SERVER, Activity.WAIT_FOR_SERVER],
    Action.STOP: [Activity.STOP_SERVER, Activity.WAIT_FOR_SERVER],
    Action.REBOOT_SOFT: [Activity.REBOOT_SERVER, Activity.WAIT_FOR_SERVER],
    Action.REBOOT_HARD: [Activity.REBOOT_SERVER_HARD, Activity.WAIT_FOR_SERVER],
    Action.RESIZE: [
        Activity.PREPARE_RESIZE,
        Activity.RESIZE_SERVER,
        Activity.WAIT_FOR_SERVER,
        Activity.FINISH_RESIZE,
    ],
    Action.CONFIRM_RESIZE: [Activity.CONFIRM_RESIZE, Activity.WAIT_FOR_SERVER, Activity.CHECK_FLAVOR],
    Action.REVERT_RESIZE: [Activity.REVERT_RESIZE, Activity.WAIT_FOR_SERVER, Activity.CHECK_FLAVOR],
    Action.DELETE: [Activity.PREEMPT_OPERATIONS, Activity.DELETE_SERVER, Activity.WAIT_FOR_SERVER],
    Action.SNAPSHOT: [Activity.CREATE_SERVER_IMAGE, Activity.UPLOAD_IMAGE, Activity.WAIT_FOR_IMAGE],
    Action.RESTORE: [Activity.REBUILD_SERVER, Activity.WAIT_FOR_SERVER, Activity.CHECK_FLAVOR],
    Action.DELETE_SNAPSHOT: [Activity.DELETE_IMAGE],
    Action.CREATE_VOLUME: [Activity.CREATE_VOLUME, Activity.WAIT_FOR_VOLUME],
    Action.DELETE_VOLUME: [Activity.DELETE_VOLUME, Activity.WAIT_FOR_VOLUME],
    Action.ATTACH_VOLUME: [Activity.ATTACH_VOLUME, Activity.WAIT_FOR_VOLUME],
    Action.DETACH_VOLUME: [Activity.DETACH_VOLUME, Activity.WAIT_FOR_VOLUME],
    Action.ATTACH_INTERFACE: [Activity.CREATE_INTERFACE],
    Action.DETACH_INTERFACE: [Activity.DELETE_INTERFACE],
}
AFTERMATH = {
    Action.CREATE: [Activity.UNDO_CREATE],
    Action.SNAPSHOT: [Activity.UNDO_IMAGE],
    Action.RESTORE: [Activity.SETTLE_SERVER, Activity.IS_RESTORED],
    Action.DELETE_SNAPSHOT: [Activity.SETTLE_IMAGE],
    Action.CREATE_VOLUME: [Activity.UNDO_VOLUME],
    Action.DELETE_VOLUME: [Activity.SETTLE_VOLUME],
    Action.ATTACH_VOLUME: [Activity.UNDO_ATTACH],
    Action.DETACH_VOLUME: [Activity.SETTLE_VOLUME],
    Action.ATTACH_INTERFACE: [Activity.UNDO_INTERFACE],
    Action.DETACH_INTERFACE: [Activity.SETTLE_INTERFACE],
    Action.DELETE: [Activity.SETTLE_SERVER, Activity.SETTLE_REMAINS],
}
WAITED_FOR = {
    Action.STOP: "SHUTOFF",
    Action.DELETE: "GONE",
    Action.CREATE_VOLUME: "available",
    Action.DELETE_VOLUME: "gone",
    Action.ATTACH_VOLUME: "in-use",
    Action.DETACH_VOLUME: "available",
}
WAITS = {
    *(Activity.WAIT_FOR_SERVER, Activity.WAIT_FOR_VOLUME, Activity.WAIT_FOR_IMAGE),
    *(Activity.SETTLE_SERVER, Activity.SETTLE_VOLUME),
}
END_BY_THEMSELVES = [action for action in EFFECTS if action is not Action.RESIZE]
POINTS = [(action, effect) for action, effects in EFFECTS.items() for effect in effects]


def aftermath(action: Action) -> list[Activity]:
    """What follows a failure before it is recorded."""
    return AFTERMATH.get(action, [Activity.SETTLE_SERVER])


async def failure_of(handle: WorkflowHandle[Any, Any]) -> BaseException | None:
    """Why the workflow failed."""
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    return caught.value.cause


def test_every_served_row_has_a_story() -> None:
    assert set(EFFECTS) == {action for action, rule in TABLE.items() if rule.workflow}


@pytest.mark.parametrize("action", END_BY_THEMSELVES)
async def test_a_good_end_goes_through_the_steps_of_the_table(world: World, action: Action) -> None:
    await (await world.start(action)).result()
    assert world.called() == [*EFFECTS[action], Activity.FINISH_OPERATION]
    entered = list(dict.fromkeys(ENTERS[name] for name in world.called() if name in ENTERS))
    assert tuple(entered) == TABLE[action].steps
    for name, input in world.calls:
        if name is Activity.WAIT_FOR_SERVER:
            assert input["status"] == WAITED_FOR.get(action, "ACTIVE")
        if name is Activity.WAIT_FOR_VOLUME:
            assert input["state"] == WAITED_FOR[action]
    assert {name for name, waited in world.waited.items() if waited} == WAITS & set(world.called())


@pytest.mark.parametrize(("action", "point"), POINTS)
async def test_a_refusal_is_undone_and_recorded(world: World, action: Action, point: Activity) -> None:
    world.script(point, refused("no_valid_host"))
    cause = await failure_of(await world.start(action))
    assert isinstance(cause, ApplicationError)
    assert cause.type == "no_valid_host"
    upto = EFFECTS[action][: EFFECTS[action].index(point) + 1]
    assert world.called() == [*upto, *aftermath(action), Activity.FAIL_OPERATION]
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["code"], recorded["message"]) == ("no_valid_host", "no_valid_host, for good")
    assert recorded["canceled"] is False
    assert recorded["intact"] is False
    assert {name for name, waited in world.waited.items() if waited} == WAITS & set(world.called())


@pytest.mark.parametrize(("action", "point"), POINTS)
async def test_a_superseded_operation_stops_and_touches_nothing(world: World, action: Action, point: Activity) -> None:
    world.script(point, refused("superseded"))
    await (await world.start(action)).result()
    assert world.called() == EFFECTS[action][: EFFECTS[action].index(point) + 1]


@pytest.mark.parametrize(("action", "point"), POINTS)
async def test_a_cancel_in_the_web_ui_is_undone_and_recorded(world: World, action: Action, point: Activity) -> None:
    world.script(point, HANG)
    handle = await world.start(action)
    await world.reached[point].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    upto = EFFECTS[action][: EFFECTS[action].index(point) + 1]
    assert world.called() == [*upto, *aftermath(action), Activity.FAIL_OPERATION]
    assert world.last_input(Activity.FAIL_OPERATION)["canceled"] is True
    assert world.last_input(Activity.FAIL_OPERATION)["code"] == "canceled"


async def test_a_build_canceled_by_a_delete_undoes_and_records_nothing(world: World) -> None:
    world.script(Activity.WAIT_FOR_SERVER, HANG)
    world.script(Activity.UNDO_CREATE, refused("superseded"))
    handle = await world.start(Action.CREATE)
    await world.reached[Activity.WAIT_FOR_SERVER].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert Activity.FAIL_OPERATION not in world.called()


async def test_a_failure_that_finds_its_vm_taken_over_ends_quietly(world: World) -> None:
    world.script(Activity.START_SERVER, refused("mock_refused"))
    world.script(Activity.FAIL_OPERATION, refused("superseded"))
    await (await world.start(Action.START)).result()


@pytest.mark.parametrize("seen", [ServerStatus.ACTIVE, ServerStatus.SHUTOFF])
async def test_a_failed_reboot_says_whether_the_server_still_runs(world: World, seen: ServerStatus) -> None:
    world.script(Activity.REBOOT_SERVER, refused("mock_refused"))
    world.script(Activity.SETTLE_SERVER, seen)
    await failure_of(await world.start(Action.REBOOT_SOFT))
    assert world.last_input(Activity.FAIL_OPERATION)["intact"] is (seen is ServerStatus.ACTIVE)


@pytest.mark.parametrize("action", [Action.START, Action.STOP])
async def test_a_cancel_that_comes_too_late_for_the_server_is_no_failure(world: World, action: Action) -> None:
    world.script(Activity.WAIT_FOR_SERVER, HANG)
    world.script(Activity.SETTLE_SERVER, WAITED_FOR.get(action, "ACTIVE"))
    handle = await world.start(action)
    await world.reached[Activity.WAIT_FOR_SERVER].wait()
    await handle.cancel()
    await handle.result()
    assert world.called()[-2:] == [Activity.SETTLE_SERVER, Activity.FINISH_OPERATION]


async def test_a_canceled_delete_may_be_asked_again_though_no_server_is_seen(world: World) -> None:
    """Ports may be left, or calls under way of what it took over from: only the steps of a delete see to them."""
    world.script(Activity.WAIT_FOR_SERVER, HANG)
    world.script(Activity.SETTLE_SERVER, ServerStatus.GONE)
    handle = await world.start(Action.DELETE)
    await world.reached[Activity.WAIT_FOR_SERVER].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called()[-1] is Activity.FAIL_OPERATION


@pytest.mark.parametrize("action", [Action.CREATE, Action.STOP])
async def test_a_cloud_that_refuses_to_be_tidied_does_not_keep_the_end_from_being_recorded(
    world: World, action: Action
) -> None:
    world.script(Activity.WAIT_FOR_SERVER, refused("server_error"))
    world.script(aftermath(action)[0], refused("forbidden"))
    await failure_of(await world.start(action))
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert recorded["code"] == "server_error"
    assert recorded["message"].endswith("After that: forbidden, for good")


@pytest.mark.parametrize("moment", [Activity.UNDO_CREATE, Activity.FAIL_OPERATION])
async def test_a_cancel_while_the_end_is_being_recorded_does_not_break_it_off(world: World, moment: Activity) -> None:
    world.script(Activity.SPAWN_SERVER, refused("mock_refused"))
    world.script(moment, *[failed("OperationalError")] * 2)
    handle = await world.start(Action.CREATE)
    await world.reached[moment].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called()[-1] is Activity.FAIL_OPERATION
    assert world.called().count(moment) == 3


async def test_a_cancel_while_the_success_is_being_recorded_comes_too_late(world: World) -> None:
    world.script(Activity.FINISH_OPERATION, *[failed("OperationalError")] * 2)
    handle = await world.start(Action.CREATE)
    await world.reached[Activity.FINISH_OPERATION].wait()
    await handle.cancel()
    await handle.result()
    assert Activity.FAIL_OPERATION not in world.called()


async def test_a_cancel_is_heeded_though_the_step_it_came_in_succeeds(world: World) -> None:
    world.script(Activity.SPAWN_SERVER, SLOW)
    handle = await world.start(Action.CREATE)
    await world.reached[Activity.SPAWN_SERVER].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called()[-3:] == [Activity.SPAWN_SERVER, Activity.UNDO_CREATE, Activity.FAIL_OPERATION]


@pytest.mark.parametrize("action", END_BY_THEMSELVES)
async def test_passing_failures_are_retried(world: World, action: Action) -> None:
    for name in [*EFFECTS[action], Activity.FINISH_OPERATION]:
        world.script(name, failed("mock_transient"))
    await (await world.start(action)).result()
    assert world.called() == [name for name in [*EFFECTS[action], Activity.FINISH_OPERATION] for _ in range(2)]


@pytest.mark.parametrize(
    ("action", "previous", "left"),
    [
        (Action.STOP, Status.ERROR, "ERROR"),
        (Action.REBOOT_HARD, Status.SHUTOFF, "SHUTOFF"),
        (Action.RESTORE, Status.ACTIVE, "ACTIVE"),
        (Action.RESIZE, Status.ACTIVE, "ACTIVE"),
        (Action.CREATE, Status.BUILDING, "ERROR"),
    ],
)
async def test_what_had_not_begun_is_not_looked_at(world: World, action: Action, previous: Status, left: str) -> None:
    """Though the server may be where it was to arrive."""
    first = aftermath(action)[0]
    world.script(EFFECTS[action][0], refused("canceled"))
    world.script(first, refused("not_begun"))
    handle = await world.start(action, previous)
    assert isinstance(await failure_of(handle), ApplicationError)
    assert world.called() == [EFFECTS[action][0], first, Activity.FAIL_OPERATION]
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["message"], recorded["begun"]) == ("canceled, for good", False)
    assert (await handle.query("state"))["status"] == left


async def test_a_build_that_the_cloud_does_not_undo_is_recorded_as_still_there(world: World) -> None:
    world.script(Activity.SPAWN_SERVER, refused("mock_refused"))
    world.script(Activity.UNDO_CREATE, refused("forbidden"))
    await failure_of(await world.start(Action.CREATE))
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["code"], recorded["intact"]) == ("mock_refused", True)
    assert recorded["message"].endswith("After that: forbidden, for good")


async def test_undoing_and_recording_are_retried_too(world: World) -> None:
    world.script(Activity.SPAWN_SERVER, refused("mock_refused"))
    world.script(Activity.UNDO_CREATE, *[failed("mock_transient")] * 3)
    world.script(Activity.FAIL_OPERATION, *[failed("OperationalError")] * 3)
    await failure_of(await world.start(Action.CREATE))
    assert world.called().count(Activity.UNDO_CREATE) == 4
    assert world.called().count(Activity.FAIL_OPERATION) == 4
