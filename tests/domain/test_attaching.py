"""VMs count the attaches and detaches that are open (`attaching`): always correct, and 0 after all have ended."""

import random

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.commands import acceptance
from domain.data import queries
from domain.data.models import VM, Attachment, Volume
from domain.progress import resource_claims, step_records
from domain.rules.errors import AttachmentInProgressError, InvalidTransitionError, SupersededError
from domain.rules.messages import OperationInput
from domain.rules.resources import AttachmentStatus, Kind, VolumeStatus
from domain.rules.states import Action, Status
from tests.domain.claims import accept_on_new_vm, all_vms, end, rows
from tests.domain.test_claim_races import calling, race
from tests.support.rows import (
    add_attachment,
    add_interface,
    add_user,
    add_vm,
    add_volume,
    claim,
    message,
    new_operation,
    read_vm,
)

ATTACHMENTS = [Action.ATTACH_VOLUME, Action.DETACH_VOLUME, Action.ATTACH_INTERFACE, Action.DETACH_INTERFACE]


async def new_vm(engine: AsyncEngine) -> VM:
    """Add a VM that is ACTIVE."""
    async with engine.begin() as tx:
        return await add_vm(tx, await add_user(tx))


async def accepted(engine: AsyncEngine, vm: VM, action: Action) -> OperationInput:
    """Accept the action on the VM; return the input of its workflow."""
    async with engine.begin() as tx:
        return message(await claim(tx, vm.id, action))


@pytest.mark.parametrize("seed", range(4))
async def test_the_count_equals_the_number_of_open_operations(engine: AsyncEngine, seed: int) -> None:
    chance, vm = random.Random(seed), await new_vm(engine)
    open_operations: list[OperationInput] = []
    ended: list[tuple[OperationInput, bool]] = []
    for _ in range(25):
        if open_operations and chance.random() < 0.5:
            input, well = open_operations.pop(chance.randrange(len(open_operations))), chance.random() < 0.5
            await end(engine, input, well=well)
            ended.append((input, well))
        elif ended and chance.random() < 0.3:
            input, well = chance.choice(ended)
            await end(engine, input, well=well)  # recorded twice, counted once
        else:
            open_operations.append(await accepted(engine, vm, chance.choice(ATTACHMENTS)))
        assert (await read_vm(engine, vm.id)).attaching == len(open_operations)
    for input in open_operations:
        await end(engine, input, well=chance.random() < 0.5)
    assert await all_vms(engine) == [(Status.ACTIVE, None, 0)]


@pytest.mark.parametrize("well", [True, False], ids=["finish", "fail"])
async def test_after_a_delete_the_count_is_0_and_superseded_operations_cannot_change_it(
    engine: AsyncEngine, *, well: bool
) -> None:
    vm = await new_vm(engine)
    open_operations = [await accepted(engine, vm, action) for action in ATTACHMENTS]
    await end(engine, open_operations.pop(), well=well)
    delete = await accepted(engine, vm, Action.DELETE)
    assert (await read_vm(engine, vm.id)).attaching == 0
    for input in open_operations:
        with pytest.raises(SupersededError):
            await end(engine, input, well=well)
    await end(engine, delete, well=well)
    assert await all_vms(engine) == [(Status.DELETED if well else Status.ERROR, None, 0)]


async def test_a_stop_may_begin_during_an_attach_but_not_an_attach_during_a_stop(engine: AsyncEngine) -> None:
    vm = await new_vm(engine)
    attach = await accepted(engine, vm, Action.ATTACH_VOLUME)
    stop = await accepted(engine, vm, Action.STOP)
    with pytest.raises(InvalidTransitionError):
        await accepted(engine, vm, Action.ATTACH_INTERFACE)
    await end(engine, attach, well=True)
    stopping = await read_vm(engine, vm.id)
    assert (stopping.status, stopping.task_state, stopping.operation_id) == (
        Status.ACTIVE,
        "powering_off",
        stop.operation_id,
    )
    await end(engine, stop, well=True)
    assert await all_vms(engine) == [(Status.SHUTOFF, None, 0)]


@pytest.mark.parametrize("action", [Action.RESIZE, Action.SNAPSHOT, Action.RESTORE])
async def test_resize_snapshot_and_restore_may_begin_after_the_last_attach_has_ended(
    engine: AsyncEngine, action: Action
) -> None:
    vm = await new_vm(engine)
    open_operations = [await accepted(engine, vm, attachment) for attachment in ATTACHMENTS]
    while open_operations:
        before = await read_vm(engine, vm.id)
        with pytest.raises(AttachmentInProgressError):
            await accepted(engine, vm, action)
        assert await read_vm(engine, vm.id) == before
        await end(engine, open_operations.pop(), well=len(open_operations) % 2 == 0)
    input = await accepted(engine, vm, action)
    assert (await read_vm(engine, vm.id)).operation_id == input.operation_id


