"""A resize: moved, then decided once, by whoever is first; whatever else is said to it changes nothing."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity, ClaimConfirmResult, ConfirmWindowResult, OperationInput
from domain.rules.states import Action, Status
from tests.workflows.test_stories import EFFECTS, failure_of
from tests.workflows.world import HANG, World, decision, refused

MOVED = [*EFFECTS[Action.RESIZE], Activity.FINISH_OPERATION, Activity.READ_CONFIRM_WINDOW]
ARRIVED = [Activity.WAIT_FOR_SERVER, Activity.CHECK_FLAVOR, Activity.FINISH_OPERATION]
CARRIED_OUT = {
    Action.CONFIRM_RESIZE: [Activity.CONFIRM_RESIZE, *ARRIVED],
    Action.REVERT_RESIZE: [Activity.REVERT_RESIZE, *ARRIVED],
}
PUT_BACK = [
    Activity.SETTLE_SERVER,
    Activity.UNDO_RESIZE,
    Activity.SETTLE_SERVER,
    Activity.CHECK_FLAVOR,
    Activity.FAIL_OPERATION,
]
SIGNALS = {Action.CONFIRM_RESIZE: "confirm", Action.REVERT_RESIZE: "revert"}
WEEK = timedelta(days=7)
each_decision = pytest.mark.parametrize("action", CARRIED_OUT)
each_step = pytest.mark.parametrize("point", EFFECTS[Action.RESIZE])


async def waiting(world: World, *, window: float | None = None, previous: Status = Status.ACTIVE) -> Any:
    """A resize that waits to be decided."""
    handle = await world.start(Action.RESIZE, previous, window)
    async with asyncio.timeout(10):
        await world.reached[Activity.READ_CONFIRM_WINDOW].wait()
    assert await state_of(handle) == ("VERIFY_RESIZE", None)
    return handle


async def state_of(handle: WorkflowHandle[Any, Any]) -> tuple[str, str | None]:
    """What the query `state` answers."""
    state = await handle.query("state")
    return state["status"], state["task_state"]


async def decide(handle: WorkflowHandle[Any, Any], what: OperationInput) -> None:
    """Signal the decision as the dispatcher does."""
    await handle.signal(SIGNALS[what.action], what)


@each_decision
@pytest.mark.parametrize("previous", [Status.ACTIVE, Status.SHUTOFF])
async def test_a_decision_is_carried_out_and_ends_the_resize(world: World, action: Action, previous: Status) -> None:
    handle = await waiting(world, previous=previous)
    assert world.called() == MOVED
    decided = decision(action, previous)
    await decide(handle, decided)
    await handle.result()
    assert world.called() == MOVED + CARRIED_OUT[action]
    assert world.last_input(Activity.WAIT_FOR_SERVER)["status"] == previous
    assert world.last_input(Activity.FINISH_OPERATION)["operation_id"] == str(decided.operation_id)
    assert await state_of(handle) == (previous, None)


@each_decision
async def test_a_decision_that_is_told_several_times_is_carried_out_once(world: World, action: Action) -> None:
    handle, decided = await waiting(world), decision(action)
    await asyncio.gather(*(decide(handle, decided) for _ in range(5)))
    await handle.result()
    assert world.called() == MOVED + CARRIED_OUT[action]


@each_decision
async def test_a_decision_that_comes_early_waits_for_the_resize(world: World, action: Action) -> None:
    world.script(Activity.RESIZE_SERVER, *[ApplicationError("busy", type="busy")] * 2)
    handle = await world.start(Action.RESIZE)
    await world.reached[Activity.RESIZE_SERVER].wait()
    await decide(handle, decision(action))
    await handle.result()
    assert world.called()[-4:] == CARRIED_OUT[action]


@each_decision
async def test_a_decision_that_does_not_hold_the_vm_leaves_the_resize_waiting(world: World, action: Action) -> None:
    world.script(CARRIED_OUT[action][0], refused("superseded"))
    handle, decided = await waiting(world), decision(action)
    await decide(handle, decision(action))
    await decide(handle, decided)
    await handle.result()
    assert world.called() == [*MOVED, CARRIED_OUT[action][0], Activity.READ_CONFIRM_WINDOW, *CARRIED_OUT[action]]


@each_decision
async def test_a_decision_that_comes_when_others_have_decided_ends_the_workflow(world: World, action: Action) -> None:
    """An operator reset it to where it waited, and its signals came again."""
    world.script(CARRIED_OUT[action][0], refused("superseded"))
    handle = await waiting(world)
    world.script(Activity.READ_CONFIRM_WINDOW, ConfirmWindowResult(None, is_over=True))
    await decide(handle, decision(action))
    await handle.result()
    assert world.called() == [*MOVED, CARRIED_OUT[action][0], Activity.READ_CONFIRM_WINDOW]


@pytest.mark.parametrize(
    "nonsense",
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
async def test_nonsense_that_somebody_signals_is_passed_over(world: World, nonsense: object) -> None:
    handle = await waiting(world)
    for signal in ("confirm", "note_failed_attempt"):
        await handle.signal(signal, nonsense)
        await handle.signal(signal)
        await handle.signal(signal, args=[nonsense, nonsense])
    assert await state_of(handle) == ("VERIFY_RESIZE", None)
    await decide(handle, decision(Action.CONFIRM_RESIZE))
    await handle.result()
    assert world.called() == MOVED + CARRIED_OUT[Action.CONFIRM_RESIZE]


@pytest.mark.skips_time
async def test_after_a_window_of_days_the_resize_is_confirmed_unasked(world: World) -> None:
    confirm = decision(Action.CONFIRM_RESIZE)
    world.script(Activity.CLAIM_CONFIRM, ClaimConfirmResult(confirm))
    handle = await world.start(Action.RESIZE, window=WEEK.total_seconds())
    await handle.result()
    assert world.called() == [*MOVED, Activity.CLAIM_CONFIRM, *CARRIED_OUT[Action.CONFIRM_RESIZE]]
    assert world.last_input(Activity.CONFIRM_RESIZE)["operation_id"] == str(confirm.operation_id)
    lived = await handle.describe()
    assert lived.close_time
    assert lived.close_time - lived.start_time >= WEEK


@pytest.mark.skips_time
@each_decision
async def test_a_window_that_loses_against_a_person_leaves_it_to_the_signal(world: World, action: Action) -> None:
    handle = await world.start(Action.RESIZE, window=1.0)
    async with asyncio.timeout(10):
        while Activity.CLAIM_CONFIRM not in world.called():
            await world.environment.sleep(2)
    await decide(handle, decision(action))
    await handle.result()
    assert world.called() == [*MOVED, Activity.CLAIM_CONFIRM, *CARRIED_OUT[action]]


async def test_a_workflow_that_was_reset_after_the_resize_was_decided_ends(world: World) -> None:
    world.script(Activity.CLAIM_CONFIRM, ClaimConfirmResult(None, is_over=True))
    await (await world.start(Action.RESIZE, window=-5.0)).result()
    assert world.called() == [*MOVED, Activity.CLAIM_CONFIRM]


async def test_a_workflow_that_was_reset_to_before_it_waited_ends(world: World) -> None:
    await (await world.start(Action.RESIZE, is_over=True)).result()
    assert world.called() == MOVED


async def test_a_window_that_is_over_confirms_at_once(world: World) -> None:
    """As after an outage that was longer than the window."""
    world.script(Activity.CLAIM_CONFIRM, ClaimConfirmResult(decision(Action.CONFIRM_RESIZE)))
    await (await world.start(Action.RESIZE, window=-5.0)).result()
    assert world.called()[-5:] == [Activity.CLAIM_CONFIRM, *CARRIED_OUT[Action.CONFIRM_RESIZE]]


async def test_what_the_window_has_claimed_is_not_carried_out_again_when_the_outbox_tells_of_it(world: World) -> None:
    handle = await waiting(world)
    claim = decision(Action.CONFIRM_RESIZE)
    world.script(Activity.WAIT_FOR_SERVER, *[ApplicationError("busy", type="busy")])
    await decide(handle, claim)
    await world.reached[Activity.CONFIRM_RESIZE].wait()
    await decide(handle, claim)
    await handle.result()
    assert world.called().count(Activity.CONFIRM_RESIZE) == 1


@pytest.mark.parametrize("window", [None, 3600.0])
async def test_a_cancel_while_it_waits_takes_only_the_window_away(world: World, window: float | None) -> None:
    handle = await waiting(world, window=window)
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called() == [*MOVED, Activity.DROP_CONFIRM_WINDOW]


@each_step
async def test_a_cancel_while_it_moves_puts_the_server_back(world: World, point: Activity) -> None:
    world.script(point, HANG)
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE, ServerStatus.ACTIVE)
    handle = await world.start(Action.RESIZE)
    await world.reached[point].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    is_touched = point is not Activity.PREPARE_RESIZE
    put_back = [name for name in PUT_BACK if is_touched or name is not Activity.CHECK_FLAVOR]
    assert world.called()[-len(put_back) :] == put_back
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["canceled"], recorded["intact"]) == (True, True)


@each_step
@pytest.mark.parametrize("code", ["no_valid_host", "mock_refused"])
@pytest.mark.parametrize("seen", [ServerStatus.SHUTOFF, ServerStatus.ACTIVE, ServerStatus.ERROR])
async def test_only_a_resize_that_found_no_host_or_had_not_begun_leaves_the_state_as_before(
    world: World, point: Activity, code: str, seen: ServerStatus
) -> None:
    world.script(point, refused(code))
    world.script(Activity.SETTLE_SERVER, seen)
    await failure_of(await world.start(Action.RESIZE, Status.SHUTOFF))
    recorded = world.last_input(Activity.FAIL_OPERATION)
    untouched = code == "no_valid_host" or point is Activity.PREPARE_RESIZE
    assert recorded["intact"] is (untouched and seen is ServerStatus.SHUTOFF)
    assert recorded["code"] == code
    assert Activity.UNDO_RESIZE not in world.called()


async def test_a_resize_that_fails_after_its_effect_is_put_back_and_in_error(world: World) -> None:
    world.script(Activity.FINISH_RESIZE, refused("resize_not_applied"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE, ServerStatus.ACTIVE)
    cause = await failure_of(await world.start(Action.RESIZE))
    assert isinstance(cause, ApplicationError)
    assert cause.type == "resize_not_applied"
    assert world.called()[-len(PUT_BACK) :] == PUT_BACK
    assert world.last_input(Activity.FAIL_OPERATION)["intact"] is False


async def test_a_server_that_will_not_go_back_does_not_keep_the_end_from_being_recorded(world: World) -> None:
    world.script(Activity.FINISH_RESIZE, refused("resize_not_applied"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE)
    world.script(Activity.UNDO_RESIZE, refused("server_conflict"))
    await failure_of(await world.start(Action.RESIZE))
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["code"], recorded["intact"]) == ("resize_not_applied", False)
    assert recorded["message"].endswith("After that: server_conflict, for good")


@each_decision
async def test_a_decision_that_fails_ends_the_resize_too(world: World, action: Action) -> None:
    world.script(CARRIED_OUT[action][0], refused("mock_refused"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE)
    handle, decided = await waiting(world), decision(action)
    await decide(handle, decided)
    cause = await failure_of(handle)
    assert isinstance(cause, ApplicationError)
    assert cause.type == "mock_refused"
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert recorded["operation"]["operation_id"] == str(decided.operation_id)
    assert await state_of(handle) == ("ERROR", None)


@each_decision
async def test_a_decision_that_is_canceled_too_late_has_been_carried_out(world: World, action: Action) -> None:
    world.script(Activity.WAIT_FOR_SERVER, None, HANG)
    world.script(Activity.SETTLE_SERVER, ServerStatus.ACTIVE)
    handle = await waiting(world)
    world.reached[Activity.WAIT_FOR_SERVER].clear()
    await decide(handle, decision(action))
    await world.reached[Activity.WAIT_FOR_SERVER].wait()
    await handle.cancel()
    await handle.result()
    assert world.called()[-3:] == [Activity.SETTLE_SERVER, Activity.CHECK_FLAVOR, Activity.FINISH_OPERATION]


@each_decision
async def test_a_decision_that_is_canceled_in_time_can_be_taken_again(world: World, action: Action) -> None:
    world.script(CARRIED_OUT[action][0], HANG)
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE)
    handle = await waiting(world)
    await decide(handle, decision(action))
    await world.reached[CARRIED_OUT[action][0]].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["canceled"], recorded["intact"]) == (True, True)
    assert await state_of(handle) == ("VERIFY_RESIZE", None)


@each_decision
@pytest.mark.parametrize("on_arrival", [True, False])
async def test_a_server_that_somebody_else_decided_on_is_no_success(
    world: World, action: Action, *, on_arrival: bool
) -> None:
    """Whether the cloud takes our decision, or refuses it and shows the server as if it had."""
    if not on_arrival:
        world.script(CARRIED_OUT[action][0], refused("server_conflict"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.ACTIVE)
    world.script(Activity.CHECK_FLAVOR, *[refused("resize_not_applied")] * 2)
    handle = await waiting(world)
    await decide(handle, decision(action))
    await failure_of(handle)
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert recorded["code"] == ("resize_not_applied" if on_arrival else "server_conflict")
    found = "resize_not_applied, for good"
    assert recorded["message"] == (found if on_arrival else f"server_conflict, for good After that: {found}")
    assert recorded["intact"] is False


async def test_a_resize_that_did_not_begin_leaves_another_to_be_decided(world: World) -> None:
    """As where an admin has put a VM into ACTIVE whose server waits for a decision."""
    world.script(Activity.PREPARE_RESIZE, refused("no_valid_host"))
    world.script(Activity.SETTLE_SERVER, *[ServerStatus.VERIFY_RESIZE] * 2)
    handle = await world.start(Action.RESIZE)
    await failure_of(handle)
    assert world.last_input(Activity.FAIL_OPERATION)["intact"] is True
    assert await state_of(handle) == ("ACTIVE", None)


async def test_a_resize_that_found_no_host_but_left_another_size_is_no_no_change(world: World) -> None:
    world.script(Activity.WAIT_FOR_SERVER, refused("no_valid_host"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.ACTIVE)
    world.script(Activity.CHECK_FLAVOR, refused("resize_not_applied"))
    await failure_of(await world.start(Action.RESIZE))
    assert world.last_input(Activity.CHECK_FLAVOR)["previous"] is True
    assert world.last_input(Activity.FAIL_OPERATION)["intact"] is False


async def test_a_decision_that_a_delete_took_over_from_records_nothing(world: World) -> None:
    world.script(Activity.WAIT_FOR_SERVER, None, HANG)
    world.script(Activity.SETTLE_SERVER, refused("superseded"))
    handle = await waiting(world)
    world.reached[Activity.WAIT_FOR_SERVER].clear()
    await decide(handle, decision(Action.CONFIRM_RESIZE))
    await world.reached[Activity.WAIT_FOR_SERVER].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called()[-1] is Activity.SETTLE_SERVER
