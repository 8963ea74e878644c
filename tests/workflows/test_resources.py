"""Snapshots, volumes and interfaces: whatever ends an operation, it is undone, or what is there is recorded."""

from enum import StrEnum
from typing import Any
from uuid import uuid4

import pytest
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import WorkflowEnvironment

from domain.rules.cloud import ImageState, PortState, ServerStatus, VolumeState
from domain.rules.messages import Activity, RemainsResult
from domain.rules.states import Action, Status
from tests.workflows.test_stories import AFTERMATH, EFFECTS, POINTS, aftermath, failure_of
from tests.workflows.world import DEFAULTS, HANG, LEAVES, SLOW, WITHOUT_VM, World, failed, refused

NEW = [action for action in AFTERMATH if action not in {Action.CREATE, Action.DELETE}]
NEW_POINTS = [(action, point) for action, point in POINTS if action in NEW]
ARRIVED: dict[Action, StrEnum] = {
    Action.DELETE_SNAPSHOT: ImageState.GONE,
    Action.DELETE_VOLUME: VolumeState.GONE,
    Action.DETACH_VOLUME: VolumeState.AVAILABLE,
    Action.DETACH_INTERFACE: PortState.GONE,
}
ELSEWHERE: list[tuple[Action, StrEnum]] = [
    *((Action.DELETE_SNAPSHOT, state) for state in (ImageState.ACTIVE, ImageState.SAVING, ImageState.ERROR)),
    *((Action.DELETE_VOLUME, state) for state in (VolumeState.AVAILABLE, VolumeState.DELETING, VolumeState.ERROR)),
    *((Action.DETACH_VOLUME, state) for state in (VolumeState.IN_USE, VolumeState.DETACHING, VolumeState.GONE)),
    (Action.DETACH_INTERFACE, PortState.ACTIVE),
]
NOT_UNDONE: dict[Action, tuple[Activity, StrEnum, list[StrEnum]]] = {
    Action.ATTACH_VOLUME: (Activity.SETTLE_VOLUME, VolumeState.IN_USE, [VolumeState.AVAILABLE, VolumeState.GONE]),
    Action.ATTACH_INTERFACE: (Activity.SETTLE_INTERFACE, PortState.ACTIVE, [PortState.GONE]),
}
SEEN = [(action, seen) for action, (_, there, elsewhere) in NOT_UNDONE.items() for seen in (there, *elsewhere)]
INTACT = {
    (Action.DELETE_SNAPSHOT, ImageState.ACTIVE),
    (Action.DELETE_VOLUME, VolumeState.AVAILABLE),
}
each_new = pytest.mark.parametrize("action", NEW)
each_point = pytest.mark.parametrize(("action", "point"), NEW_POINTS)
RELEASING = [*EFFECTS[Action.DELETE], Activity.RELEASE_RESOURCES]


async def canceled_at(world: World, action: Action, point: Activity) -> WorkflowHandle[Any, Any]:
    """The action's workflow, canceled when this activity has been reached."""
    handle = await world.start(action)
    await world.reached[point].wait()
    await handle.cancel()
    return handle


async def code_of(handle: WorkflowHandle[Any, Any]) -> str | None:
    """The code the workflow failed with."""
    cause = await failure_of(handle)
    assert isinstance(cause, ApplicationError)
    return cause.type


@each_new
async def test_a_cancel_before_anything_is_begun_is_recorded_all_the_same(
    workflow_environment: WorkflowEnvironment, action: Action
) -> None:
    world = World(workflow_environment)
    handle = await world.start(action)
    await handle.cancel()
    async with world:
        assert isinstance(await failure_of(handle), CancelledError)
    assert [name for name in world.called() if name not in EFFECTS[action][:1]] == [
        *aftermath(action),
        Activity.FAIL_OPERATION,
    ]
    assert world.last_input(Activity.FAIL_OPERATION)["canceled"] is True


@each_point
async def test_a_cancel_is_heeded_though_the_step_it_came_in_succeeds(
    world: World, action: Action, point: Activity
) -> None:
    world.script(point, SLOW)
    assert isinstance(await failure_of(await canceled_at(world, action, point)), CancelledError)
    upto = EFFECTS[action][: EFFECTS[action].index(point) + 1]
    assert world.called() == [*upto, *aftermath(action), Activity.FAIL_OPERATION]


