"""Every workflow follows its row of the lifecycle table, and records its end however it ends."""

import pytest
from temporalio.exceptions import ApplicationError, CancelledError

from domain.rules.cloud import ServerStatus
from domain.rules.errors import BUILD_AGAIN
from domain.rules.messages import Activity
from domain.rules.states import Action, Status
from domain.rules.table import TABLE, Residue
from tests.workflows.stories import (
    EFFECTS,
    ENTERS,
    ON_WAITS_QUEUE,
    POINTS,
    WAITED_FOR,
    WITHOUT_DECISION,
    after_failure,
    failure_of,
)
from tests.workflows.world import HANG, SLOW, World, failed, refused


def test_every_action_with_a_workflow_is_tested() -> None:
    assert set(EFFECTS) == {action for action, rule in TABLE.items() if rule.workflow}


@pytest.mark.parametrize("action", WITHOUT_DECISION)
async def test_a_success_goes_through_the_steps_of_the_table(world: World, action: Action) -> None:
    await (await world.start(action)).result()
    assert world.called() == [*EFFECTS[action], Activity.FINISH_OPERATION]
    entered = list(dict.fromkeys(ENTERS[name] for name in world.called() if name in ENTERS))
    assert tuple(entered) == TABLE[action].steps
    for name, input in world.calls:
        if name is Activity.WAIT_FOR_SERVER:
            assert input["status"] == WAITED_FOR.get(action, "ACTIVE")
        if name is Activity.WAIT_FOR_VOLUME:
            assert input["state"] == WAITED_FOR[action]
    assert {name for name, waited in world.waited.items() if waited} == ON_WAITS_QUEUE & set(world.called())


@pytest.mark.parametrize(("action", "point"), POINTS)
async def test_a_failed_step_is_undone_and_recorded(world: World, action: Action, point: Activity) -> None:
    world.script(point, refused("no_valid_host"))
    cause = await failure_of(await world.start(action))
    assert isinstance(cause, ApplicationError)
    assert cause.type == "no_valid_host"
    upto = EFFECTS[action][: EFFECTS[action].index(point) + 1]
    assert world.called() == [*upto, *after_failure(action), Activity.FAIL_OPERATION]
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["code"], recorded["message"]) == ("no_valid_host", "no_valid_host, for good")
    assert recorded["canceled"] is False
    assert recorded["residue"] == Residue.UNKNOWN
    assert {name for name, waited in world.waited.items() if waited} == ON_WAITS_QUEUE & set(world.called())


@pytest.mark.parametrize(("action", "point"), POINTS)
async def test_a_superseded_operation_stops_at_once(world: World, action: Action, point: Activity) -> None:
    world.script(point, refused("superseded"))
    await (await world.start(action)).result()
    assert world.called() == EFFECTS[action][: EFFECTS[action].index(point) + 1]


@pytest.mark.parametrize(("action", "point"), POINTS)
async def test_a_canceled_workflow_is_undone_and_recorded(world: World, action: Action, point: Activity) -> None:
    world.script(point, HANG)
    handle = await world.start(action)
    await world.reached[point].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    upto = EFFECTS[action][: EFFECTS[action].index(point) + 1]
    assert world.called() == [*upto, *after_failure(action), Activity.FAIL_OPERATION]
    assert world.last_input(Activity.FAIL_OPERATION)["canceled"] is True
    assert world.last_input(Activity.FAIL_OPERATION)["code"] == "canceled"


async def test_a_create_canceled_by_a_delete_records_nothing(world: World) -> None:
    world.script(Activity.WAIT_FOR_SERVER, HANG)
    world.script(Activity.UNDO_CREATE, refused("superseded"))
    handle = await world.start(Action.CREATE)
    await world.reached[Activity.WAIT_FOR_SERVER].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert Activity.FAIL_OPERATION not in world.called()


async def test_a_failure_of_a_superseded_operation_is_not_recorded(world: World) -> None:
    world.script(Activity.START_SERVER, refused("mock_refused"))
    world.script(Activity.FAIL_OPERATION, refused("superseded"))
    await (await world.start(Action.START)).result()


@pytest.mark.parametrize("status", [ServerStatus.ACTIVE, ServerStatus.SHUTOFF])
async def test_a_failed_reboot_reports_whether_the_server_runs(world: World, status: ServerStatus) -> None:
    world.script(Activity.REBOOT_SERVER, refused("mock_refused"))
    world.script(Activity.SETTLE_SERVER, status)
    await failure_of(await world.start(Action.REBOOT_SOFT))
    expected = Residue.RUNNING if status is ServerStatus.ACTIVE else Residue.UNKNOWN
    assert world.last_input(Activity.FAIL_OPERATION)["residue"] == expected


@pytest.mark.parametrize("action", [Action.START, Action.STOP])
async def test_a_cancel_that_comes_too_late_is_a_success(world: World, action: Action) -> None:
    world.script(Activity.WAIT_FOR_SERVER, HANG)
    world.script(Activity.SETTLE_SERVER, WAITED_FOR.get(action, "ACTIVE"))
    handle = await world.start(action)
    await world.reached[Activity.WAIT_FOR_SERVER].wait()
    await handle.cancel()
    await handle.result()
    assert world.called()[-2:] == [Activity.SETTLE_SERVER, Activity.FINISH_OPERATION]


