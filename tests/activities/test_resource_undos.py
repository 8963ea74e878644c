"""After an operation on a snapshot, volume or interface has failed, it is revoked, and undone or settled."""

from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.faults import add_fault
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import FaultMode, images, servers, volumes
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from activities.snapshots import SnapshotActivities
from activities.volumes import VolumeActivities
from domain.rules.cloud import ImageState, PortState, ServerStatus, VolumeState
from domain.rules.errors import SupersededError
from domain.rules.messages import Activity, OperationInput
from domain.rules.states import Action, Status
from domain.settings import Settings
from tests.activities.cloud import (
    CloudContents,
    add_server,
    cloud_contents,
    complete_changes,
    count_rows,
    disk_content,
    free_servers,
    port,
    ports_of,
    server_spec,
)
from tests.activities.conftest import Run
from tests.activities.operations import add_claiming_operation, prepare_operation, supersede
from tests.activities.steps import STEPS, step_of

UNDOS = {
    Activity.UNDO_IMAGE: (Activity.CREATE_SERVER_IMAGE, "delete_image"),
    Activity.UNDO_VOLUME: (Activity.CREATE_VOLUME, "delete_volume"),
    Activity.UNDO_ATTACH: (Activity.ATTACH_VOLUME, "detach_volume"),
    Activity.UNDO_INTERFACE: (Activity.CREATE_INTERFACE, "delete_server_interface"),
}
SETTLES = {
    Activity.SETTLE_IMAGE: (Activity.DELETE_IMAGE, ImageState.ACTIVE, ImageState.GONE),
    Activity.SETTLE_INTERFACE: (Activity.DELETE_INTERFACE, PortState.ACTIVE, PortState.GONE),
}
each_undo = pytest.mark.parametrize("name", UNDOS)
each_end = pytest.mark.parametrize("name", [*UNDOS, *SETTLES])
done_or_not = pytest.mark.parametrize("is_done", [True, False], ids=["done", "not done"])


def cleanup_of(
    name: Activity, engine: AsyncEngine, cloud: MockBackend
) -> Callable[[OperationInput], Awaitable[object]]:
    """Return the activity that undoes or settles, by its name."""
    did = UNDOS[name][0] if name in UNDOS else SETTLES[name][0]
    activity: Callable[[OperationInput], Awaitable[object]] = getattr(STEPS[did][0](engine, cloud), name)
    return activity


def step_before(name: Activity) -> Activity:
    """Return the step before the undo or settle activity."""
    return UNDOS[name][0] if name in UNDOS else SETTLES[name][0]


async def idle_contents(engine: AsyncEngine) -> CloudContents:
    """Return what the cloud has, when no server is busy with saving its disk any more."""
    await free_servers(engine)
    return await cloud_contents(engine)


async def add_operation_before(engine: AsyncEngine, cloud: MockBackend, name: Activity) -> OperationInput:
    """Add an operation before its step."""
    return await prepare_operation(engine, cloud, STEPS[step_before(name)][1])


def _other_token(input: OperationInput) -> Token:
    return Token(input.operation_id, "another")


async def _reboot(engine: AsyncEngine, cloud: MockBackend, input: OperationInput) -> str | None:
    """Boot the server, which changes its disk, restore its power state, and return the disk's earlier content."""
    saved = await disk_content(engine, input.vm)
    await cloud.reboot_server(Token(uuid4(), "reboot"), Ref(input.vm), hard=True)
    await complete_changes(engine, cloud, input.vm)
    if input.previous_status is Status.SHUTOFF:
        await cloud.stop_server(Token(uuid4(), "stop"), Ref(input.vm))
        await complete_changes(engine, cloud, input.vm)
    assert await disk_content(engine, input.vm) != saved
    return saved