async def attach(tx: AsyncConnection, vm: VM, volume_id: object, device: str = "/dev/vdb") -> None:
    """Attach the volume as the API does: lock the VM, then the volume."""
    locked = await queries.lock_vm(tx, vm.id)
    volume = await queries.fetch_one(tx, select(Volume).where(Volume.id == volume_id).with_for_update())
    assert locked
    assert volume
    new = new_operation(Action.ATTACH_VOLUME, resource_type=Kind.VOLUME, resource_id=volume.id)
    await acceptance.accept(tx, locked, new)
    await resource_claims.claim(tx, Volume, volume, new.action, new.id)
    await add_attachment(tx, vm, volume, status=AttachmentStatus.ATTACHING, device=device, operation_id=new.id)


async def take_address(tx: AsyncConnection, vm: VM, ip_address: str) -> None:
    """Insert an interface with this address of the smallest network."""
    await add_interface(tx, vm, ip_address, network="edge")


async def test_only_one_of_many_vms_gets_the_volume(engine: AsyncEngine) -> None:
    for _ in range(5):
        async with engine.begin() as tx:
            user = await add_user(tx)
            vms = [await add_vm(tx, user) for _ in range(6)]
            volume = await add_volume(tx, user)
        successes = await race(engine, *(calling(attach, vm, volume.id) for vm in vms))
        assert successes.count(True) == 1
        assert [(await read_vm(engine, vm.id)).attaching for vm in vms] == [int(success) for success in successes]
        (attachment,) = [row for row in (await rows(engine))["attachment"] if row.volume_id == volume.id]
        assert attachment.vm_id == vms[successes.index(True)].id


async def test_only_one_of_many_volumes_gets_the_device(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm, volumes = await add_vm(tx, user), [await add_volume(tx, user) for _ in range(6)]
    successes = await race(engine, *(calling(attach, vm, volume.id, "/dev/vdc") for volume in volumes))
    assert successes.count(True) == 1
    assert (await read_vm(engine, vm.id)).attaching == 1
    free = [row.status for row in (await rows(engine))["volume"]].count(VolumeStatus.AVAILABLE)
    assert free == 5


async def test_only_one_of_many_vms_gets_the_address(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        vms = [await add_vm(tx, user) for _ in range(6)]
    successes = await race(engine, *(calling(take_address, vm, "10.2.0.9") for vm in vms))
    assert successes.count(True) == 1
    assert [row.vm_id for row in (await rows(engine))["interface"]] == [vms[successes.index(True)].id]


async def test_a_device_that_the_cloud_gives_to_a_volume_is_no_longer_that_of_another(engine: AsyncEngine) -> None:
    """Somebody has moved the other one in the cloud, which is not known yet or waits for a person."""
    attach = await accept_on_new_vm(engine, Action.ATTACH_VOLUME)
    async with engine.begin() as tx:
        (volume,) = (await rows(engine))["volume"]
        vm = await queries.lock_vm(tx, attach.vm)
        assert vm is not None
        moved = await add_volume(tx, await add_user(tx), status=VolumeStatus.IN_USE)
        await add_attachment(tx, vm, moved, device="/dev/sdb")
        await step_records.note_created(tx, attach, Attachment, volume.id, device="/dev/sdb")
    devices = {row.volume_id: row.device for row in (await rows(engine))["attachment"]}
    assert devices == {moved.id: None, volume.id: "/dev/sdb"}


async def test_an_attach_that_races_with_a_delete_of_the_vm_leaves_no_volume_attaching(engine: AsyncEngine) -> None:
    for _ in range(10):
        async with engine.begin() as tx:
            user = await add_user(tx)
            vm, volume = await add_vm(tx, user), await add_volume(tx, user)
        attached, deleted = await race(engine, calling(attach, vm, volume.id), calling(claim, vm.id, Action.DELETE))
        assert deleted
        deleting = await read_vm(engine, vm.id)
        assert (deleting.status, deleting.attaching) == (Status.DELETING, 0)
        found = await rows(engine)
        attachments = [row for row in found["attachment"] if row.vm_id == vm.id]
        assert [(row.status, row.operation_id) for row in attachments] == [
            ("DETACHING", deleting.operation_id)
        ] * attached
        (status,) = [row.status for row in found["volume"] if row.id == volume.id]
        assert status == ("DETACHING" if attached else "AVAILABLE")


async def test_the_database_refuses_a_negative_count(engine: AsyncEngine) -> None:
    vm = await new_vm(engine)
    with pytest.raises(IntegrityError, match="ck_vms_attaching"):
        async with engine.begin() as tx:
            await queries.update_vm(tx, vm.id, {"attaching": -1})