async def test_a_canceled_delete_fails_even_if_the_server_is_gone(world: World) -> None:
    """Ports may be left, and superseded operations may still call the cloud. Only another delete removes all that."""
    world.script(Activity.WAIT_FOR_SERVER, HANG)
    world.script(Activity.SETTLE_SERVER, ServerStatus.GONE)
    handle = await world.start(Action.DELETE)
    await world.reached[Activity.WAIT_FOR_SERVER].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called()[-1] is Activity.FAIL_OPERATION


@pytest.mark.parametrize("action", [Action.CREATE, Action.STOP])
async def test_a_failure_is_recorded_even_if_the_undo_is_refused(world: World, action: Action) -> None:
    world.script(Activity.WAIT_FOR_SERVER, refused("server_error"))
    world.script(after_failure(action)[0], refused("forbidden"))
    await failure_of(await world.start(action))
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert recorded["code"] == "server_error"
    assert recorded["message"].endswith("After that: forbidden, for good")


@pytest.mark.parametrize("moment", [Activity.UNDO_CREATE, Activity.FAIL_OPERATION])
async def test_a_cancel_does_not_interrupt_an_undo_or_a_record(world: World, moment: Activity) -> None:
    world.script(Activity.SPAWN_SERVER, refused("mock_refused"))
    world.script(moment, *[failed("OperationalError")] * 2)
    handle = await world.start(Action.CREATE)
    await world.reached[moment].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called()[-1] is Activity.FAIL_OPERATION
    assert world.called().count(moment) == 3


async def test_a_cancel_during_the_record_of_a_success_comes_too_late(world: World) -> None:
    world.script(Activity.FINISH_OPERATION, *[failed("OperationalError")] * 2)
    handle = await world.start(Action.CREATE)
    await world.reached[Activity.FINISH_OPERATION].wait()
    await handle.cancel()
    await handle.result()
    assert Activity.FAIL_OPERATION not in world.called()


async def test_a_cancel_during_a_step_that_succeeds_is_not_lost(world: World) -> None:
    world.script(Activity.SPAWN_SERVER, SLOW)
    handle = await world.start(Action.CREATE)
    await world.reached[Activity.SPAWN_SERVER].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called()[-3:] == [Activity.SPAWN_SERVER, Activity.UNDO_CREATE, Activity.FAIL_OPERATION]


@pytest.mark.parametrize("action", WITHOUT_DECISION)
async def test_transient_failures_are_retried(world: World, action: Action) -> None:
    for name in [*EFFECTS[action], Activity.FINISH_OPERATION]:
        world.script(name, failed("mock_transient"))
    await (await world.start(action)).result()
    assert world.called() == [name for name in [*EFFECTS[action], Activity.FINISH_OPERATION] for _ in range(2)]


@pytest.mark.parametrize(
    ("action", "previous", "status"),
    [
        (Action.STOP, Status.ERROR, "ERROR"),
        (Action.REBOOT_HARD, Status.SHUTOFF, "SHUTOFF"),
        (Action.RESTORE, Status.ACTIVE, "ACTIVE"),
        (Action.RESIZE, Status.ACTIVE, "ACTIVE"),
        (Action.CREATE, Status.BUILDING, "ERROR"),
    ],
)
async def test_an_operation_that_has_not_begun_is_never_a_success(
    world: World, action: Action, previous: Status, status: str
) -> None:
    """Even if the server happens to be in the status that it asked for."""
    first = after_failure(action)[0]
    world.script(EFFECTS[action][0], refused("canceled"))
    world.script(first, refused("not_begun"))
    handle = await world.start(action, previous)
    assert isinstance(await failure_of(handle), ApplicationError)
    assert world.called() == [EFFECTS[action][0], first, Activity.FAIL_OPERATION]
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["message"], recorded["residue"]) == ("canceled, for good", Residue.NOT_BEGUN)
    assert (await handle.query("state"))["status"] == status


async def test_a_create_that_the_cloud_refuses_to_undo_is_recorded_as_still_there(world: World) -> None:
    world.script(Activity.SPAWN_SERVER, refused("mock_refused"))
    world.script(Activity.UNDO_CREATE, refused("forbidden"))
    await failure_of(await world.start(Action.CREATE))
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["code"], recorded["residue"]) == ("mock_refused", Residue.STILL_THERE)
    assert recorded["message"].endswith("After that: forbidden, for good")


async def test_a_build_that_failed_for_a_reason_that_may_pass_is_repeated(world: World) -> None:
    world.script(Activity.WAIT_FOR_SERVER, *[refused(BUILD_AGAIN)] * 2)
    await (await world.start(Action.CREATE)).result()
    build = [Activity.SPAWN_SERVER, Activity.WAIT_FOR_SERVER]
    assert world.called() == [*EFFECTS[Action.CREATE][:-2], *build * 3, Activity.FINISH_OPERATION]


async def test_undos_and_records_are_retried(world: World) -> None:
    world.script(Activity.SPAWN_SERVER, refused("mock_refused"))
    world.script(Activity.UNDO_CREATE, *[failed("mock_transient")] * 3)
    world.script(Activity.FAIL_OPERATION, *[failed("OperationalError")] * 3)
    await failure_of(await world.start(Action.CREATE))
    assert world.called().count(Activity.UNDO_CREATE) == 4
    assert world.called().count(Activity.FAIL_OPERATION) == 4
