"""Decisions on a resize that fail, are canceled, or are superseded."""

import pytest
from temporalio.exceptions import ApplicationError, CancelledError

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity
from domain.rules.states import Action
from domain.rules.table import Residue
from tests.workflows.resizing import CARRIED_OUT, decide, each_decision, state_of, waiting
from tests.workflows.stories import failure_of
from tests.workflows.world import HANG, World, new_operation, refused


@each_decision
async def test_a_decision_that_fails_ends_the_workflow(world: World, action: Action) -> None:
    world.script(CARRIED_OUT[action][0], refused("mock_refused"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE)
    handle, decided = await waiting(world), new_operation(action)
    await decide(handle, decided)
    cause = await failure_of(handle)
    assert isinstance(cause, ApplicationError)
    assert cause.type == "mock_refused"
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert recorded["operation"]["operation_id"] == str(decided.operation_id)
    assert await state_of(handle) == ("ERROR", None)


@each_decision
async def test_a_cancel_that_comes_after_the_decision_took_effect_is_a_success(world: World, action: Action) -> None:
    world.script(Activity.WAIT_FOR_SERVER, None, HANG)
    world.script(Activity.SETTLE_SERVER, ServerStatus.ACTIVE)
    handle = await waiting(world)
    world.reached[Activity.WAIT_FOR_SERVER].clear()
    await decide(handle, new_operation(action))
    await world.reached[Activity.WAIT_FOR_SERVER].wait()
    await handle.cancel()
    await handle.result()
    assert world.called()[-3:] == [Activity.SETTLE_SERVER, Activity.CHECK_FLAVOR, Activity.FINISH_OPERATION]


@each_decision
async def test_a_decision_that_is_canceled_in_time_can_be_made_again(world: World, action: Action) -> None:
    world.script(CARRIED_OUT[action][0], HANG)
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE)
    handle = await waiting(world)
    await decide(handle, new_operation(action))
    await world.reached[CARRIED_OUT[action][0]].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["canceled"], recorded["residue"]) == (True, Residue.UNCHANGED)
    assert await state_of(handle) == ("VERIFY_RESIZE", None)


@each_decision
@pytest.mark.parametrize("on_arrival", [True, False])
async def test_a_decision_that_was_overtaken_in_the_cloud_is_a_failure(
    world: World, action: Action, *, on_arrival: bool
) -> None:
    """The cloud accepts this decision, or refuses it but shows the server as if it had accepted it."""
    if not on_arrival:
        world.script(CARRIED_OUT[action][0], refused("server_conflict"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.ACTIVE)
    world.script(Activity.CHECK_FLAVOR, *[refused("resize_not_applied")] * 2)
    handle = await waiting(world)
    await decide(handle, new_operation(action))
    await failure_of(handle)
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert recorded["code"] == ("resize_not_applied" if on_arrival else "server_conflict")
    check = "resize_not_applied, for good"
    assert recorded["message"] == (check if on_arrival else f"server_conflict, for good After that: {check}")
    assert recorded["residue"] == Residue.UNKNOWN


async def test_a_decision_that_a_delete_has_superseded_records_nothing(world: World) -> None:
    world.script(Activity.WAIT_FOR_SERVER, None, HANG)
    world.script(Activity.SETTLE_SERVER, refused("superseded"))
    handle = await waiting(world)
    world.reached[Activity.WAIT_FOR_SERVER].clear()
    await decide(handle, new_operation(Action.CONFIRM_RESIZE))
    await world.reached[Activity.WAIT_FOR_SERVER].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called()[-1] is Activity.SETTLE_SERVER
