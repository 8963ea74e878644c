"""A delete of a VM releases the VM's resources. A failed delete records what the cloud still has."""

from uuid import uuid4

import pytest
from temporalio.exceptions import CancelledError

from domain.rules.cloud import ServerStatus
from domain.rules.messages import Activity, LeftoversResult
from domain.rules.states import Action
from tests.workflows.stories import EFFECTS, after_failure, canceled_at, code_of, failure_of
from tests.workflows.world import DEFAULTS, HANG, HAS_RESOURCES, SLOW, World, failed, refused

RELEASING = [*EFFECTS[Action.DELETE], Activity.RELEASE_RESOURCES]


@pytest.mark.parametrize("point", [Activity.DELETE_SERVER, Activity.WAIT_FOR_SERVER, Activity.RELEASE_RESOURCES])
async def test_a_failed_delete_records_what_the_cloud_still_has(world: World, point: Activity) -> None:
    leftovers = LeftoversResult((uuid4(),), (uuid4(), uuid4()), (uuid4(),), uuid4())
    if point is Activity.RELEASE_RESOURCES:
        world.script(Activity.DELETE_SERVER, HAS_RESOURCES)
    world.script(point, refused("mock_refused"))
    world.script(Activity.SETTLE_REMAINS, leftovers)
    assert await code_of(await world.start(Action.DELETE)) == "mock_refused"
    recorded = world.last_input(Activity.FAIL_OPERATION)["remains"]
    assert recorded["flavor_id"] == str(leftovers.flavor_id)
    for name in ("ports", "attached", "free"):
        assert recorded[name] == [str(id) for id in getattr(leftovers, name)]


async def test_a_delete_that_is_superseded_while_it_lists_leftovers_records_nothing(world: World) -> None:
    world.script(Activity.DELETE_SERVER, refused("mock_refused"))
    world.script(Activity.SETTLE_REMAINS, refused("superseded"))
    await (await world.start(Action.DELETE)).result()
    assert world.called()[-1] is Activity.SETTLE_REMAINS


@pytest.mark.parametrize("has_resources", [True, False], ids=["with", "without"])
async def test_a_delete_releases_resources_only_if_there_are_any(world: World, *, has_resources: bool) -> None:
    world.script(Activity.DELETE_SERVER, has_resources)
    await (await world.start(Action.DELETE)).result()
    effects = RELEASING if has_resources else EFFECTS[Action.DELETE]
    assert world.called() == [*effects, Activity.FINISH_OPERATION]


async def test_a_delete_whose_step_ran_on_an_older_worker_releases_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(DEFAULTS, Activity.DELETE_SERVER)
    await (await world.start(Action.DELETE)).result()
    assert world.called() == [*EFFECTS[Action.DELETE], Activity.FINISH_OPERATION]


async def test_a_release_is_retried(world: World) -> None:
    world.script(Activity.DELETE_SERVER, HAS_RESOURCES)
    world.script(Activity.RELEASE_RESOURCES, *[failed("volume_in_use")] * 3)
    await (await world.start(Action.DELETE)).result()
    assert world.called()[-5:] == [*[Activity.RELEASE_RESOURCES] * 4, Activity.FINISH_OPERATION]


async def test_a_refused_release_fails_the_delete_even_if_the_server_is_gone(world: World) -> None:
    world.script(Activity.DELETE_SERVER, HAS_RESOURCES)
    world.script(Activity.RELEASE_RESOURCES, refused("volume_conflict"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.GONE)
    assert await code_of(await world.start(Action.DELETE)) == "volume_conflict"
    assert world.called() == [*RELEASING, *after_failure(Action.DELETE), Activity.FAIL_OPERATION]


async def test_a_superseded_release_ends_without_an_error(world: World) -> None:
    world.script(Activity.DELETE_SERVER, HAS_RESOURCES)
    world.script(Activity.RELEASE_RESOURCES, refused("superseded"))
    await (await world.start(Action.DELETE)).result()
    assert world.called() == RELEASING


@pytest.mark.parametrize("moment", [HANG, SLOW], ids=["during", "after"])
async def test_a_delete_that_is_canceled_at_its_release_is_recorded_as_canceled(world: World, moment: object) -> None:
    world.script(Activity.DELETE_SERVER, HAS_RESOURCES)
    world.script(Activity.RELEASE_RESOURCES, moment)
    handle = await canceled_at(world, Action.DELETE, Activity.RELEASE_RESOURCES)
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called() == [*RELEASING, *after_failure(Action.DELETE), Activity.FAIL_OPERATION]
    assert world.last_input(Activity.FAIL_OPERATION)["canceled"] is True
