"""A delete frees the VM's volumes, deletes those that were to end with it, and removes half-made images."""

from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.faults import add_fault
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import FaultMode, servers, volumes
from activities.backends.protocol import BackendError, Token
from activities.compute import ComputeActivities
from domain.data.models import Snapshot, Volume
from domain.progress import step_records, workflow_input
from domain.rules.cloud import ServerStatus, VolumeState
from domain.rules.errors import SupersededError
from domain.rules.messages import FailOperationInput, OperationInput
from domain.rules.resources import SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status
from domain.settings import Settings
from tests.activities.cloud import add_server, cloud_contents, complete_changes, port, server_spec
from tests.activities.conftest import Run
from tests.support.rows import FLAVOR_IDS, add_attachment, add_snapshot, add_user, add_vm, add_volume, claim, read_vm

VOLUMES, IMAGES = 10, 2
ENDING = {1, 4, 9}  # the volumes that are to end with their VM


@dataclass(frozen=True)
class Deleted:
    """A delete whose server is on its way, and what the VM had, in the order of its devices."""

    input: OperationInput
    volumes: list[UUID]
    images: list[UUID]

    @property
    def ending(self) -> set[UUID]:
        """The volumes that are to end with the VM."""
        return {id for number, id in enumerate(self.volumes) if number in ENDING}

    @property
    def staying(self) -> set[UUID]:
        """The volumes that outlive the VM."""
        return set(self.volumes) - self.ending


@pytest.fixture
def compute(engine: AsyncEngine, slow_backend: MockBackend) -> ComputeActivities:
    """The steps, on a cloud where nothing that is begun comes to an end by itself."""
    return ComputeActivities(engine, slow_backend)


async def deleting(engine: AsyncEngine, cloud: MockBackend, volumes: int = VOLUMES, images: int = IMAGES) -> Deleted:
    """A VM with volumes and half-made images that a delete takes over, all of it in the cloud too."""
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user)
        ids = [(await add_volume(tx, user, status=VolumeStatus.IN_USE)) for _ in range(volumes)]
        for number, volume in enumerate(ids):
            place = {"device": f"/dev/vd{chr(98 + number)}", "delete_on_termination": number in ENDING}
            await add_attachment(tx, vm, volume, **place)  # type: ignore[arg-type]
        half = [(await add_snapshot(tx, vm, status=SnapshotStatus.CREATING)).id for _ in range(images)]
        done = (await add_snapshot(tx, vm)).id
    await add_server(engine, cloud, vm.id)
    for image in [*half, done]:
        await cloud.create_server_image(Token(uuid4(), "image"), vm.id, image, "before")
    for number, volume in enumerate(ids):
        await add_attached(cloud, vm.id, volume.id, f"/dev/vd{chr(98 + number)}")
    return Deleted(await _delete(engine, vm.id), [volume.id for volume in ids], half)


async def add_attached(cloud: MockBackend, vm_id: UUID, volume_id: UUID, device: str) -> None:
    """A volume in the cloud that the VM has."""
    await cloud.create_volume(Token(uuid4(), "make"), volume_id, "data", 10)
    await cloud.attach_volume(Token(uuid4(), "attach"), vm_id, volume_id, device)


async def _delete(engine: AsyncEngine, vm_id: UUID) -> OperationInput:
    async with engine.begin() as tx:
        return workflow_input.input_of(await claim(tx, vm_id, Action.DELETE), "test-vm")


async def server_gone(engine: AsyncEngine, cloud: MockBackend, compute: ComputeActivities, run: Run) -> Deleted:
    """As `deleting`, when its server is gone."""
    deleted = await deleting(engine, cloud)
    assert await run(compute.delete_server, deleted.input) is True
    assert await complete_changes(engine, cloud, deleted.input.vm) is ServerStatus.GONE
    return deleted


async def is_released(cloud: MockBackend, deleted: Deleted) -> bool:
    """Whether what is to end is gone, and what is to stay is free; how far it is otherwise does not matter."""
    seen = await cloud.list_volumes(deleted.volumes)
    free = {id for id, volume in seen.items() if (volume.state, volume.vm_id) == (VolumeState.AVAILABLE, None)}
    return free == set(seen) == deleted.staying and not await cloud.list_images(deleted.images)