@each_new
async def test_a_cancel_while_the_success_is_being_recorded_comes_too_late(world: World, action: Action) -> None:
    world.script(Activity.FINISH_OPERATION, SLOW)
    await (await canceled_at(world, action, Activity.FINISH_OPERATION)).result()
    assert world.called() == [*EFFECTS[action], Activity.FINISH_OPERATION]


@each_new
async def test_a_cancel_amid_the_aftermath_does_not_break_it_off(world: World, action: Action) -> None:
    world.script(EFFECTS[action][0], refused("mock_refused"))
    world.script(aftermath(action)[0], failed("OperationalError"))
    handle = await canceled_at(world, action, aftermath(action)[0])
    assert isinstance(await failure_of(handle), CancelledError)
    first, *rest = aftermath(action)
    assert world.called() == [EFFECTS[action][0], first, first, *rest, Activity.FAIL_OPERATION]
    assert world.last_input(Activity.FAIL_OPERATION)["code"] == "mock_refused"


@each_new
async def test_a_failure_whose_aftermath_finds_it_superseded_records_nothing(world: World, action: Action) -> None:
    world.script(EFFECTS[action][-1], refused("mock_refused"))
    world.script(aftermath(action)[0], refused("superseded"))
    await (await world.start(action)).result()
    assert world.called() == [*EFFECTS[action], aftermath(action)[0]]


@each_new
@pytest.mark.parametrize("end", [Activity.FINISH_OPERATION, Activity.FAIL_OPERATION])
async def test_an_end_that_is_found_superseded_ends_quietly(world: World, action: Action, end: Activity) -> None:
    if end is Activity.FAIL_OPERATION:
        world.script(EFFECTS[action][0], refused("mock_refused"))
    world.script(end, refused("superseded"))
    await (await world.start(action)).result()
    assert world.called()[-1] is end


@each_new
async def test_an_operation_canceled_by_a_delete_undoes_and_records_nothing(world: World, action: Action) -> None:
    world.script(EFFECTS[action][-1], HANG)
    world.script(aftermath(action)[0], refused("superseded"))
    handle = await canceled_at(world, action, EFFECTS[action][-1])
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called() == [*EFFECTS[action], aftermath(action)[0]]


@pytest.mark.parametrize("action", [action for action in NEW if action not in NOT_UNDONE])
async def test_an_aftermath_that_is_refused_does_not_keep_the_end_from_being_recorded(
    world: World, action: Action
) -> None:
    world.script(EFFECTS[action][-1], refused("server_error"))
    world.script(aftermath(action)[-1], refused("forbidden"))
    assert await code_of(await world.start(action)) == "server_error"
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert recorded["message"] == "server_error, for good After that: forbidden, for good"
    assert recorded["applied"] is False


@each_new
async def test_aftermath_and_record_are_tried_until_they_succeed(world: World, action: Action) -> None:
    world.script(EFFECTS[action][0], refused("mock_refused"))
    ends = [*aftermath(action), Activity.FAIL_OPERATION]
    for name in ends:
        world.script(name, *[failed("OperationalError")] * 2)
    assert await code_of(await world.start(action)) == "mock_refused"
    assert world.called()[1:] == [name for name in ends for _ in range(3)]


@pytest.mark.parametrize(("action", "seen"), ARRIVED.items())
@pytest.mark.parametrize("end", ["canceled", "failed"])
async def test_what_is_seen_to_have_been_done_is_a_success(
    world: World, action: Action, seen: StrEnum, end: str
) -> None:
    point = EFFECTS[action][-1]
    world.script(aftermath(action)[0], seen)
    if end == "canceled":
        world.script(point, HANG)
        handle = await canceled_at(world, action, point)
    else:
        world.script(point, refused("mock_refused"))
        handle = await world.start(action)
    await handle.result()
    assert world.called() == [*EFFECTS[action], aftermath(action)[0], Activity.FINISH_OPERATION]


