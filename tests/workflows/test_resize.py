"""A resize waits for one decision and carries it out once. Everything else that is signaled changes nothing."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from temporalio.exceptions import ApplicationError, CancelledError

from domain.rules.messages import Activity, OperationInput
from domain.rules.resize_messages import ClaimConfirmResult, ConfirmWindowResult
from domain.rules.states import Action, Status
from tests.workflows.resizing import CARRIED_OUT, MOVED, decide, each_decision, state_of, waiting
from tests.workflows.stories import failure_of
from tests.workflows.world import World, new_operation, refused

WEEK = timedelta(days=7)


@each_decision
@pytest.mark.parametrize("previous", [Status.ACTIVE, Status.SHUTOFF])
async def test_a_decision_is_carried_out_and_ends_the_resize(world: World, action: Action, previous: Status) -> None:
    handle = await waiting(world, previous=previous)
    assert world.called() == MOVED
    decided = new_operation(action, previous)
    await decide(handle, decided)
    await handle.result()
    assert world.called() == MOVED + CARRIED_OUT[action]
    assert world.last_input(Activity.WAIT_FOR_SERVER)["status"] == previous
    assert world.last_input(Activity.FINISH_OPERATION)["operation_id"] == str(decided.operation_id)
    assert await state_of(handle) == (previous, None)


@each_decision
async def test_a_decision_that_is_signaled_several_times_is_carried_out_once(world: World, action: Action) -> None:
    handle, decided = await waiting(world), new_operation(action)
    await asyncio.gather(*(decide(handle, decided) for _ in range(5)))
    await handle.result()
    assert world.called() == MOVED + CARRIED_OUT[action]


@each_decision
async def test_a_decision_that_comes_early_waits_for_the_move(world: World, action: Action) -> None:
    world.script(Activity.RESIZE_SERVER, *[ApplicationError("busy", type="busy")] * 2)
    handle = await world.start(Action.RESIZE)
    await world.reached[Activity.RESIZE_SERVER].wait()
    await decide(handle, new_operation(action))
    await handle.result()
    assert world.called()[-4:] == CARRIED_OUT[action]


@each_decision
async def test_a_decision_that_does_not_hold_the_vm_leaves_the_resize_waiting(world: World, action: Action) -> None:
    world.script(CARRIED_OUT[action][0], refused("superseded"))
    handle, decided = await waiting(world), new_operation(action)
    await decide(handle, new_operation(action))
    await decide(handle, decided)
    await handle.result()
    assert world.called() == [*MOVED, CARRIED_OUT[action][0], Activity.READ_CONFIRM_WINDOW, *CARRIED_OUT[action]]


@each_decision
async def test_a_decision_on_a_resize_that_is_already_decided_ends_the_workflow(world: World, action: Action) -> None:
    """As when an operator has reset the workflow, and its signals are delivered again."""
    world.script(CARRIED_OUT[action][0], refused("superseded"))
    handle = await waiting(world)
    world.script(Activity.READ_CONFIRM_WINDOW, ConfirmWindowResult(None, is_over=True))
    await decide(handle, new_operation(action))
    await handle.result()
    assert world.called() == [*MOVED, CARRIED_OUT[action][0], Activity.READ_CONFIRM_WINDOW]


@pytest.mark.parametrize(
    "payload",
    [
        OperationInput(uuid4(), uuid4(), Action.STOP, 0, Status.ACTIVE),
        OperationInput(uuid4(), uuid4(), Action.REVERT_RESIZE, 0, Status.ACTIVE),
        OperationInput(uuid4(), uuid4(), Action.CONFIRM_RESIZE, 0, Status.ERROR),
        OperationInput(uuid4(), uuid4(), Action.CONFIRM_RESIZE),
        "confirm",
        b"not even JSON",
        None,
    ],
)
async def test_any_other_signaled_payload_is_ignored(world: World, payload: object) -> None:
    handle = await waiting(world)
    for signal in ("confirm", "note_failed_attempt"):
        await handle.signal(signal, payload)
        await handle.signal(signal)
        await handle.signal(signal, args=[payload, payload])
    assert await state_of(handle) == ("VERIFY_RESIZE", None)
    await decide(handle, new_operation(Action.CONFIRM_RESIZE))
    await handle.result()
    assert world.called() == MOVED + CARRIED_OUT[Action.CONFIRM_RESIZE]


@pytest.mark.skips_time
async def test_a_resize_confirms_itself_after_a_window_of_days(world: World) -> None:
    confirm = new_operation(Action.CONFIRM_RESIZE)
    world.script(Activity.CLAIM_CONFIRM, ClaimConfirmResult(confirm))
    handle = await world.start(Action.RESIZE, window=WEEK.total_seconds())
    await handle.result()
    assert world.called() == [*MOVED, Activity.CLAIM_CONFIRM, *CARRIED_OUT[Action.CONFIRM_RESIZE]]
    assert world.last_input(Activity.CONFIRM_RESIZE)["operation_id"] == str(confirm.operation_id)
    description = await handle.describe()
    assert description.close_time
    assert description.close_time - description.start_time >= WEEK


@pytest.mark.skips_time
@each_decision
async def test_a_window_that_loses_against_a_person_waits_for_the_signal(world: World, action: Action) -> None:
    handle = await world.start(Action.RESIZE, window=1.0)
    async with asyncio.timeout(10):
        while Activity.CLAIM_CONFIRM not in world.called():
            await world.environment.sleep(2)
    await decide(handle, new_operation(action))
    await handle.result()
    assert world.called() == [*MOVED, Activity.CLAIM_CONFIRM, *CARRIED_OUT[action]]


async def test_a_workflow_that_was_reset_to_where_it_waited_ends_if_the_resize_is_decided(world: World) -> None:
    world.script(Activity.CLAIM_CONFIRM, ClaimConfirmResult(None, is_over=True))
    await (await world.start(Action.RESIZE, window=-5.0)).result()
    assert world.called() == [*MOVED, Activity.CLAIM_CONFIRM]


async def test_a_workflow_that_was_reset_to_before_it_waited_ends_if_the_resize_is_decided(world: World) -> None:
    await (await world.start(Action.RESIZE, is_over=True)).result()
    assert world.called() == MOVED


async def test_a_window_that_is_over_confirms_at_once(world: World) -> None:
    """As after an outage that lasts longer than the window."""
    world.script(Activity.CLAIM_CONFIRM, ClaimConfirmResult(new_operation(Action.CONFIRM_RESIZE)))
    await (await world.start(Action.RESIZE, window=-5.0)).result()
    assert world.called()[-5:] == [Activity.CLAIM_CONFIRM, *CARRIED_OUT[Action.CONFIRM_RESIZE]]


async def test_a_signal_for_a_decision_that_is_being_carried_out_is_ignored(world: World) -> None:
    handle = await waiting(world)
    claim = new_operation(Action.CONFIRM_RESIZE)
    world.script(Activity.WAIT_FOR_SERVER, *[ApplicationError("busy", type="busy")])
    await decide(handle, claim)
    await world.reached[Activity.CONFIRM_RESIZE].wait()
    await decide(handle, claim)
    await handle.result()
    assert world.called().count(Activity.CONFIRM_RESIZE) == 1


@pytest.mark.parametrize("window", [None, 3600.0])
async def test_a_cancel_while_it_waits_only_clears_the_window(world: World, window: float | None) -> None:
    handle = await waiting(world, window=window)
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called() == [*MOVED, Activity.DROP_CONFIRM_WINDOW]
