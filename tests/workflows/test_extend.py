"""An extension counts as a success if the volume has its new size, however its workflow ended."""

import pytest
from temporalio.exceptions import CancelledError

from domain.rules.cloud import VolumeState
from domain.rules.messages import Activity
from domain.rules.states import Action
from domain.rules.table import Residue
from tests.workflows.stories import code_of, failure_of
from tests.workflows.world import HANG, World, refused


@pytest.mark.parametrize("state", [VolumeState.AVAILABLE, VolumeState.IN_USE])
async def test_a_cancel_that_comes_too_late_is_a_success(world: World, state: VolumeState) -> None:
    world.script(Activity.WAIT_FOR_EXTENSION, HANG)
    world.script(Activity.SETTLE_VOLUME, state)
    world.script(Activity.IS_EXTENDED, True)  # noqa: FBT003 - the answer of the activity
    handle = await world.start(Action.EXTEND_VOLUME)
    await world.reached[Activity.WAIT_FOR_EXTENSION].wait()
    await handle.cancel()
    await handle.result()
    assert world.called()[-1] is Activity.FINISH_OPERATION


@pytest.mark.parametrize(
    ("state", "residue"),
    [
        (VolumeState.AVAILABLE, Residue.STILL_THERE),
        (VolumeState.IN_USE, Residue.STILL_THERE),
        (VolumeState.ERROR, Residue.UNKNOWN),
        (VolumeState.GONE, Residue.UNKNOWN),
    ],
)
async def test_a_failure_leaves_the_volume_as_before_if_it_is_at_rest(
    world: World, state: VolumeState, residue: Residue
) -> None:
    world.script(Activity.EXTEND_VOLUME, refused("quota_exceeded"))
    world.script(Activity.SETTLE_VOLUME, state)
    world.script(Activity.IS_EXTENDED, False)  # noqa: FBT003
    assert await code_of(await world.start(Action.EXTEND_VOLUME)) == "quota_exceeded"
    assert world.last_input(Activity.FAIL_OPERATION)["residue"] == residue


async def test_a_volume_in_error_is_no_success_although_it_has_the_size(world: World) -> None:
    world.script(Activity.WAIT_FOR_EXTENSION, HANG)
    world.script(Activity.SETTLE_VOLUME, VolumeState.ERROR)
    world.script(Activity.IS_EXTENDED, True)  # noqa: FBT003
    handle = await world.start(Action.EXTEND_VOLUME)
    await world.reached[Activity.WAIT_FOR_EXTENSION].wait()
    await handle.cancel()
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called()[-1] is Activity.FAIL_OPERATION