@pytest.mark.parametrize(("action", "seen"), ELSEWHERE)
async def test_what_is_not_seen_to_have_been_done_is_a_failure(world: World, action: Action, seen: StrEnum) -> None:
    world.script(EFFECTS[action][-1], refused("mock_refused"))
    world.script(aftermath(action)[0], seen)
    assert await code_of(await world.start(action)) == "mock_refused"
    assert world.called()[-2:] == [aftermath(action)[0], Activity.FAIL_OPERATION]
    assert world.last_input(Activity.FAIL_OPERATION)["intact"] is ((action, seen) in INTACT)


@pytest.mark.parametrize(("action", "seen"), SEEN)
async def test_an_attach_that_the_cloud_refuses_to_undo_is_recorded_as_it_is_seen(
    world: World, action: Action, seen: StrEnum
) -> None:
    undo, (look, there, _) = aftermath(action)[0], NOT_UNDONE[action]
    world.script(EFFECTS[action][-1], refused("mock_refused"))
    world.script(undo, refused("forbidden"))
    world.script(look, seen)
    handle = await world.start(action)
    if seen is there:
        await handle.result()
    else:
        assert await code_of(handle) == "mock_refused"
    end = Activity.FINISH_OPERATION if seen is there else Activity.FAIL_OPERATION
    assert world.called() == [*EFFECTS[action], undo, look, end]
    if seen is not there:
        assert world.last_input(Activity.FAIL_OPERATION)["message"].endswith("After that: forbidden, for good")


@pytest.mark.parametrize("action", NOT_UNDONE)
async def test_an_attach_that_is_superseded_when_nobody_undid_it_records_nothing(world: World, action: Action) -> None:
    world.script(EFFECTS[action][-1], refused("mock_refused"))
    world.script(aftermath(action)[0], refused("forbidden"))
    world.script(NOT_UNDONE[action][0], refused("superseded"))
    await (await world.start(action)).result()
    assert world.called()[-1] is NOT_UNDONE[action][0]


@pytest.mark.parametrize("point", [Activity.DELETE_SERVER, Activity.WAIT_FOR_SERVER, Activity.RELEASE_RESOURCES])
async def test_a_delete_that_fails_records_what_the_cloud_still_has(world: World, point: Activity) -> None:
    remains = RemainsResult((uuid4(),), (uuid4(), uuid4()), (uuid4(),), uuid4())
    if point is Activity.RELEASE_RESOURCES:
        world.script(Activity.DELETE_SERVER, LEAVES)
    world.script(point, refused("mock_refused"))
    world.script(Activity.SETTLE_REMAINS, remains)
    assert await code_of(await world.start(Action.DELETE)) == "mock_refused"
    recorded = world.last_input(Activity.FAIL_OPERATION)["remains"]
    assert recorded["flavor_id"] == str(remains.flavor_id)
    for name in ("ports", "attached", "free"):
        assert recorded[name] == [str(id) for id in getattr(remains, name)]


async def test_a_delete_that_is_superseded_when_it_looks_what_remains_records_nothing(world: World) -> None:
    world.script(Activity.DELETE_SERVER, refused("mock_refused"))
    world.script(Activity.SETTLE_REMAINS, refused("superseded"))
    await (await world.start(Action.DELETE)).result()
    assert world.called()[-1] is Activity.SETTLE_REMAINS


@pytest.mark.parametrize("point", EFFECTS[Action.RESTORE])
@pytest.mark.parametrize("seen", [ServerStatus.ACTIVE, ServerStatus.ERROR])
@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
async def test_a_restore_that_fails_says_whether_the_server_is_what_the_snapshot_holds(
    world: World, point: Activity, seen: ServerStatus, *, applied: bool
) -> None:
    world.script(point, refused("server_error"))
    world.script(Activity.SETTLE_SERVER, seen)
    world.script(Activity.IS_RESTORED, applied)
    assert await code_of(await world.start(Action.RESTORE)) == "server_error"
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["applied"], recorded["intact"], recorded["canceled"]) == (applied, False, False)


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
async def test_a_restore_that_is_canceled_says_it_too(world: World, *, applied: bool) -> None:
    world.script(Activity.WAIT_FOR_SERVER, HANG)
    world.script(Activity.SETTLE_SERVER, ServerStatus.ACTIVE)
    world.script(Activity.IS_RESTORED, applied)
    handle = await canceled_at(world, Action.RESTORE, Activity.WAIT_FOR_SERVER)
    assert isinstance(await failure_of(handle), CancelledError)
    recorded = world.last_input(Activity.FAIL_OPERATION)
    assert (recorded["applied"], recorded["canceled"]) == (applied, True)


