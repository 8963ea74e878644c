"""An operation whose workflow closed too early is only cleaned up after, and says why; one canceled in time too."""

from dataclasses import replace

import pytest

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity
from domain.rules.states import Action, Status
from domain.rules.table import TABLE
from tests.workflows.test_stories import EFFECTS, aftermath, failure_of
from tests.workflows.world import World, decision, refused


@pytest.mark.parametrize("action", TABLE)
@pytest.mark.parametrize("code", ["workflow_terminated", "canceled"])
async def test_an_interrupted_operation_takes_no_step_and_ends_badly(world: World, action: Action, code: str) -> None:
    operation = replace(decision(action), epoch=1, interruption=code)
    assert await failure_of(await world.start_with(operation)) is not None
    assert world.called() == [*aftermath(action), Activity.FAIL_OPERATION]
    failure = world.last_input(Activity.FAIL_OPERATION)
    assert (failure["code"], failure["canceled"]) == (code, code == "canceled")
    assert failure["operation"]["epoch"] == 1


@pytest.mark.parametrize(("action", "seen"), [(Action.STOP, ServerStatus.SHUTOFF), (Action.START, ServerStatus.ACTIVE)])
async def test_an_interrupted_operation_that_the_cloud_has_done_has_succeeded(
    world: World, action: Action, seen: ServerStatus
) -> None:
    world.script(Activity.SETTLE_SERVER, seen)
    await (await world.start_with(replace(decision(action), interruption="workflow_terminated"))).result()
    assert world.called() == [Activity.SETTLE_SERVER, Activity.FINISH_OPERATION]


@pytest.mark.parametrize("shown", [ServerStatus.ACTIVE, ServerStatus.VERIFY_RESIZE])
async def test_an_interrupted_resize_leaves_the_vm_as_it_was(world: World, shown: ServerStatus) -> None:
    world.script(Activity.SETTLE_SERVER, shown, ServerStatus.ACTIVE)
    operation = replace(decision(Action.RESIZE, Status.ACTIVE), interruption="workflow_terminated")
    assert await failure_of(await world.start_with(operation)) is not None
    back = [] if shown is ServerStatus.ACTIVE else [Activity.UNDO_RESIZE, Activity.SETTLE_SERVER]
    assert world.called() == [Activity.SETTLE_SERVER, *back, Activity.CHECK_FLAVOR, Activity.FAIL_OPERATION]
    assert world.last_input(Activity.FAIL_OPERATION)["intact"]


@pytest.mark.parametrize("action", [Action.CONFIRM_RESIZE, Action.REVERT_RESIZE])
async def test_an_interrupted_decision_can_be_made_again(world: World, action: Action) -> None:
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE)
    operation = replace(decision(action), interruption="workflow_terminated")
    assert await failure_of(await world.start_with(operation)) is not None
    assert world.last_input(Activity.FAIL_OPERATION)["intact"]


@pytest.mark.parametrize("action", TABLE)
async def test_what_is_canceled_before_a_step_is_recorded_as_canceled(world: World, action: Action) -> None:
    world.script(EFFECTS[action][0], refused("canceled"))
    assert await failure_of(await world.start(action)) is not None
    assert world.called() == [EFFECTS[action][0], *aftermath(action), Activity.FAIL_OPERATION]
    assert world.last_input(Activity.FAIL_OPERATION)["canceled"]
