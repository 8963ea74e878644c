"""Servers that are built with volumes beside their disk, on the mock cloud."""

from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.backends.mock.backend import MockBackend
from activities.backends.protocol import BackendError
from activities.backends.resources import DataVolume, Ref, Volume
from activities.compute import ComputeActivities
from activities.records import RecordActivities
from activities.waits import WaitActivities
from domain.data.models import Attachment, Operation
from domain.rules.cloud import ServerStatus, VolumeState
from domain.rules.messages import FailOperationInput, OperationInput, WaitForServerInput
from domain.rules.resources import AttachmentStatus, VolumeStatus
from domain.rules.states import Action, TaskState
from domain.rules.table import Residue
from tests.activities.cloud import complete_changes, server_spec
from tests.activities.conftest import Run
from tests.activities.mock_cloud import add_volume, list_volume, refused_without_effect, token
from tests.domain.claims import shown
from tests.support.rows import INPUTS, add_attachment, add_held_vm, add_user, read_vm
from tests.support.rows import add_volume as add_row

DEVICES = ("/dev/vdb", "/dev/vdc")


async def build_with_volumes(
    engine: AsyncEngine, cloud: MockBackend, devices: tuple[str | None, ...] = DEVICES
) -> tuple[OperationInput, list[UUID]]:
    """Return a create that is about to build its server with volumes, and their ids."""
    input = await add_held_vm(engine, Action.CREATE, step=TaskState.SPAWNING)
    held: dict[str, Any] = {"operation_id": input.operation_id}
    ids = [await add_volume(cloud) for _ in devices]
    async with engine.begin() as tx:
        user, vm = await add_user(tx), await read_vm(engine, input.vm)
        for id, device in zip(ids, devices, strict=True):
            volume = await add_row(tx, user, id=id, status=VolumeStatus.ATTACHING, **held)
            await add_attachment(tx, vm, volume, status=AttachmentStatus.ATTACHING, device=device, **held)
        wanted = INPUTS[Action.CREATE] | {"volume_ids": [str(id) for id in ids]}
        await tx.execute(update(Operation).where(Operation.id == input.operation_id).values(input=wanted))
    return input, ids


async def test_the_server_has_its_volumes_from_the_start(
    compute: ComputeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input, ids = await build_with_volumes(engine, backend)
    for _ in range(2):
        await run(compute.spawn_server, input)
    for id, device in zip(ids, DEVICES, strict=True):
        volume = await list_volume(backend, id)
        assert volume
        assert (volume.state, volume.vm_id, volume.device) == (VolumeState.IN_USE, input.vm, device)
    assert (await backend.list_servers([Ref(input.vm)]))[input.vm].image_id is not None


async def test_the_end_of_the_create_attaches_them_with_the_devices_that_the_cloud_has_chosen(
    compute: ComputeActivities, backend: MockBackend, engine: AsyncEngine, run: Run
) -> None:
    input, _ = await build_with_volumes(engine, backend, (None, None))
    await run(compute.spawn_server, input)
    await complete_changes(engine, backend, input.vm)
    await run(WaitActivities(engine, backend).wait_for_server, WaitForServerInput(input, ServerStatus.ACTIVE))
    async with engine.connect() as connection:
        assert set(await connection.scalars(select(Attachment.device))) == {"/dev/sdb", "/dev/sdc"}
    await run(RecordActivities(engine).finish_operation, input)
    assert await shown(engine) == {"volume": ["IN_USE"] * 2, "attachment": ["ATTACHED"] * 2}


@pytest.mark.parametrize("residue", [Residue.UNKNOWN, Residue.STILL_THERE])
async def test_a_build_that_fails_frees_them_unless_the_server_is_still_there(
    compute: ComputeActivities, backend: MockBackend, engine: AsyncEngine, run: Run, residue: Residue
) -> None:
    input, ids = await build_with_volumes(engine, backend)
    await run(compute.spawn_server, input)
    if residue is Residue.UNKNOWN:
        await run(compute.undo_create, input)
        found = await backend.list_volumes([Ref(id) for id in ids])
        assert {(each.state, each.vm_id) for each in found.values()} == {(VolumeState.AVAILABLE, None)}
    failure = FailOperationInput.of(input, "no_luck", "It went wrong.", residue)
    await run(RecordActivities(engine).fail_operation, failure)
    left = {"volume": ["AVAILABLE"] * 2}
    if residue is Residue.STILL_THERE:
        left = {"volume": ["IN_USE"] * 2, "attachment": ["ATTACHED"] * 2}
    assert await shown(engine) == left


async def test_an_undo_waits_for_the_last_of_them(
    compute: ComputeActivities, backend: MockBackend, engine: AsyncEngine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    input, ids = await build_with_volumes(engine, backend)
    await run(compute.spawn_server, input)
    listed = {ids[0]: Volume(ids[0], VolumeState.AVAILABLE), ids[1]: Volume(ids[1], VolumeState.DETACHING)}
    monkeypatch.setattr(backend, "list_volumes", AsyncMock(return_value=listed))
    with pytest.raises(BackendError) as refusal:
        await run(compute.undo_create, input)
    assert (refusal.value.code, refusal.value.retryable) == ("volume_in_use", True)


@pytest.mark.parametrize("state", ["in-use", "gone"])
async def test_the_cloud_refuses_a_volume_that_is_not_free(
    slow_backend: MockBackend, engine: AsyncEngine, state: str
) -> None:
    free, volume, code = Ref(await add_volume(slow_backend)), Ref(uuid4()), "bad_request"
    if state == "in-use":
        volume, code = Ref(await add_volume(slow_backend)), "conflict"
        await slow_backend.create_server(token(), replace(server_spec(uuid4()), volumes=(DataVolume(volume),)))
    spec = replace(server_spec(uuid4()), volumes=(DataVolume(free), DataVolume(volume)))
    await refused_without_effect(engine, slow_backend.create_server(token(), spec), code)
