"""The move of a resize: when it fails or is canceled, the server is put back and the end is recorded."""

import pytest
from temporalio.exceptions import ApplicationError, CancelledError

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity
from domain.rules.states import Action, Status
from domain.rules.table import Residue
from tests.workflows.resizing import state_of
from tests.workflows.stories import EFFECTS, failure_of
from tests.workflows.world import HANG, World, refused

PUT_BACK = [
    Activity.SETTLE_SERVER,
    Activity.UNDO_RESIZE,
    Activity.SETTLE_SERVER,
    Activity.CHECK_FLAVOR,
    Activity.FAIL_OPERATION,
]
each_step = pytest.mark.parametrize("point", EFFECTS[Action.RESIZE])


@each_step
async def test_a_cancel_during_the_move_puts_the_server_back(world: World, point: Activity) -> None:
    world.script(point, HANG)
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE, ServerStatus.ACTIVE)
    handle = await world.start(Action.RESIZE)
    await world.reached[point].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called()[-len(PUT_BACK) :] == PUT_BACK
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["canceled"], recorded["residue"]) == (True, Residue.UNCHANGED)


@each_step
@pytest.mark.parametrize("code", ["no_valid_host", "mock_refused"])
@pytest.mark.parametrize("status", [ServerStatus.SHUTOFF, ServerStatus.ACTIVE, ServerStatus.ERROR])
async def test_a_failed_move_is_unchanged_only_if_no_host_was_found(
    world: World, point: Activity, code: str, status: ServerStatus
) -> None:
    world.script(point, refused(code))
    world.script(Activity.SETTLE_SERVER, status)
    await failure_of(await world.start(Action.RESIZE, Status.SHUTOFF))
    recorded = world.last_input(Activity.FAIL_OPERATION)
    is_unchanged = code == "no_valid_host" and status is ServerStatus.SHUTOFF
    assert recorded["residue"] == (Residue.UNCHANGED if is_unchanged else Residue.UNKNOWN)
    assert recorded["code"] == code
    assert Activity.UNDO_RESIZE not in world.called()


async def test_a_move_that_fails_at_its_end_is_put_back_and_ends_in_error(world: World) -> None:
    world.script(Activity.FINISH_RESIZE, refused("resize_not_applied"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE, ServerStatus.ACTIVE)
    cause = await failure_of(await world.start(Action.RESIZE))
    assert isinstance(cause, ApplicationError)
    assert cause.type == "resize_not_applied"
    assert world.called()[-len(PUT_BACK) :] == PUT_BACK
    assert world.last_input(Activity.FAIL_OPERATION)["residue"] == Residue.UNKNOWN


async def test_a_failure_is_recorded_even_if_the_server_cannot_be_put_back(world: World) -> None:
    world.script(Activity.FINISH_RESIZE, refused("resize_not_applied"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.VERIFY_RESIZE)
    world.script(Activity.UNDO_RESIZE, refused("server_conflict"))
    await failure_of(await world.start(Action.RESIZE))
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["code"], recorded["residue"]) == ("resize_not_applied", Residue.UNKNOWN)
    assert recorded["message"].endswith("After that: server_conflict, for good")


async def test_a_move_that_fails_while_an_earlier_resize_waits_ends_in_error(world: World) -> None:
    """As when an admin has reset a VM to ACTIVE while its server waits for a decision."""
    world.script(Activity.PREPARE_RESIZE, refused("no_valid_host"))
    world.script(Activity.SETTLE_SERVER, *[ServerStatus.VERIFY_RESIZE] * 2)
    handle = await world.start(Action.RESIZE)
    await failure_of(handle)
    assert world.last_input(Activity.FAIL_OPERATION)["residue"] == Residue.UNKNOWN
    assert await state_of(handle) == ("ERROR", None)


async def test_a_move_that_found_no_host_but_changed_the_size_is_not_unchanged(world: World) -> None:
    world.script(Activity.WAIT_FOR_SERVER, refused("no_valid_host"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.ACTIVE)
    world.script(Activity.CHECK_FLAVOR, refused("resize_not_applied"))
    await failure_of(await world.start(Action.RESIZE))
    assert world.last_input(Activity.CHECK_FLAVOR)["previous"] is True
    assert world.last_input(Activity.FAIL_OPERATION)["residue"] == Residue.UNKNOWN
