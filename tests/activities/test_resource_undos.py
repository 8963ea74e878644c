"""What follows the failure of an operation on a snapshot, volume or interface: undone, or looked at, and refused."""

from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.faults import add_fault
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import FaultMode, images, servers, volumes
from activities.backends.protocol import BackendError, Token
from activities.snapshots import SnapshotActivities
from activities.volumes import VolumeActivities
from domain.rules.cloud import ImageState, PortState, ServerStatus, VolumeState
from domain.rules.errors import SupersededError
from domain.rules.messages import Activity, OperationInput
from domain.rules.states import Action, Status
from domain.settings import Settings
from tests.activities.conftest import Do, count, spec
from tests.activities.held import add_held, add_server, all_of, be_due, content_of, port, ready, supersede
from tests.activities.test_resource_steps import STEPS, step_of

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
happened_or_not = pytest.mark.parametrize("happened", [True, False], ids=["done", "not done"])


def of(name: Activity, engine: AsyncEngine, cloud: MockBackend) -> Callable[[OperationInput], Awaitable[object]]:
    """What follows a failure, by its name."""
    did = UNDOS[name][0] if name in UNDOS else SETTLES[name][0]
    activity: Callable[[OperationInput], Awaitable[object]] = getattr(STEPS[did][0](engine, cloud), name)
    return activity


def effect_before(name: Activity) -> Activity:
    """The step that failed, or was followed by something that did."""
    return UNDOS[name][0] if name in UNDOS else SETTLES[name][0]


async def begun(engine: AsyncEngine, cloud: MockBackend, name: Activity) -> OperationInput:
    """An operation before its step."""
    return await ready(engine, cloud, STEPS[effect_before(name)][1])


def _other_token(input: OperationInput) -> Token:
    return Token(input.operation_id, "another")


async def _boot_anew(engine: AsyncEngine, cloud: MockBackend, input: OperationInput) -> str | None:
    """What the disk held before the server was booted and wrote to it; it is then as it was."""
    saved = await content_of(engine, input.vm)
    await cloud.reboot_server(Token(uuid4(), "reboot"), input.vm, hard=True)
    await be_due(engine, cloud, input.vm)
    if input.previous_status is Status.SHUTOFF:
        await cloud.stop_server(Token(uuid4(), "stop"), input.vm)
        await be_due(engine, cloud, input.vm)
    assert await content_of(engine, input.vm) != saved
    return saved


@each_undo
@happened_or_not
async def test_undoing_leaves_nothing_and_lets_nothing_come_after(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do, name: Activity, *, happened: bool
) -> None:
    input = await begun(engine, slow_backend, name)
    before, step = await all_of(engine), step_of(UNDOS[name][0], engine, slow_backend)
    if happened:
        await do(step, input)
        assert await all_of(engine) != before
    for _ in range(2):
        await do(of(name, engine, slow_backend), input)
        assert await all_of(engine) == before
    if not happened:
        with pytest.raises(BackendError, match="revoked"):
            await do(step, input)
    assert await all_of(engine) == before


@each_undo
async def test_undoing_is_not_doomed_with_its_operation(
    slow_backend: MockBackend, unlucky: MockBackend, engine: AsyncEngine, do: Do, name: Activity
) -> None:
    input = await begun(engine, slow_backend, name)
    before = await all_of(engine)
    await do(step_of(UNDOS[name][0], engine, slow_backend), input)
    await do(of(name, engine, unlucky), input)
    assert await all_of(engine) == before


@each_undo
@pytest.mark.parametrize("mode", [FaultMode.FAIL, FaultMode.FAIL_AFTER_EFFECT])
async def test_undoing_that_fails_before_or_after_its_effect_is_done_by_the_same_again(  # noqa: PLR0913, PLR0917
    slow_backend: MockBackend, settings: Settings, engine: AsyncEngine, do: Do, name: Activity, mode: FaultMode
) -> None:
    input = await begun(engine, slow_backend, name)
    before = await all_of(engine)
    await do(step_of(UNDOS[name][0], engine, slow_backend), input)
    await add_fault(settings, UNDOS[name][1], mode)
    with pytest.raises(BackendError) as failure:
        await do(of(name, engine, slow_backend), input)
    assert failure.value.retryable
    assert (await all_of(engine) == before) is (mode is FaultMode.FAIL_AFTER_EFFECT)
    await do(of(name, engine, slow_backend), input)
    assert await all_of(engine) == before


@each_end
async def test_what_was_superseded_is_neither_undone_nor_looked_at(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do, name: Activity
) -> None:
    input = await begun(engine, slow_backend, name)
    await do(step_of(effect_before(name), engine, slow_backend), input)
    await supersede(engine, input)
    before = await all_of(engine)
    with pytest.raises(SupersededError):
        await do(of(name, engine, slow_backend), input)
    assert await all_of(engine) == before
    assert await count(engine, "revocations") == 0


