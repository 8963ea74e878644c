"""Operations on resources: a failure is undone, or recorded as the cloud shows the resource."""

from enum import StrEnum

import pytest
from temporalio.exceptions import CancelledError
from temporalio.testing import WorkflowEnvironment

from domain.rules.cloud import ImageState, PortState, VolumeState
from domain.rules.messages import Activity
from domain.rules.states import Action
from domain.rules.table import Residue
from tests.workflows.stories import EFFECTS, ON_RESOURCES, POINTS, after_failure, canceled_at, code_of, failure_of
from tests.workflows.world import HANG, SLOW, WITHOUT_VM, World, failed, refused

RESOURCE_POINTS = [(action, point) for action, point in POINTS if action in ON_RESOURCES]
SUCCESS: dict[Action, StrEnum] = {
    Action.DELETE_SNAPSHOT: ImageState.GONE,
    Action.DELETE_VOLUME: VolumeState.GONE,
    Action.DETACH_VOLUME: VolumeState.AVAILABLE,
    Action.DETACH_INTERFACE: PortState.GONE,
}
NO_SUCCESS: list[tuple[Action, StrEnum]] = [
    *((Action.DELETE_SNAPSHOT, state) for state in (ImageState.ACTIVE, ImageState.SAVING, ImageState.ERROR)),
    *((Action.DELETE_VOLUME, state) for state in (VolumeState.AVAILABLE, VolumeState.DELETING, VolumeState.ERROR)),
    *((Action.DETACH_VOLUME, state) for state in (VolumeState.IN_USE, VolumeState.DETACHING, VolumeState.GONE)),
    (Action.DETACH_INTERFACE, PortState.ACTIVE),
]
NOT_UNDONE: dict[Action, tuple[Activity, StrEnum, list[StrEnum]]] = {
    Action.ATTACH_VOLUME: (Activity.SETTLE_VOLUME, VolumeState.IN_USE, [VolumeState.AVAILABLE, VolumeState.GONE]),
    Action.ATTACH_INTERFACE: (Activity.SETTLE_INTERFACE, PortState.ACTIVE, [PortState.GONE]),
}
SHOWN = [(action, state) for action, (_, attached, others) in NOT_UNDONE.items() for state in (attached, *others)]
STILL_THERE = {
    (Action.DELETE_SNAPSHOT, ImageState.ACTIVE): Residue.STILL_THERE,
    (Action.DELETE_VOLUME, VolumeState.AVAILABLE): Residue.STILL_THERE,
}
each_action = pytest.mark.parametrize("action", ON_RESOURCES)
each_point = pytest.mark.parametrize(("action", "point"), RESOURCE_POINTS)


@each_action
async def test_a_cancel_before_the_first_step_is_recorded(
    workflow_environment: WorkflowEnvironment, action: Action
) -> None:
    world = World(workflow_environment)
    handle = await world.start(action)
    await handle.cancel()
    async with world:
        assert isinstance(await failure_of(handle), CancelledError)
    assert [name for name in world.called() if name not in EFFECTS[action][:1]] == [
        *after_failure(action),
        Activity.FAIL_OPERATION,
    ]
    assert world.last_input(Activity.FAIL_OPERATION)["canceled"] is True


@each_point
async def test_a_cancel_during_a_step_that_succeeds_is_not_lost(world: World, action: Action, point: Activity) -> None:
    world.script(point, SLOW)
    assert isinstance(await failure_of(await canceled_at(world, action, point)), CancelledError)
    upto = EFFECTS[action][: EFFECTS[action].index(point) + 1]
    assert world.called() == [*upto, *after_failure(action), Activity.FAIL_OPERATION]


@each_action
async def test_a_cancel_during_the_record_of_a_success_comes_too_late(world: World, action: Action) -> None:
    world.script(Activity.FINISH_OPERATION, SLOW)
    await (await canceled_at(world, action, Activity.FINISH_OPERATION)).result()
    assert world.called() == [*EFFECTS[action], Activity.FINISH_OPERATION]


@each_action
async def test_a_cancel_does_not_interrupt_what_follows_a_failure(world: World, action: Action) -> None:
    world.script(EFFECTS[action][0], refused("mock_refused"))
    world.script(after_failure(action)[0], failed("OperationalError"))
    handle = await canceled_at(world, action, after_failure(action)[0])
    assert isinstance(await failure_of(handle), CancelledError)
    first, *rest = after_failure(action)
    assert world.called() == [EFFECTS[action][0], first, first, *rest, Activity.FAIL_OPERATION]
    assert world.last_input(Activity.FAIL_OPERATION)["code"] == "mock_refused"


@each_action
async def test_a_failure_of_a_superseded_operation_is_not_recorded(world: World, action: Action) -> None:
    world.script(EFFECTS[action][-1], refused("mock_refused"))
    world.script(after_failure(action)[0], refused("superseded"))
    await (await world.start(action)).result()
    assert world.called() == [*EFFECTS[action], after_failure(action)[0]]