@pytest.mark.parametrize("previous", [Status.ACTIVE, Status.SHUTOFF])
async def test_a_restore_ends_as_the_server_was_and_with_its_old_size(world: World, previous: Status) -> None:
    await (await world.start(Action.RESTORE, previous)).result()
    assert world.last_input(Activity.WAIT_FOR_SERVER)["status"] == previous
    assert world.last_input(Activity.CHECK_FLAVOR)["previous"] is False


@pytest.mark.parametrize("action", [action for action in EFFECTS if action is not Action.RESTORE])
async def test_no_other_failure_says_that_it_was_applied(world: World, action: Action) -> None:
    world.script(EFFECTS[action][0], refused("mock_refused"))
    await failure_of(await world.start(action))
    assert world.last_input(Activity.FAIL_OPERATION)["applied"] is False


@pytest.mark.parametrize("leaves", [True, False], ids=["with", "without"])
async def test_a_delete_releases_only_where_it_was_told_that_there_is_something(world: World, *, leaves: bool) -> None:
    world.script(Activity.DELETE_SERVER, leaves)
    await (await world.start(Action.DELETE)).result()
    effects = RELEASING if leaves else EFFECTS[Action.DELETE]
    assert world.called() == [*effects, Activity.FINISH_OPERATION]


async def test_a_delete_that_an_older_release_answered_nothing_releases_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(DEFAULTS, Activity.DELETE_SERVER)
    await (await world.start(Action.DELETE)).result()
    assert world.called() == [*EFFECTS[Action.DELETE], Activity.FINISH_OPERATION]


async def test_a_release_is_tried_again(world: World) -> None:
    world.script(Activity.DELETE_SERVER, LEAVES)
    world.script(Activity.RELEASE_RESOURCES, *[failed("volume_in_use")] * 3)
    await (await world.start(Action.DELETE)).result()
    assert world.called()[-5:] == [*[Activity.RELEASE_RESOURCES] * 4, Activity.FINISH_OPERATION]


async def test_a_release_that_is_refused_fails_the_delete_though_no_server_is_left(world: World) -> None:
    world.script(Activity.DELETE_SERVER, LEAVES)
    world.script(Activity.RELEASE_RESOURCES, refused("volume_conflict"))
    world.script(Activity.SETTLE_SERVER, ServerStatus.GONE)
    assert await code_of(await world.start(Action.DELETE)) == "volume_conflict"
    assert world.called() == [*RELEASING, *aftermath(Action.DELETE), Activity.FAIL_OPERATION]


async def test_a_release_that_is_superseded_ends_quietly(world: World) -> None:
    world.script(Activity.DELETE_SERVER, LEAVES)
    world.script(Activity.RELEASE_RESOURCES, refused("superseded"))
    await (await world.start(Action.DELETE)).result()
    assert world.called() == RELEASING


@pytest.mark.parametrize("how", [HANG, SLOW], ids=["during", "after"])
async def test_a_delete_that_is_canceled_amid_its_release_may_be_asked_for_again(world: World, how: object) -> None:
    world.script(Activity.DELETE_SERVER, LEAVES)
    world.script(Activity.RELEASE_RESOURCES, how)
    handle = await canceled_at(world, Action.DELETE, Activity.RELEASE_RESOURCES)
    assert isinstance(await failure_of(handle), CancelledError)
    assert world.called() == [*RELEASING, *aftermath(Action.DELETE), Activity.FAIL_OPERATION]
    assert world.last_input(Activity.FAIL_OPERATION)["canceled"] is True


@each_new
async def test_activities_are_told_what_the_operation_is_about(world: World, action: Action) -> None:
    await (await world.start(action)).result()
    inputs = [input.get("operation", input) for _, input in world.calls]
    assert len({input["operation_id"] for input in inputs}) == 1
    for input in inputs:
        assert input["resource_id"] not in {None, input["vm_id"]}
        assert (input["vm_id"] is None) is (action in WITHOUT_VM)
