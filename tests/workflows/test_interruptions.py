"""Operations whose workflow closed too early, or that were canceled before a step: only cleaned up and recorded."""

from dataclasses import replace

import pytest

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity
from domain.rules.states import Action, Status
from domain.rules.table import TABLE, Residue
from tests.workflows.stories import EFFECTS, after_failure, failure_of
from tests.workflows.world import World, new_operation, refused


@pytest.mark.parametrize("action", TABLE)
@pytest.mark.parametrize("code", ["workflow_terminated", "canceled"])
async def test_an_interrupted_operation_takes_no_step_and_fails(world: World, action: Action, code: str) -> None:
    operation = replace(new_operation(action), epoch=1, interruption=code)
    assert await failure_of(await world.start_with(operation)) is not None
    assert world.called() == [*after_failure(action), Activity.FAIL_OPERATION]
    failure = world.last_input(Activity.FAIL_OPERATION)
    assert (failure["code"], failure["canceled"]) == (code, code == "canceled")
    assert failure["operation"]["epoch"] == 1


@pytest.mark.parametrize(
    ("action", "status"), [(Action.STOP, ServerStatus.SHUTOFF), (Action.START, ServerStatus.ACTIVE)]
)
async def test_an_interrupted_operation_is_a_success_if_the_cloud_shows_the_success_state(
    world: World, action: Action, status: ServerStatus
) -> None:
    world.script(Activity.SETTLE_SERVER, status)
    await (await world.start_with(replace(new_operation(action), interruption="workflow_terminated"))).result()
    assert world.called() == [Activity.SETTLE_SERVER, Activity.FINISH_OPERATION]


@pytest.mark.parametrize("status", [ServerStatus.ACTIVE, ServerStatus.VERIFY_RESIZE])
async def test_an_interrupted_resize_leaves_the_vm_as_it_was(world: World, status: ServerStatus) -> None:
    world.script(Activity.SETTLE_SERVER, status, ServerStatus.ACTIVE)
    operation = replace(new_operation(Action.RESIZE, Status.ACTIVE), interruption="workflow_terminated")
    assert await failure_of(await world.start_with(operation)) is not None
    undo = [] if status is ServerStatus.ACTIVE else [Activity.UNDO_RESIZE, Activity.SETTLE_SERVER]
    assert world.called() == [Activity.SETTLE_SERVER, *undo, Activity.CHECK_FLAVOR, Activity.FAIL_OPERATION]
    assert world.last_input(Activity.FAIL_OPERATION)["residue"] == Residue.UNCHANGED


@pytest.mark.parametrize("action", [Action.CONFIRM_RESIZE, Action.REVERT_RESIZE])
async def test_an_interrupted_decision_can_be_made_again(world: World, action: Action) -> None:
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE)
    operation = replace(new_operation(action), interruption="workflow_terminated")
    assert await failure_of(await world.start_with(operation)) is not None
    assert world.last_input(Activity.FAIL_OPERATION)["residue"] == Residue.UNCHANGED


@pytest.mark.parametrize("action", TABLE)
async def test_an_operation_canceled_before_a_step_is_recorded_as_canceled(world: World, action: Action) -> None:
    world.script(EFFECTS[action][0], refused("canceled"))
    assert await failure_of(await world.start(action)) is not None
    assert world.called() == [EFFECTS[action][0], *after_failure(action), Activity.FAIL_OPERATION]
    assert world.last_input(Activity.FAIL_OPERATION)["canceled"]