@each_action
@pytest.mark.parametrize("end", [Activity.FINISH_OPERATION, Activity.FAIL_OPERATION])
async def test_an_end_that_is_superseded_is_no_error(world: World, action: Action, end: Activity) -> None:
    if end is Activity.FAIL_OPERATION:
        world.script(EFFECTS[action][0], refused("mock_refused"))
    world.script(end, refused("superseded"))
    await (await world.start(action)).result()
    assert world.called()[-1] is end


@each_action
async def test_an_operation_canceled_by_a_delete_records_nothing(world: World, action: Action) -> None:
    world.script(EFFECTS[action][-1], HANG)
    world.script(after_failure(action)[0], refused("superseded"))
    handle = await canceled_at(world, action, EFFECTS[action][-1])
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called() == [*EFFECTS[action], after_failure(action)[0]]


@pytest.mark.parametrize("action", [action for action in ON_RESOURCES if action not in NOT_UNDONE])
async def test_a_failure_is_recorded_even_if_its_undo_or_check_is_refused(world: World, action: Action) -> None:
    world.script(EFFECTS[action][-1], refused("server_error"))
    world.script(after_failure(action)[-1], refused("forbidden"))
    assert await code_of(await world.start(action)) == "server_error"
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert recorded["message"] == "server_error, for good After that: forbidden, for good"
    assert recorded["residue"] == Residue.UNKNOWN


@each_action
async def test_undos_checks_and_records_are_retried_until_they_succeed(world: World, action: Action) -> None:
    world.script(EFFECTS[action][0], refused("mock_refused"))
    ends = [*after_failure(action), Activity.FAIL_OPERATION]
    for name in ends:
        world.script(name, *[failed("OperationalError")] * 2)
    assert await code_of(await world.start(action)) == "mock_refused"
    assert world.called()[1:] == [name for name in ends for _ in range(3)]


@pytest.mark.parametrize(("action", "state"), SUCCESS.items())
@pytest.mark.parametrize("end", ["canceled", "failed"])
async def test_a_failure_is_a_success_if_the_cloud_shows_the_success_state(
    world: World, action: Action, state: StrEnum, end: str
) -> None:
    point = EFFECTS[action][-1]
    world.script(after_failure(action)[0], state)
    if end == "canceled":
        world.script(point, HANG)
        handle = await canceled_at(world, action, point)
    else:
        world.script(point, refused("mock_refused"))
        handle = await world.start(action)
    await handle.result()
    assert world.called() == [*EFFECTS[action], after_failure(action)[0], Activity.FINISH_OPERATION]


@pytest.mark.parametrize(("action", "state"), NO_SUCCESS)
async def test_a_failure_stays_a_failure_in_any_other_state(world: World, action: Action, state: StrEnum) -> None:
    world.script(EFFECTS[action][-1], refused("mock_refused"))
    world.script(after_failure(action)[0], state)
    assert await code_of(await world.start(action)) == "mock_refused"
    assert world.called()[-2:] == [after_failure(action)[0], Activity.FAIL_OPERATION]
    assert world.last_input(Activity.FAIL_OPERATION)["residue"] == STILL_THERE.get((action, state), Residue.UNKNOWN)


@pytest.mark.parametrize(("action", "state"), SHOWN)
async def test_an_attach_that_cannot_be_undone_is_recorded_as_the_cloud_shows_it(
    world: World, action: Action, state: StrEnum
) -> None:
    undo, (check, attached, _) = after_failure(action)[0], NOT_UNDONE[action]
    world.script(EFFECTS[action][-1], refused("mock_refused"))
    world.script(undo, refused("forbidden"))
    world.script(check, state)
    handle = await world.start(action)
    if state is attached:
        await handle.result()
    else:
        assert await code_of(handle) == "mock_refused"
    end = Activity.FINISH_OPERATION if state is attached else Activity.FAIL_OPERATION
    assert world.called() == [*EFFECTS[action], undo, check, end]
    if state is not attached:
        assert world.last_input(Activity.FAIL_OPERATION)["message"].endswith("After that: forbidden, for good")


@pytest.mark.parametrize("action", NOT_UNDONE)
async def test_an_attach_that_cannot_be_undone_and_is_superseded_records_nothing(world: World, action: Action) -> None:
    world.script(EFFECTS[action][-1], refused("mock_refused"))
    world.script(after_failure(action)[0], refused("forbidden"))
    world.script(NOT_UNDONE[action][0], refused("superseded"))
    await (await world.start(action)).result()
    assert world.called()[-1] is NOT_UNDONE[action][0]


@each_action
async def test_activities_get_the_ids_of_the_vm_and_the_resource(world: World, action: Action) -> None:
    await (await world.start(action)).result()
    inputs = [input.get("operation", input) for _, input in world.calls]
    assert len({input["operation_id"] for input in inputs}) == 1
    for input in inputs:
        assert input["resource_id"] not in {None, input["vm_id"]}
        assert (input["vm_id"] is None) is (action in WITHOUT_VM)