@each_undo
@done_or_not
async def test_undoing_removes_the_effect_and_refuses_later_calls(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run, name: Activity, *, is_done: bool
) -> None:
    input = await add_operation_before(engine, slow_backend, name)
    before, step = await idle_contents(engine), step_of(UNDOS[name][0], engine, slow_backend)
    if is_done:
        await run(step, input)
        assert await idle_contents(engine) != before
    for _ in range(2):
        await run(cleanup_of(name, engine, slow_backend), input)
        assert await idle_contents(engine) == before
    if not is_done:
        with pytest.raises(BackendError, match="revoked"):
            await run(step, input)
    assert await idle_contents(engine) == before


@each_undo
async def test_undoing_a_doomed_operation_succeeds(
    slow_backend: MockBackend, doomed_backend: MockBackend, engine: AsyncEngine, run: Run, name: Activity
) -> None:
    input = await add_operation_before(engine, slow_backend, name)
    before = await idle_contents(engine)
    await run(step_of(UNDOS[name][0], engine, slow_backend), input)
    await run(cleanup_of(name, engine, doomed_backend), input)
    assert await idle_contents(engine) == before


@each_undo
@pytest.mark.parametrize("mode", [FaultMode.FAIL, FaultMode.FAIL_AFTER_EFFECT])
async def test_undoing_that_failed_succeeds_when_it_is_repeated(  # noqa: PLR0913, PLR0917
    slow_backend: MockBackend, settings: Settings, engine: AsyncEngine, run: Run, name: Activity, mode: FaultMode
) -> None:
    input = await add_operation_before(engine, slow_backend, name)
    before = await idle_contents(engine)
    await run(step_of(UNDOS[name][0], engine, slow_backend), input)
    await add_fault(settings, UNDOS[name][1], mode)
    with pytest.raises(BackendError) as failure:
        await run(cleanup_of(name, engine, slow_backend), input)
    assert failure.value.retryable
    assert (await idle_contents(engine) == before) is (mode is FaultMode.FAIL_AFTER_EFFECT)
    await run(cleanup_of(name, engine, slow_backend), input)
    assert await idle_contents(engine) == before


@each_end
async def test_a_superseded_operation_is_neither_undone_nor_settled(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run, name: Activity
) -> None:
    input = await add_operation_before(engine, slow_backend, name)
    await run(step_of(step_before(name), engine, slow_backend), input)
    await supersede(engine, input)
    before = await cloud_contents(engine)
    with pytest.raises(SupersededError):
        await run(cleanup_of(name, engine, slow_backend), input)
    assert await cloud_contents(engine) == before
    assert await count_rows(engine, "revocations") == 0


@pytest.mark.parametrize("name", SETTLES)
@done_or_not
async def test_settling_refuses_later_calls_and_returns_the_state(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run, name: Activity, *, is_done: bool
) -> None:
    _, state_before, state_after = SETTLES[name]
    input = await add_operation_before(engine, slow_backend, name)
    step = step_of(step_before(name), engine, slow_backend)
    if is_done:
        await run(step, input)
    before = await cloud_contents(engine)
    for _ in range(2):
        assert await run(cleanup_of(name, engine, slow_backend), input) is (state_after if is_done else state_before)
    with pytest.raises(BackendError, match="revoked"):
        await slow_backend.delete_image(_other_token(input), Ref(input.resource))
    assert await cloud_contents(engine) == before


