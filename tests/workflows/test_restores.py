"""A restore that fails reports whether the server is as in the snapshot."""

import pytest
from temporalio.exceptions import CancelledError

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity
from domain.rules.states import Action, Status
from domain.rules.table import Residue
from tests.workflows.stories import EFFECTS, canceled_at, code_of, failure_of
from tests.workflows.world import HANG, World, refused


def residue_if(*, applied: bool) -> Residue:
    """Return the residue of a restore that was applied, or that was not."""
    return Residue.APPLIED if applied else Residue.UNKNOWN


@pytest.mark.parametrize("point", EFFECTS[Action.RESTORE])
@pytest.mark.parametrize("status", [ServerStatus.ACTIVE, ServerStatus.ERROR])
@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
async def test_a_failed_restore_reports_whether_it_was_applied(
    world: World, point: Activity, status: ServerStatus, *, applied: bool
) -> None:
    world.script(point, refused("server_error"))
    world.script(Activity.SETTLE_SERVER, status)
    world.script(Activity.IS_RESTORED, applied)
    assert await code_of(await world.start(Action.RESTORE)) == "server_error"
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["residue"], recorded["canceled"]) == (residue_if(applied=applied), False)


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
async def test_a_canceled_restore_reports_whether_it_was_applied(world: World, *, applied: bool) -> None:
    world.script(Activity.WAIT_FOR_SERVER, HANG)
    world.script(Activity.SETTLE_SERVER, ServerStatus.ACTIVE)
    world.script(Activity.IS_RESTORED, applied)
    handle = await canceled_at(world, Action.RESTORE, Activity.WAIT_FOR_SERVER)
    assert isinstance(await failure_of(handle), CancelledError)
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["residue"], recorded["canceled"]) == (residue_if(applied=applied), True)


@pytest.mark.parametrize("previous", [Status.ACTIVE, Status.SHUTOFF])
async def test_a_restore_waits_for_the_previous_status_and_checks_the_size(world: World, previous: Status) -> None:
    await (await world.start(Action.RESTORE, previous)).result()
    assert world.last_input(Activity.WAIT_FOR_SERVER)["status"] == previous
    assert world.last_input(Activity.CHECK_FLAVOR)["previous"] is False


@pytest.mark.parametrize("action", [action for action in EFFECTS if action is not Action.RESTORE])
async def test_no_other_action_reports_that_it_was_applied(world: World, action: Action) -> None:
    world.script(EFFECTS[action][0], refused("mock_refused"))
    await failure_of(await world.start(action))
    assert world.last_input(Activity.FAIL_OPERATION)["residue"] != Residue.APPLIED
