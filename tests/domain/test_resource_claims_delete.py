"""A delete of a VM takes over all resources of the VM, whichever operations hold them, and no others."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.data.accounts import User
from domain.data.models import VM, Attachment
from domain.rules.errors import SupersededError
from domain.rules.messages import OperationInput
from domain.rules.resources import AttachmentStatus, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status
from tests.domain.claims import Rows, accept, accept_on_new_vm, all_vms, end, rows
from tests.domain.specified import CHANGES, CHANGES_BY_VM_DELETE, DELETED_ON_TERMINATION
from tests.support.rows import (
    add_attachment,
    add_interface,
    add_snapshot,
    add_user,
    add_vm,
    add_volume,
    claim,
    message,
    read_operation,
)

# The status of an attachment, and that of its volume.
ATTACHED_STATUSES = {"ATTACHING": "ATTACHING", "ATTACHED": "IN_USE", "DETACHING": "DETACHING"}
each_ending = pytest.mark.parametrize("well", [True, False], ids=["finish", "fail"])
Shown = dict[tuple[str, UUID], str]


async def add_everything(tx: AsyncConnection, vm: VM, user: User, subnet: int) -> None:
    """Add resources of every kind in every status to the VM, volumes with and without delete_on_termination."""
    for status in SnapshotStatus:
        await add_snapshot(tx, vm, status=status)
    for number, (of_attachment, of_volume) in enumerate(ATTACHED_STATUSES.items()):
        for is_deleted in (False, True):
            volume = await add_volume(tx, user, status=VolumeStatus(of_volume))
            device = f"/dev/vd{'bcdefg'[2 * number + is_deleted]}"
            place: dict[str, Any] = {"device": device, "delete_on_termination": is_deleted}
            await add_attachment(tx, vm, volume, status=AttachmentStatus(of_attachment), **place)
        await add_interface(tx, vm, f"10.0.{subnet}.{number + 9}", status=AttachmentStatus(of_attachment))


async def vm_with_everything(engine: AsyncEngine) -> tuple[VM, VM]:
    """Return a VM that has every kind of resource, and another VM of the same owner with the same resources."""
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm, neighbour = await add_vm(tx, user, attaching=5), await add_vm(tx, user, attaching=5)
        await add_everything(tx, vm, user, 1)
        await add_everything(tx, neighbour, user, 2)
        for status in set(VolumeStatus) - set(ATTACHED_STATUSES.values()):
            await add_volume(tx, user, status=status)
    return vm, neighbour


def by_key(found: Rows) -> Shown:
    """Return the status of every row by its kind and key."""
    return {
        (kind, row.volume_id if kind == "attachment" else row.id): row.status.value
        for kind, of_kind in found.items()
        for row in of_kind
    }


def is_deleted_with_vm(attachment: Attachment) -> bool:
    """Whether the volume is deleted with the VM. It is not if its detach was accepted before."""
    return attachment.delete_on_termination and attachment.status is not AttachmentStatus.DETACHING


async def keys_of(engine: AsyncEngine, vm: VM, *, terminated: bool | None = None) -> set[UUID]:
    """Return the keys of the VM's resources, or only of its volumes that are deleted with it, or that are not."""
    found = await rows(engine)
    attached = {row.volume_id: is_deleted_with_vm(row) for row in found["attachment"] if row.vm_id == vm.id}
    if terminated is not None:
        return {id for id, is_deleted in attached.items() if is_deleted is terminated}
    return set(attached) | {row.id for kind in ("snapshot", "interface") for row in found[kind] if row.vm_id == vm.id}


def expected(before: Shown, of_vm: set[UUID], terminated: set[UUID], stage: str) -> Shown:
    """Return the specified statuses at a stage: `while_running`, `ends` or `failure`."""
    after: Shown = {}
    for (kind, id), status in before.items():
        change = CHANGES_BY_VM_DELETE.get((kind, status)) if id in of_vm else None
        change = DELETED_ON_TERMINATION if change and kind == "volume" and id in terminated else change
        new_status = getattr(change, stage) if change else status
        if new_status:
            after[kind, id] = new_status
    return after


async def test_a_delete_claims_all_resources_of_its_vm_and_no_others(engine: AsyncEngine) -> None:
    vm, _ = await vm_with_everything(engine)
    before, of_vm = by_key(await rows(engine)), await keys_of(engine, vm)
    terminated = await keys_of(engine, vm, terminated=True)
    async with engine.begin() as tx:
        delete = await claim(tx, vm.id, Action.DELETE)
    after = await rows(engine)
    assert by_key(after) == expected(before, of_vm, terminated, "while_running")
    held = {
        row.volume_id if kind == "attachment" else row.id
        for kind in after
        for row in after[kind]
        if row.operation_id == delete.id
    }
    untouched = {id for (kind, id), status in before.items() if (kind, status) not in CHANGES_BY_VM_DELETE}
    released = {id for (kind, id), status in before.items() if status == "RESTORING"}
    assert held == of_vm - untouched - released


@each_ending
async def test_the_end_of_a_delete_settles_all_claims_as_specified(engine: AsyncEngine, *, well: bool) -> None:
    vm, _ = await vm_with_everything(engine)
    before, of_vm = by_key(await rows(engine)), await keys_of(engine, vm)
    terminated = await keys_of(engine, vm, terminated=True)
    async with engine.begin() as tx:
        delete = message(await claim(tx, vm.id, Action.DELETE))
    for _ in range(2):
        await end(engine, delete, well=well)
        assert by_key(await rows(engine)) == expected(before, of_vm, terminated, "ends" if well else "failure")


