"""VMs that are built from a snapshot or boot from a volume, on the mock cloud."""

from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock import schema
from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import BackendError
from activities.backends.resources import Ref, Volume
from activities.compute import ComputeActivities
from activities.records import RecordActivities
from activities.volumes import VolumeActivities
from activities.waits import WaitActivities
from domain.data.models import VM, Attachment, Operation
from domain.data.parameters import NO_CONTROL, CreateVolume, to_json
from domain.rules.cloud import ServerStatus, VolumeState
from domain.rules.messages import FailOperationInput, OperationInput, WaitForServerInput
from domain.rules.resources import AttachmentStatus, VolumeStatus
from domain.rules.states import Action, TaskState
from domain.rules.table import Residue
from tests.activities.cloud import BUILD_IMAGE_ID, complete_changes, disk_content, server_spec
from tests.activities.conftest import Run
from tests.activities.mock_cloud import (
    add_idle_server,
    add_image,
    add_volume,
    list_volume,
    refused_without_effect,
    token,
)
from tests.activities.operations import add_claiming_operation
from tests.domain.claims import shown
from tests.support.rows import add_attachment, add_held_vm, add_snapshot, add_user, read_vm
from tests.support.rows import add_volume as add_row

IMAGE = Ref(BUILD_IMAGE_ID, str(BUILD_IMAGE_ID))


async def add_bootable(cloud: MockBackend, id: UUID) -> Ref:
    """Add a volume from which servers can boot."""
    return Ref(id, await cloud.create_volume(token(), id, "root", 10, IMAGE))


async def set_boot(engine: AsyncEngine, vm_id: UUID, **values: Any) -> None:
    """Let the VM boot from something else than its image."""
    async with engine.begin() as tx:
        await tx.execute(update(VM).where(VM.id == vm_id).values(**values))


async def booting_vm(engine: AsyncEngine, cloud: MockBackend, device: str | None = "/dev/vda") -> OperationInput:
    """Return a create that is about to build its server on a volume."""
    input = await add_held_vm(engine, Action.CREATE, step=TaskState.SPAWNING)
    volume_id = uuid4()
    held: dict[str, Any] = {"operation_id": input.operation_id}
    cloud_id = (await add_bootable(cloud, volume_id)).cloud_id
    async with engine.begin() as tx:
        user, vm = await add_user(tx), await read_vm(engine, input.vm)
        claimed: dict[str, Any] = {"status": VolumeStatus.ATTACHING, "cloud_id": cloud_id, "image_id": BUILD_IMAGE_ID}
        volume = await add_row(tx, user, id=volume_id, **claimed, **held)
        await add_attachment(tx, vm, volume, status=AttachmentStatus.ATTACHING, device=device, **held)
    await set_boot(engine, input.vm, boot_volume_id=volume_id)
    return input


async def volume_of(engine: AsyncEngine, input: OperationInput) -> UUID:
    """Return the volume from which the VM boots."""
    id = (await read_vm(engine, input.vm)).boot_volume_id
    assert id is not None
    return id


