"""A delete releases the VM's volumes, deletes those that end with the VM, and removes unfinished images."""

from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.faults import add_fault
from activities.backends.mock.backend import MockBackend
from activities.backends.mock.schema import FaultMode, servers, volumes
from activities.backends.protocol import BackendError, Token
from activities.backends.resources import Ref
from activities.compute import ComputeActivities
from domain.data.models import Snapshot, Volume
from domain.progress import step_records, workflow_input
from domain.rules.cloud import ServerStatus, VolumeState
from domain.rules.errors import SupersededError
from domain.rules.messages import FailOperationInput, OperationInput
from domain.rules.resources import SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status
from domain.settings import Settings
from tests.activities.cloud import add_server, cloud_contents, complete_changes, free_servers, port, refs, server_spec
from tests.activities.conftest import Run
from tests.support.rows import (
    FLAVOR_IDS,
    add_attachment,
    add_interface,
    add_snapshot,
    add_user,
    add_vm,
    add_volume,
    claim,
    read_vm,
)

VOLUMES, IMAGES = 10, 2
ENDING = {1, 4, 9}  # positions of the volumes that end with their VM


@dataclass(frozen=True)
class Deleted:
    """A running delete, with the VM's volumes in the order of their devices, and its unfinished images."""

    input: OperationInput
    volumes: list[UUID]
    images: list[UUID]

    @property
    def ending(self) -> set[UUID]:
        """The volumes that end with the VM."""
        return {id for number, id in enumerate(self.volumes) if number in ENDING}

    @property
    def staying(self) -> set[UUID]:
        """The volumes that outlive the VM."""
        return set(self.volumes) - self.ending


@pytest.fixture
def compute(engine: AsyncEngine, slow_backend: MockBackend) -> ComputeActivities:
    """The steps on servers, on a cloud where no change completes by itself."""
    return ComputeActivities(engine, slow_backend)


async def add_delete(engine: AsyncEngine, cloud: MockBackend, volumes: int = VOLUMES, images: int = IMAGES) -> Deleted:
    """Add a delete of a VM with volumes and unfinished images, in the database and in the cloud."""
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user)
        rows = [(await add_volume(tx, user, status=VolumeStatus.IN_USE)) for _ in range(volumes)]
        for number, volume in enumerate(rows):
            place = {"device": f"/dev/vd{chr(98 + number)}", "delete_on_termination": number in ENDING}
            await add_attachment(tx, vm, volume, **place)  # type: ignore[arg-type]
        unfinished = [(await add_snapshot(tx, vm, status=SnapshotStatus.CREATING)).id for _ in range(images)]
        finished = (await add_snapshot(tx, vm)).id
    await add_server(engine, cloud, vm.id)
    for image in [*unfinished, finished]:
        await cloud.create_server_image(Token(uuid4(), "image"), Ref(vm.id), image, "before")
        await free_servers(engine)
    for number, volume in enumerate(rows):
        await add_attached(cloud, vm.id, volume.id, f"/dev/vd{chr(98 + number)}")
    return Deleted(await claim_delete(engine, vm.id), [volume.id for volume in rows], unfinished)


async def add_attached(cloud: MockBackend, vm_id: UUID, volume_id: UUID, device: str) -> None:
    """Add a volume in the cloud that is attached to the VM."""
    await cloud.create_volume(Token(uuid4(), "make"), volume_id, "data", 10)
    await cloud.attach_volume(Token(uuid4(), "attach"), Ref(vm_id), Ref(volume_id), device)


async def claim_delete(engine: AsyncEngine, vm_id: UUID) -> OperationInput:
    async with engine.begin() as tx:
        return workflow_input.input_of(await claim(tx, vm_id, Action.DELETE), "test-vm")


async def add_delete_without_server(
    engine: AsyncEngine, cloud: MockBackend, compute: ComputeActivities, run: Run
) -> Deleted:
    """Do the same as `add_delete`, with the server gone."""
    deleted = await add_delete(engine, cloud)
    assert await run(compute.delete_server, deleted.input) is True
    assert await complete_changes(engine, cloud, deleted.input.vm) is ServerStatus.GONE
    return deleted