async def test_a_failed_delete_can_be_repeated_and_then_removes_everything(engine: AsyncEngine) -> None:
    vm, neighbour = await vm_with_everything(engine)
    kept, gone = [await keys_of(engine, vm, terminated=goes) for goes in (False, True)]
    others = await keys_of(engine, neighbour)
    for well in (False, True):
        async with engine.begin() as tx:
            delete = message(await claim(tx, vm.id, Action.DELETE))
        await end(engine, delete, well=well)
    left = by_key(await rows(engine))
    assert {left["volume", id] for id in kept} == {"AVAILABLE"}
    assert {left["volume", id] for id in gone} == {"DELETED"}
    assert {id for kind, id in left if kind in {"attachment", "interface"}} <= others


async def test_a_volume_that_is_deleted_stays_so_even_if_a_vm_still_has_it(engine: AsyncEngine) -> None:
    """Earlier versions deleted attached volumes in ERROR."""
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user)
        volume = await add_volume(tx, user, status=VolumeStatus.DELETED)
        await add_attachment(tx, vm, volume)
        delete = message(await claim(tx, vm.id, Action.DELETE))
    await end(engine, delete, well=True)
    shown = await rows(engine)
    assert ([row.status for row in shown["volume"]], shown["attachment"]) == ([VolumeStatus.DELETED], [])


async def test_a_volume_that_a_delete_detached_can_be_attached_to_another_vm(engine: AsyncEngine) -> None:
    attach = await accept_on_new_vm(engine, Action.ATTACH_VOLUME)
    async with engine.begin() as tx:
        delete = message(await claim(tx, attach.vm, Action.DELETE))
    await end(engine, delete, well=True)
    async with engine.begin() as tx:
        user = await add_user(tx)
        volume = (await rows(engine))["volume"][0]
        again = await accept(tx, await add_vm(tx, user), user, Action.ATTACH_VOLUME, {"volume": volume})
    assert [row.operation_id for row in (await rows(engine))["attachment"]] == [again.operation_id]


@each_ending
@pytest.mark.parametrize(
    "action", [Action(one) for one in CHANGES if one not in {"create-volume", "delete-volume", "extend-volume"}]
)
async def test_a_delete_supersedes_every_operation_except_a_delete_of_a_snapshot(
    engine: AsyncEngine, action: Action, *, well: bool
) -> None:
    input = await accept_on_new_vm(engine, action)
    async with engine.begin() as tx:
        await claim(tx, input.vm, Action.DELETE)
    taken = await rows(engine)
    if action is Action.DELETE_SNAPSHOT:
        assert (await read_operation(engine, input.operation_id)).status is OperationStatus.QUEUED
        await end(engine, input, well=well)
        assert by_key(await rows(engine)) != by_key(taken)
        return
    assert (await read_operation(engine, input.operation_id)).status is OperationStatus.SUPERSEDED
    with pytest.raises(SupersededError):
        await end(engine, input, well=well)
    assert await rows(engine) == taken


@each_ending
async def test_a_delete_of_the_vm_leaves_a_snapshot_alone_that_is_being_deleted(
    engine: AsyncEngine, *, well: bool
) -> None:
    """It neither claims the snapshot nor supersedes its delete."""
    going = await accept_on_new_vm(engine, Action.DELETE_SNAPSHOT)
    async with engine.begin() as tx:
        delete = message(await claim(tx, going.vm, Action.DELETE))
    await end(engine, delete, well=True)
    assert [(row.status, row.operation_id) for row in (await rows(engine))["snapshot"]] == [
        (SnapshotStatus.DELETING, going.operation_id)
    ]
    await end(engine, going, well=well)
    assert [row.status for row in (await rows(engine))["snapshot"]] == ["DELETED" if well else "ERROR"]
    assert await all_vms(engine) == [(Status.DELETED, None, 0)]


async def test_delete_on_termination_is_read_when_the_vm_is_deleted(engine: AsyncEngine) -> None:
    attach = await accept_on_new_vm(engine, Action.ATTACH_VOLUME)
    async with engine.begin() as tx:
        await tx.execute(update(Attachment).values(delete_on_termination=True))
        delete: OperationInput = message(await claim(tx, attach.vm, Action.DELETE))
    await end(engine, delete, well=True)
    found = await rows(engine)
    assert ([row.status for row in found["volume"]], found["attachment"]) == ([VolumeStatus.DELETED], [])
    async with engine.connect() as connection:
        assert (await connection.execute(select(VM.status))).all() == [(Status.DELETED,)]


async def test_a_volume_that_is_being_detached_outlives_even_a_repeated_delete(engine: AsyncEngine) -> None:
    detach = await accept_on_new_vm(engine, Action.DETACH_VOLUME)
    async with engine.begin() as tx:
        await tx.execute(update(Attachment).values(delete_on_termination=True))
    for well in (False, True):
        async with engine.begin() as tx:
            delete = message(await claim(tx, detach.vm, Action.DELETE))
        await end(engine, delete, well=well)
    found = await rows(engine)
    assert ([row.status for row in found["volume"]], found["attachment"]) == ([VolumeStatus.AVAILABLE], [])