@pytest.mark.parametrize("name", SETTLES)
@happened_or_not
async def test_settling_refuses_what_would_come_and_says_what_there_is(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do, name: Activity, *, happened: bool
) -> None:
    _, there, gone = SETTLES[name]
    input = await begun(engine, slow_backend, name)
    step = step_of(effect_before(name), engine, slow_backend)
    if happened:
        await do(step, input)
    before = await all_of(engine)
    for _ in range(2):
        assert await do(of(name, engine, slow_backend), input) is (gone if happened else there)
    with pytest.raises(BackendError, match="revoked"):
        await slow_backend.delete_image(_other_token(input), input.resource)
    assert await all_of(engine) == before


async def test_a_port_of_another_vm_is_neither_seen_nor_taken(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    input, other = await add_held(engine, Action.DETACH_INTERFACE), uuid4()
    await slow_backend.create_ports(_other_token(input), other, [port(input.resource)])
    await do(step_of(Activity.DELETE_INTERFACE, engine, slow_backend), input)
    assert await do(of(Activity.SETTLE_INTERFACE, engine, slow_backend), input) is PortState.GONE
    assert await slow_backend.list_ports(other) == [input.resource]


@pytest.mark.parametrize(
    ("values", "state"), [({}, ImageState.ACTIVE), ({"fault": "No space left."}, ImageState.ERROR)], ids=["fine", "bad"]
)
async def test_an_image_that_stays_shows_how_it_is(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do, values: dict[str, str], state: ImageState
) -> None:
    input = await ready(engine, slow_backend, Action.DELETE_SNAPSHOT)
    async with engine.begin() as tx:
        await tx.execute(update(images).values(name="before", **values))
    assert await do(of(Activity.SETTLE_IMAGE, engine, slow_backend), input) is state


async def test_an_attach_is_not_undone_before_the_cloud_has_freed_the_volume(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    """A cloud detaches in its own time: who records the failure at once would promise a volume that is not free."""
    undo = VolumeActivities(engine, slow_backend).undo_attach
    input = await ready(engine, slow_backend, Action.ATTACH_VOLUME)
    await do(undo, input)
    still = {"state": VolumeState.DETACHING, "vm_id": input.vm, "device": "/dev/vdb"}
    async with engine.begin() as tx:
        await tx.execute(update(volumes).values(still))
    with pytest.raises(BackendError, match="still detaching") as failure:
        await do(undo, input)
    assert (failure.value.code, failure.value.retryable) == ("volume_in_use", True)
    async with engine.begin() as tx:
        await tx.execute(update(volumes).values(state=VolumeState.AVAILABLE, vm_id=None, device=None))
    await do(undo, input)


@pytest.mark.parametrize("previous", [Status.ACTIVE, Status.SHUTOFF])
async def test_a_server_is_restored_once_it_is_what_the_snapshot_holds(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do, previous: Status
) -> None:
    snapshots = SnapshotActivities(engine, slow_backend)
    input = await ready(engine, slow_backend, Action.RESTORE, previous=previous)
    assert await do(snapshots.is_restored, input) is False
    saved = await _boot_anew(engine, slow_backend, input)
    await do(snapshots.rebuild_server, input)
    assert await be_due(engine, slow_backend, input.vm) is ServerStatus(str(previous))
    assert await do(snapshots.is_restored, input) is True
    assert await content_of(engine, input.vm) == saved


@pytest.mark.parametrize("changed", [{"vcpus": 8}, {"ram_mb": 8}, {"disk_gb": 8}], ids=str)
async def test_a_server_of_another_size_is_not_restored(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do, changed: dict[str, int]
) -> None:
    snapshots, input = SnapshotActivities(engine, slow_backend), await ready(engine, slow_backend, Action.RESTORE)
    await do(snapshots.rebuild_server, input)
    async with engine.begin() as tx:
        await tx.execute(update(servers).values(changed))
    assert await do(snapshots.is_restored, input) is False


async def test_a_server_that_is_gone_is_not_restored_and_one_taken_over_is_not_looked_at(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    snapshots, input = SnapshotActivities(engine, slow_backend), await ready(engine, slow_backend, Action.RESTORE)
    await do(snapshots.rebuild_server, input)
    await slow_backend.purge(input.vm)
    assert await do(snapshots.is_restored, input) is False
    await supersede(engine, input)
    with pytest.raises(SupersededError):
        await do(snapshots.is_restored, input)


async def test_a_restore_goes_back_to_the_flavor_of_the_snapshot(
    slow_backend: MockBackend, engine: AsyncEngine, do: Do
) -> None:
    input = await add_held(engine, Action.RESTORE)
    await add_server(engine, slow_backend, input.vm, "m1.large")
    await slow_backend.create_server_image(_other_token(input), input.vm, input.resource, "before")
    await do(SnapshotActivities(engine, slow_backend).rebuild_server, input)
    server, small = (await slow_backend.list_servers([input.vm]))[input.vm], spec(input.vm)
    assert server.has_size_of(small)
    assert server.image_id == input.resource