async def test_a_port_of_another_vm_is_neither_listed_nor_deleted(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input, other = await add_claiming_operation(engine, Action.DETACH_INTERFACE), uuid4()
    await slow_backend.create_ports(_other_token(input), Ref(other), [port(input.resource)])
    await run(step_of(Activity.DELETE_INTERFACE, engine, slow_backend), input)
    assert await run(cleanup_of(Activity.SETTLE_INTERFACE, engine, slow_backend), input) is PortState.GONE
    assert await ports_of(slow_backend, other) == {input.resource}


@pytest.mark.parametrize(
    ("values", "state"), [({}, ImageState.ACTIVE), ({"fault": "No space left."}, ImageState.ERROR)], ids=["fine", "bad"]
)
async def test_settling_returns_the_state_of_an_image_that_is_left(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run, values: dict[str, str], state: ImageState
) -> None:
    input = await prepare_operation(engine, slow_backend, Action.DELETE_SNAPSHOT)
    async with engine.begin() as tx:
        await tx.execute(update(images).values(name="before", **values))
    assert await run(cleanup_of(Activity.SETTLE_IMAGE, engine, slow_backend), input) is state


async def test_undoing_an_attach_is_repeated_until_the_volume_is_released(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    """If the failure were recorded earlier, the API would show a volume as available that is not."""
    undo = VolumeActivities(engine, slow_backend).undo_attach
    input = await prepare_operation(engine, slow_backend, Action.ATTACH_VOLUME)
    await run(undo, input)
    values = {"state": VolumeState.DETACHING, "vm_id": input.vm, "device": "/dev/vdb"}
    async with engine.begin() as tx:
        await tx.execute(update(volumes).values(values))
    with pytest.raises(BackendError, match="still detaching") as failure:
        await run(undo, input)
    assert (failure.value.code, failure.value.retryable) == ("volume_in_use", True)
    async with engine.begin() as tx:
        await tx.execute(update(volumes).values(state=VolumeState.AVAILABLE, vm_id=None, device=None))
    await run(undo, input)


@pytest.mark.parametrize("previous", [Status.ACTIVE, Status.SHUTOFF])
async def test_a_server_is_restored_once_it_was_rebuilt_from_the_snapshot(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run, previous: Status
) -> None:
    snapshots = SnapshotActivities(engine, slow_backend)
    input = await prepare_operation(engine, slow_backend, Action.RESTORE, previous=previous)
    assert await run(snapshots.is_restored, input) is False
    saved = await _reboot(engine, slow_backend, input)
    await run(snapshots.rebuild_server, input)
    assert await complete_changes(engine, slow_backend, input.vm) is ServerStatus(str(previous))
    assert await run(snapshots.is_restored, input) is True
    assert await disk_content(engine, input.vm) == saved


@pytest.mark.parametrize("changed", [{"vcpus": 8}, {"ram_mb": 8}, {"disk_gb": 8}], ids=str)
async def test_a_server_of_another_size_is_not_restored(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run, changed: dict[str, int]
) -> None:
    snapshots, input = (
        SnapshotActivities(engine, slow_backend),
        await prepare_operation(engine, slow_backend, Action.RESTORE),
    )
    await run(snapshots.rebuild_server, input)
    async with engine.begin() as tx:
        await tx.execute(update(servers).values(changed))
    assert await run(snapshots.is_restored, input) is False


async def test_a_missing_server_is_not_restored_and_a_superseded_restore_is_not_checked(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    snapshots, input = (
        SnapshotActivities(engine, slow_backend),
        await prepare_operation(engine, slow_backend, Action.RESTORE),
    )
    await run(snapshots.rebuild_server, input)
    await slow_backend.purge(Ref(input.vm))
    assert await run(snapshots.is_restored, input) is False
    await supersede(engine, input)
    with pytest.raises(SupersededError):
        await run(snapshots.is_restored, input)


async def test_a_restore_returns_to_the_flavor_of_the_snapshot(
    slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_claiming_operation(engine, Action.RESTORE)
    await add_server(engine, slow_backend, input.vm, "m1.large")
    await slow_backend.create_server_image(_other_token(input), Ref(input.vm), input.resource, "before")
    await complete_changes(engine, slow_backend, input.vm)
    await run(SnapshotActivities(engine, slow_backend).rebuild_server, input)
    server, small = (await slow_backend.list_servers([Ref(input.vm)]))[input.vm], server_spec(input.vm)
    assert server.has_size_of(small)
    image = (await slow_backend.list_images([Ref(input.resource)]))[input.resource]
    assert server.image_id == image.cloud_id
