"""Steps that share an activity. The other tests here have activities of an older version, which do one step each."""

import pytest
from temporalio.exceptions import ApplicationError, CancelledError

from domain.rules.errors import BUILD_AGAIN
from domain.rules.messages import Activity
from domain.rules.states import Action
from tests.workflows.resizing import state_of
from tests.workflows.stories import after_failure, canceled_at, failure_of
from tests.workflows.world import HANG, SLOW, World, failed, new_operation, refused

WAIT = Activity.WAIT_FOR_SERVER
COMBINED = {
    Action.CREATE: [Activity.SCHEDULE_SERVER, WAIT],
    Action.START: [Activity.START_SERVER, WAIT],
    Action.STOP: [Activity.STOP_SERVER, WAIT],
    Action.REBOOT_SOFT: [Activity.REBOOT_SERVER, WAIT],
    Action.REBOOT_HARD: [Activity.REBOOT_SERVER_HARD, WAIT],
    Action.CONFIRM_RESIZE: [Activity.CONFIRM_RESIZE, WAIT],
    Action.REVERT_RESIZE: [Activity.REVERT_RESIZE, WAIT],
    Action.DELETE: [Activity.PREEMPT_OPERATIONS, Activity.DELETE_SERVER, WAIT],
    Action.SNAPSHOT: [Activity.CREATE_SERVER_IMAGE, Activity.UPLOAD_IMAGE, Activity.WAIT_FOR_IMAGE],
    Action.CREATE_VOLUME: [Activity.CREATE_VOLUME, Activity.WAIT_FOR_VOLUME],
    Action.DELETE_VOLUME: [Activity.DELETE_VOLUME, Activity.WAIT_FOR_VOLUME],
    Action.EXTEND_VOLUME: [Activity.EXTEND_VOLUME, Activity.WAIT_FOR_EXTENSION],
    Action.ATTACH_VOLUME: [Activity.ATTACH_VOLUME, Activity.WAIT_FOR_VOLUME],
    Action.DETACH_VOLUME: [Activity.DETACH_VOLUME, Activity.WAIT_FOR_VOLUME],
}
each_action = pytest.mark.parametrize("action", COMBINED)
each_point = pytest.mark.parametrize(
    ("action", "point"), [(action, point) for action, points in COMBINED.items() for point in points]
)


@pytest.fixture(autouse=True)
def combining(world: World) -> None:
    """Have the activities do what they may do in addition."""
    world.combines = True


@each_action
async def test_no_activity_only_records_a_success(world: World, action: Action) -> None:
    handle = await world.start(action)
    await handle.result()
    assert world.called() == COMBINED[action]
    assert (await state_of(handle))[1] is None


async def test_a_confirmed_resize_needs_five_activities(world: World) -> None:
    handle = await world.start(Action.RESIZE)
    await handle.signal("confirm", new_operation(Action.CONFIRM_RESIZE))
    await handle.result()
    move = [Activity.PREPARE_RESIZE, WAIT, Activity.READ_CONFIRM_WINDOW]
    assert world.called() == [*move, *COMBINED[Action.CONFIRM_RESIZE]]


@each_point
async def test_a_failure_is_undone_and_recorded(world: World, action: Action, point: Activity) -> None:
    world.script(point, failed("mock_transient"), refused("no_valid_host"))
    cause = await failure_of(await world.start(action))
    assert isinstance(cause, ApplicationError)
    assert cause.type == "no_valid_host"
    upto = COMBINED[action][: COMBINED[action].index(point) + 1]
    assert world.called() == [*upto, point, *after_failure(action), Activity.FAIL_OPERATION]


@each_point
async def test_a_superseded_operation_stops_at_once(world: World, action: Action, point: Activity) -> None:
    world.script(point, refused("superseded"))
    await (await world.start(action)).result()
    assert world.called() == COMBINED[action][: COMBINED[action].index(point) + 1]


@each_point
async def test_a_canceled_operation_is_undone_and_recorded(world: World, action: Action, point: Activity) -> None:
    world.script(point, HANG)
    assert isinstance(await failure_of(await canceled_at(world, action, point)), CancelledError)
    assert world.called()[-1] is Activity.FAIL_OPERATION
    assert world.last_input(Activity.FAIL_OPERATION)["canceled"] is True


@each_action
async def test_a_cancel_after_the_record_is_too_late(world: World, action: Action) -> None:
    wait = COMBINED[action][-1]
    world.script(wait, SLOW)
    await (await canceled_at(world, action, wait)).result()
    assert world.called() == COMBINED[action]


async def test_a_build_that_failed_for_a_reason_that_may_pass_is_repeated_without_its_ports(world: World) -> None:
    world.script(WAIT, *[refused(BUILD_AGAIN)] * 2)
    await (await world.start(Action.CREATE)).result()
    assert world.called() == [Activity.SCHEDULE_SERVER, WAIT, *[Activity.SPAWN_SERVER, WAIT] * 2]


async def test_the_task_state_after_combined_steps_is_that_of_the_last(world: World) -> None:
    world.script(WAIT, HANG)
    handle = await world.start(Action.CREATE)
    await world.reached[WAIT].wait()
    assert await state_of(handle) == ("BUILDING", "spawning")
    await handle.cancel()
    await failure_of(handle)