async def test_a_server_that_is_built_from_a_snapshot_has_its_disk(
    compute: ComputeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    origin = await add_idle_server(backend, engine)
    saved = await disk_content(engine, origin)
    image_id = await add_image(backend, engine, origin)
    await backend.purge(Ref(origin))
    input = await add_held_vm(engine, Action.CREATE, step=TaskState.SPAWNING)
    async with engine.begin() as tx:
        await add_snapshot(tx, await read_vm(engine, input.vm), id=image_id)
    await set_boot(engine, input.vm, snapshot_id=image_id)
    await run(compute.spawn_server, input)
    assert await disk_content(engine, input.vm) == saved
    assert await complete_changes(engine, backend, input.vm) is ServerStatus.ACTIVE


async def test_a_server_cannot_be_built_from_a_snapshot_that_is_gone(
    compute: ComputeActivities, engine: AsyncEngine, run: Run
) -> None:
    input = await add_held_vm(engine, Action.CREATE, step=TaskState.SPAWNING)
    await set_boot(engine, input.vm, snapshot_id=uuid4())
    with pytest.raises(BackendError) as refusal:
        await run(compute.spawn_server, input)
    assert (refusal.value.code, refusal.value.retryable) == ("image_not_found", False)


async def test_a_server_boots_from_a_volume_which_is_attached_with_it(
    compute: ComputeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await booting_vm(engine, backend)
    for _ in range(2):
        await run(compute.spawn_server, input)
    await complete_changes(engine, backend, input.vm)
    volume_id = await volume_of(engine, input)
    assert await list_volume(backend, volume_id) == Volume(
        volume_id, VolumeState.IN_USE, input.vm, "/dev/vda", size_gb=10
    )
    assert (await backend.list_servers([Ref(input.vm)]))[input.vm].image_id is None


async def test_the_end_of_a_create_attaches_the_volume(
    compute: ComputeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await booting_vm(engine, backend, device=None)
    await run(compute.spawn_server, input)
    await complete_changes(engine, backend, input.vm)
    await run(WaitActivities(engine, backend).wait_for_server, WaitForServerInput(input, ServerStatus.ACTIVE))
    async with engine.connect() as connection:
        assert await connection.scalar(select(Attachment.device)) == "/dev/vda"
    await run(RecordActivities(engine).finish_operation, input)
    assert await shown(engine) == {"volume": ["IN_USE"], "attachment": ["ATTACHED"]}


@pytest.mark.parametrize("residue", [Residue.UNKNOWN, Residue.STILL_THERE])
async def test_a_build_that_fails_frees_the_volume_unless_the_server_is_still_there(
    compute: ComputeActivities, backend: MockBackend, engine: AsyncEngine, run: Run, residue: Residue
) -> None:
    input = await booting_vm(engine, backend)
    await run(compute.spawn_server, input)
    if residue is Residue.UNKNOWN:
        await run(compute.undo_create, input)
        volume = await list_volume(backend, await volume_of(engine, input))
        assert volume
        assert (volume.state, volume.vm_id) == (VolumeState.AVAILABLE, None)
    failure = FailOperationInput.of(input, "no_luck", "It went wrong.", residue)
    await run(RecordActivities(engine).fail_operation, failure)
    left = {"volume": ["AVAILABLE"]}
    if residue is Residue.STILL_THERE:
        left = {"volume": ["IN_USE"], "attachment": ["ATTACHED"]}
    assert await shown(engine) == left


@pytest.mark.parametrize("what", ["server", "volume"])
async def test_an_undo_waits_until_the_cloud_has_released_the_volume(  # noqa: PLR0913, PLR0917 - fixtures
    compute: ComputeActivities,
    backend: MockBackend,
    engine: AsyncEngine,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    input = await booting_vm(engine, backend)
    await run(compute.spawn_server, input)
    if what == "server":
        monkeypatch.setattr(backend, "purge", AsyncMock())
    else:
        id = await volume_of(engine, input)
        listed = {id: Volume(id, VolumeState.ATTACHING)}
        monkeypatch.setattr(backend, "list_volumes", AsyncMock(return_value=listed))
    with pytest.raises(BackendError) as refusal:
        await run(compute.undo_create, input)
    assert refusal.value.retryable
    assert refusal.value.code == {"server": "server_there", "volume": "volume_in_use"}[what]


@pytest.mark.parametrize("state", ["available, empty", "in-use", "gone"])
async def test_the_cloud_refuses_a_volume_that_is_not_bootable_and_free(
    slow_backend: MockBackend, engine: AsyncEngine, state: str
) -> None:
    code = "bad_request"
    volume = Ref(await add_volume(slow_backend)) if state == "available, empty" else Ref(uuid4())
    if state == "in-use":
        volume, code = await add_bootable(slow_backend, uuid4()), "conflict"
        await slow_backend.create_server(token(), replace(server_spec(uuid4()), boot_volume=volume))
    spec = replace(server_spec(uuid4()), boot_volume=volume)
    await refused_without_effect(engine, slow_backend.create_server(token(), spec), code)


async def test_the_cloud_neither_detaches_nor_saves_nor_rebuilds_a_disk_that_is_a_volume(
    slow_backend: MockBackend, engine: AsyncEngine
) -> None:
    vm, volume = Ref(uuid4()), await add_bootable(slow_backend, uuid4())
    await slow_backend.create_server(token(), replace(server_spec(vm.id), boot_volume=volume))
    await complete_changes(engine, slow_backend, vm.id)
    await refused_without_effect(engine, slow_backend.detach_volume(token(), vm, volume), "conflict")
    unsupported = (
        slow_backend.create_server_image(token(), vm, uuid4(), "before"),
        slow_backend.rebuild_server(token(), server_spec(vm.id)),
    )
    for call in unsupported:
        await refused_without_effect(engine, call, "not_supported_by_cloud")


async def test_a_volume_is_created_from_an_image(backend: MockBackend, engine: AsyncEngine, run: Run) -> None:
    input = await add_claiming_operation(engine, Action.CREATE_VOLUME)
    async with engine.begin() as tx:
        wanted = to_json(CreateVolume("root", 10, BUILD_IMAGE_ID), NO_CONTROL)
        await tx.execute(update(Operation).values(input=wanted))
    await run(VolumeActivities(engine, backend).create_volume, input)
    async with engine.connect() as connection:
        assert await connection.scalar(select(schema.volumes.c.image_id)) == BUILD_IMAGE_ID


async def test_an_extension_succeeds_if_the_volume_has_the_size(
    backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    steps, waits = VolumeActivities(engine, backend), WaitActivities(engine, backend)
    input = await add_claiming_operation(engine, Action.EXTEND_VOLUME)
    await backend.create_volume(token(), input.resource, "data", 10)
    with pytest.raises(BackendError) as failure:
        await run(waits.wait_for_extension, input)
    assert (failure.value.code, failure.value.retryable) == ("volume_unchanged", False)
    assert "20 GiB" in str(failure.value)
    await run(steps.extend_volume, input)
    await run(waits.wait_for_extension, input)
    assert await run(steps.is_extended, input) is True
    await run(RecordActivities(engine).finish_operation, input)
    assert await shown(engine) == {"volume": ["AVAILABLE"]}
    async with engine.connect() as connection:
        assert await connection.scalar(select(schema.volumes.c.size_gb)) == 20


@pytest.mark.parametrize(("state", "code"), [("error", "volume_error"), (None, "volume_gone")])
async def test_an_extension_fails_if_the_volume_is_in_error_or_gone(
    backend: MockBackend, engine: AsyncEngine, run: Run, state: str | None, code: str
) -> None:
    input = await add_claiming_operation(engine, Action.EXTEND_VOLUME)
    if state:
        await backend.create_volume(token(), input.resource, "data", 20)
        async with engine.begin() as tx:
            await tx.execute(update(schema.volumes).values(state=state))
    with pytest.raises(BackendError) as failure:
        await run(WaitActivities(engine, backend).wait_for_extension, input)
    assert (failure.value.code, failure.value.retryable) == (code, False)


async def test_an_extension_that_was_not_carried_out_is_not_recorded_as_one(
    backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input = await add_claiming_operation(engine, Action.EXTEND_VOLUME)
    await backend.create_volume(token(), input.resource, "data", 10)
    assert await run(VolumeActivities(engine, backend).is_extended, input) is False
    await run(
        RecordActivities(engine).fail_operation,
        FailOperationInput.of(input, "no_luck", "It went wrong.", Residue.STILL_THERE),
    )
    assert await shown(engine) == {"volume": ["AVAILABLE"]}