async def test_release_removes_what_ends_with_the_vm_and_frees_the_rest_and_may_be_repeated(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    deleted = await server_gone(engine, slow_backend, compute, run)
    assert not await is_released(slow_backend, deleted)
    await run(compute.release_resources, deleted.input)
    assert await is_released(slow_backend, deleted)
    once = await cloud_contents(engine)
    assert len(once["images"]) == 1, "a finished snapshot outlives its VM"
    await run(compute.release_resources, deleted.input)
    assert await cloud_contents(engine) == once


@pytest.mark.parametrize("mode", [FaultMode.FAIL, FaultMode.FAIL_AFTER_EFFECT])
@pytest.mark.parametrize("verb", ["detach_volume", "delete_volume", "delete_image"])
async def test_a_release_that_fails_halfway_is_completed_by_the_next_attempt(  # noqa: PLR0913, PLR0917 - fixtures
    compute: ComputeActivities,
    slow_backend: MockBackend,
    settings: Settings,
    engine: AsyncEngine,
    run: Run,
    verb: str,
    mode: FaultMode,
) -> None:
    deleted = await server_gone(engine, slow_backend, compute, run)
    middle = {"detach_volume": None, "delete_volume": deleted.volumes[4], "delete_image": deleted.images[1]}
    await add_fault(settings, verb, mode, vm_id=middle[verb])
    with pytest.raises(BackendError) as failure:
        await run(compute.release_resources, deleted.input)
    assert failure.value.retryable
    assert not await is_released(slow_backend, deleted)
    await run(compute.release_resources, deleted.input)
    assert await is_released(slow_backend, deleted)


async def test_a_volume_that_is_still_attached_is_not_deleted_but_tried_again(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    deleted = await server_gone(engine, slow_backend, compute, run)
    await run(compute.release_resources, deleted.input)
    slow = deleted.volumes[0]
    still = {"state": VolumeState.DETACHING, "vm_id": deleted.input.vm, "device": "/dev/vdb"}
    async with engine.begin() as tx:
        await tx.execute(update(volumes).where(volumes.c.id == slow).values(still))
    with pytest.raises(BackendError, match="still detaching") as failure:
        await run(compute.release_resources, deleted.input)
    assert (failure.value.code, failure.value.retryable) == ("volume_in_use", True)
    assert (await slow_backend.list_volumes([slow]))[slow].state is VolumeState.DETACHING


async def test_the_resources_of_another_vm_are_not_released(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    neighbour = await deleting(engine, slow_backend, volumes=2, images=1)
    deleted = await server_gone(engine, slow_backend, compute, run)
    await run(compute.release_resources, deleted.input)
    seen = await slow_backend.list_volumes(neighbour.volumes)
    assert {volume.vm_id for volume in seen.values()} == {neighbour.input.vm_id}
    assert set(seen) == set(neighbour.volumes)
    assert set(await slow_backend.list_images(neighbour.images)) == set(neighbour.images)


@pytest.mark.parametrize(
    ("has_volumes", "has_images", "leaves"), [(0, 0, False), (1, 0, True), (0, 1, True), (10, 2, True)]
)
async def test_delete_server_returns_whether_there_is_anything_to_release(  # noqa: PLR0913, PLR0917 - fixtures
    compute: ComputeActivities,
    slow_backend: MockBackend,
    engine: AsyncEngine,
    run: Run,
    has_volumes: int,
    has_images: int,
    leaves: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A finished snapshot, which the VM has in each case, is not released."""
    deleted = await deleting(engine, slow_backend, has_volumes, has_images)
    for _ in range(2):
        assert await run(compute.delete_server, deleted.input) is leaves


async def test_a_failed_delete_releases_nothing_more_and_the_next_delete_does(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    deleted = await server_gone(engine, slow_backend, compute, run)
    before = await cloud_contents(engine)
    await supersede_delete(engine, deleted.input)
    with pytest.raises(SupersededError):
        await run(compute.release_resources, deleted.input)
    assert await cloud_contents(engine) == before
    again = await _delete(engine, deleted.input.vm)
    assert await run(compute.delete_server, again) is True
    await run(compute.release_resources, again)
    seen = await slow_backend.list_volumes(deleted.volumes)
    assert set(seen) == deleted.staying


async def test_resources_that_the_cloud_refuses_to_delete_are_marked_as_error(
    compute: ComputeActivities, slow_backend: MockBackend, settings: Settings, engine: AsyncEngine, run: Run
) -> None:
    deleted = await server_gone(engine, slow_backend, compute, run)
    stuck, half = deleted.volumes[4], deleted.images[0]
    await add_fault(settings, "delete_volume", FaultMode.REFUSE, vm_id=stuck)
    await add_fault(settings, "delete_image", FaultMode.REFUSE, vm_id=half)
    await run(compute.release_resources, deleted.input)
    left = await slow_backend.list_volumes(deleted.volumes)
    assert set(left) == deleted.staying | {stuck}
    assert {volume.vm_id for volume in left.values()} == {None}
    assert set(await slow_backend.list_images(deleted.images)) == {half}
    async with engine.begin() as tx:
        await step_records.finish(tx, deleted.input)
        errors = [
            *(await tx.scalars(select(Volume.id).where(Volume.status == VolumeStatus.ERROR))),
            *(await tx.scalars(select(Snapshot.id).where(Snapshot.status == SnapshotStatus.ERROR))),
        ]
    assert errors == [stuck, half]
    assert (await read_vm(engine, deleted.input.vm)).status is Status.DELETED


async def add_port(cloud: MockBackend, vm_id: UUID) -> UUID:
    """A port of the VM's server."""
    await cloud.create_server_interface(Token(uuid4(), "plug"), vm_id, port(id := uuid4()))
    return id


async def test_a_failed_delete_returns_what_the_cloud_still_has(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    deleted = await deleting(engine, slow_backend)
    port_id, freed, ended = await add_port(slow_backend, deleted.input.vm), deleted.volumes[0], deleted.volumes[1]
    for id in (freed, ended):
        await slow_backend.detach_volume(Token(uuid4(), "detach"), deleted.input.vm, id)
    await slow_backend.delete_volume(Token(uuid4(), "delete"), ended)
    for _ in range(2):
        remains = await run(compute.settle_remains, deleted.input)
        assert (remains.ports, remains.free) == ((port_id,), (freed,))
        assert sorted(remains.attached) == sorted(deleted.volumes[2:])
        assert remains.flavor_id == (await read_vm(engine, deleted.input.vm)).flavor_id


async def test_only_free_volumes_remain_of_a_vm_whose_server_is_gone(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    deleted = await server_gone(engine, slow_backend, compute, run)
    remains = await run(compute.settle_remains, deleted.input)
    assert (remains.ports, remains.attached, remains.flavor_id) == ((), (), None)
    assert sorted(remains.free) == sorted(deleted.volumes)


@pytest.mark.parametrize(("size", "flavor"), [("m1.large", "m1.large"), (None, None)], ids=["another", "nobodys"])
async def test_remains_name_the_flavor_that_has_the_servers_size(  # noqa: PLR0913, PLR0917
    compute: ComputeActivities,
    slow_backend: MockBackend,
    engine: AsyncEngine,
    run: Run,
    size: str | None,
    flavor: str | None,
) -> None:
    deleted = await deleting(engine, slow_backend, 0, 0)
    has = server_spec(deleted.input.vm, size) if size else replace(server_spec(deleted.input.vm), vcpus=63)
    async with engine.begin() as tx:
        await tx.execute(update(servers).values(vcpus=has.vcpus, ram_mb=has.ram_mb, disk_gb=has.disk_gb))
    remains = await run(compute.settle_remains, deleted.input)
    assert remains.flavor_id == (FLAVOR_IDS[flavor] if flavor else None)


async def test_a_delete_that_has_ended_settles_nothing(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    deleted = await deleting(engine, slow_backend, 1, 0)
    await supersede_delete(engine, deleted.input)
    with pytest.raises(SupersededError):
        await run(compute.settle_remains, deleted.input)


async def supersede_delete(engine: AsyncEngine, input: OperationInput) -> None:
    """End the delete behind its back."""
    async with engine.begin() as tx:
        await step_records.fail(tx, FailOperationInput(input, "timed_out", "It did not succeed in time."))