async def is_released(cloud: MockBackend, deleted: Deleted) -> bool:
    """Return whether the volumes and images that end with the VM are gone, and the other volumes are free."""
    listed = await cloud.list_volumes(refs(deleted.volumes))
    free = {id for id, volume in listed.items() if (volume.state, volume.vm_id) == (VolumeState.AVAILABLE, None)}
    return free == set(listed) == deleted.staying and not await cloud.list_images(refs(deleted.images))


async def test_release_removes_what_ends_with_the_vm_and_frees_the_rest_and_may_be_repeated(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    deleted = await add_delete_without_server(engine, slow_backend, compute, run)
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
    deleted = await add_delete_without_server(engine, slow_backend, compute, run)
    targets = {"detach_volume": None, "delete_volume": deleted.volumes[4], "delete_image": deleted.images[1]}
    await add_fault(settings, verb, mode, vm_id=targets[verb])
    with pytest.raises(BackendError) as failure:
        await run(compute.release_resources, deleted.input)
    assert failure.value.retryable
    assert not await is_released(slow_backend, deleted)
    await run(compute.release_resources, deleted.input)
    assert await is_released(slow_backend, deleted)


async def test_a_volume_that_is_still_attached_is_not_deleted_but_tried_again(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    deleted = await add_delete_without_server(engine, slow_backend, compute, run)
    await run(compute.release_resources, deleted.input)
    detaching = deleted.volumes[0]
    values = {"state": VolumeState.DETACHING, "vm_id": deleted.input.vm, "device": "/dev/vdb"}
    async with engine.begin() as tx:
        await tx.execute(update(volumes).where(volumes.c.id == detaching).values(values))
    with pytest.raises(BackendError, match="still detaching") as failure:
        await run(compute.release_resources, deleted.input)
    assert (failure.value.code, failure.value.retryable) == ("volume_in_use", True)
    assert (await slow_backend.list_volumes([Ref(detaching)]))[detaching].state is VolumeState.DETACHING


async def test_the_resources_of_another_vm_are_not_released(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    neighbour = await add_delete(engine, slow_backend, volumes=2, images=1)
    deleted = await add_delete_without_server(engine, slow_backend, compute, run)
    await run(compute.release_resources, deleted.input)
    listed = await slow_backend.list_volumes(refs(neighbour.volumes))
    assert {volume.vm_id for volume in listed.values()} == {neighbour.input.vm_id}
    assert set(listed) == set(neighbour.volumes)
    assert set(await slow_backend.list_images(refs(neighbour.images))) == set(neighbour.images)


@pytest.mark.parametrize(
    ("has_volumes", "has_images", "expected"), [(0, 0, False), (1, 0, True), (0, 1, True), (10, 2, True)]
)
async def test_delete_server_returns_whether_there_is_anything_to_release(  # noqa: PLR0913, PLR0917 - fixtures
    compute: ComputeActivities,
    slow_backend: MockBackend,
    engine: AsyncEngine,
    run: Run,
    has_volumes: int,
    has_images: int,
    expected: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The VM has a finished snapshot in each case; that one is not released."""
    deleted = await add_delete(engine, slow_backend, has_volumes, has_images)
    for _ in range(2):
        assert await run(compute.delete_server, deleted.input) is expected


async def test_a_failed_delete_releases_nothing_more_and_the_next_delete_does(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    deleted = await add_delete_without_server(engine, slow_backend, compute, run)
    before = await cloud_contents(engine)
    await fail_delete(engine, deleted.input)
    with pytest.raises(SupersededError):
        await run(compute.release_resources, deleted.input)
    assert await cloud_contents(engine) == before
    again = await claim_delete(engine, deleted.input.vm)
    assert await run(compute.delete_server, again) is True
    await run(compute.release_resources, again)
    listed = await slow_backend.list_volumes(refs(deleted.volumes))
    assert set(listed) == deleted.staying


async def test_resources_that_the_cloud_refuses_to_delete_are_marked_as_error(
    compute: ComputeActivities, slow_backend: MockBackend, settings: Settings, engine: AsyncEngine, run: Run
) -> None:
    deleted = await add_delete_without_server(engine, slow_backend, compute, run)
    volume_id, unfinished = deleted.volumes[4], deleted.images[0]
    await add_fault(settings, "delete_volume", FaultMode.REFUSE, vm_id=volume_id)
    await add_fault(settings, "delete_image", FaultMode.REFUSE, vm_id=unfinished)
    await run(compute.release_resources, deleted.input)
    remaining = await slow_backend.list_volumes(refs(deleted.volumes))
    assert set(remaining) == deleted.staying | {volume_id}
    assert {volume.vm_id for volume in remaining.values()} == {None}
    assert set(await slow_backend.list_images(refs(deleted.images))) == {unfinished}
    async with engine.begin() as tx:
        await step_records.finish(tx, deleted.input)
        errors = [
            *(await tx.scalars(select(Volume.id).where(Volume.status == VolumeStatus.ERROR))),
            *(await tx.scalars(select(Snapshot.id).where(Snapshot.status == SnapshotStatus.ERROR))),
        ]
    assert errors == [volume_id, unfinished]
    assert (await read_vm(engine, deleted.input.vm)).status is Status.DELETED


async def add_port(engine: AsyncEngine, cloud: MockBackend, vm_id: UUID) -> UUID:
    """Add an interface of the VM and its port."""
    async with engine.begin() as tx:
        id = (await add_interface(tx, await read_vm(engine, vm_id))).id
    await cloud.create_server_interface(Token(uuid4(), "plug"), Ref(vm_id), port(id))
    return id


async def test_a_failed_delete_returns_what_the_cloud_still_has(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    deleted = await add_delete(engine, slow_backend)
    port_id = await add_port(engine, slow_backend, deleted.input.vm)
    freed, deleted_volume = deleted.volumes[:2]
    for id in (freed, deleted_volume):
        await slow_backend.detach_volume(Token(uuid4(), "detach"), Ref(deleted.input.vm), Ref(id))
    await slow_backend.delete_volume(Token(uuid4(), "delete"), Ref(deleted_volume))
    for _ in range(2):
        remains = await run(compute.settle_remains, deleted.input)
        assert (remains.ports, remains.free) == ((port_id,), (freed,))
        assert sorted(remains.attached) == sorted(deleted.volumes[2:])
        assert remains.flavor_id == (await read_vm(engine, deleted.input.vm)).flavor_id


async def test_only_free_volumes_remain_of_a_vm_whose_server_is_gone(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    deleted = await add_delete_without_server(engine, slow_backend, compute, run)
    remains = await run(compute.settle_remains, deleted.input)
    assert (remains.ports, remains.attached, remains.flavor_id) == ((), (), None)
    assert sorted(remains.free) == sorted(deleted.volumes)


@pytest.mark.parametrize(
    ("size", "flavor"), [("m1.large", "m1.large"), (None, None)], ids=["another flavor", "no flavor"]
)
async def test_remains_name_the_flavor_that_has_the_servers_size(  # noqa: PLR0913, PLR0917
    compute: ComputeActivities,
    slow_backend: MockBackend,
    engine: AsyncEngine,
    run: Run,
    size: str | None,
    flavor: str | None,
) -> None:
    deleted = await add_delete(engine, slow_backend, 0, 0)
    actual = server_spec(deleted.input.vm, size) if size else replace(server_spec(deleted.input.vm), vcpus=63)
    async with engine.begin() as tx:
        await tx.execute(update(servers).values(vcpus=actual.vcpus, ram_mb=actual.ram_mb, disk_gb=actual.disk_gb))
    remains = await run(compute.settle_remains, deleted.input)
    assert remains.flavor_id == (FLAVOR_IDS[flavor] if flavor else None)


async def test_a_delete_that_has_ended_settles_nothing(
    compute: ComputeActivities, slow_backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    deleted = await add_delete(engine, slow_backend, 1, 0)
    await fail_delete(engine, deleted.input)
    with pytest.raises(SupersededError):
        await run(compute.settle_remains, deleted.input)


async def fail_delete(engine: AsyncEngine, input: OperationInput) -> None:
    """End the delete without its workflow's knowledge."""
    async with engine.begin() as tx:
        await step_records.fail(tx, FailOperationInput(input, "timed_out", "It did not succeed in time."))
