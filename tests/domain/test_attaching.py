"""The count of what is being attached to a VM: right at every moment, and 0 when all has ended."""

import random

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.commands import acceptance
from domain.data import queries
from domain.data.models import VM, Volume
from domain.progress import resource_claims
from domain.rules.errors import AttachmentInProgressError, InvalidTransitionError, SupersededError
from domain.rules.messages import OperationInput
from domain.rules.resources import AttachmentStatus, Kind, VolumeStatus
from domain.rules.states import Action, Status
from tests.domain.holding import all_vms, end, rows
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

BESIDE = [Action.ATTACH_VOLUME, Action.DETACH_VOLUME, Action.ATTACH_INTERFACE, Action.DETACH_INTERFACE]


async def new_vm(engine: AsyncEngine) -> VM:
    """A VM that is ACTIVE."""
    async with engine.begin() as tx:
        return await add_vm(tx, await add_user(tx))


async def accepted(engine: AsyncEngine, vm: VM, action: Action) -> OperationInput:
    """Let the action take the VM, whatever it is about."""
    async with engine.begin() as tx:
        return message(await claim(tx, vm.id, action))


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_comes_the_count_is_that_of_what_is_under_way(engine: AsyncEngine, seed: int) -> None:
    chance, vm = random.Random(seed), await new_vm(engine)
    under_way: list[OperationInput] = []
    ended: list[tuple[OperationInput, bool]] = []
    for _ in range(25):
        if under_way and chance.random() < 0.5:
            one, well = under_way.pop(chance.randrange(len(under_way))), chance.random() < 0.5
            await end(engine, one, well=well)
            ended.append((one, well))
        elif ended and chance.random() < 0.3:
            again, well = chance.choice(ended)
            await end(engine, again, well=well)
        else:
            under_way.append(await accepted(engine, vm, chance.choice(BESIDE)))
        assert (await read_vm(engine, vm.id)).attaching == len(under_way)
    for one in under_way:
        await end(engine, one, well=chance.random() < 0.5)
    assert await all_vms(engine) == [(Status.ACTIVE, None, 0)]


@pytest.mark.parametrize("well", [True, False], ids=["finish", "fail"])
async def test_after_a_delete_nothing_is_counted_whatever_ends_then(engine: AsyncEngine, *, well: bool) -> None:
    vm = await new_vm(engine)
    under_way = [await accepted(engine, vm, action) for action in BESIDE]
    await end(engine, under_way.pop(), well=well)
    delete = await accepted(engine, vm, Action.DELETE)
    assert (await read_vm(engine, vm.id)).attaching == 0
    for one in under_way:
        with pytest.raises(SupersededError):
            await end(engine, one, well=well)
    await end(engine, delete, well=well)
    assert await all_vms(engine) == [(Status.DELETED if well else Status.ERROR, None, 0)]


async def test_a_power_action_and_what_is_attached_meanwhile_do_not_meet(engine: AsyncEngine) -> None:
    vm = await new_vm(engine)
    attach = await accepted(engine, vm, Action.ATTACH_VOLUME)
    stop = await accepted(engine, vm, Action.STOP)
    with pytest.raises(InvalidTransitionError):
        await accepted(engine, vm, Action.ATTACH_INTERFACE)
    await end(engine, attach, well=True)
    held = await read_vm(engine, vm.id)
    assert (held.status, held.task_state, held.operation_id) == (Status.ACTIVE, "powering_off", stop.operation_id)
    await end(engine, stop, well=True)
    assert await all_vms(engine) == [(Status.SHUTOFF, None, 0)]


@pytest.mark.parametrize("action", [Action.RESIZE, Action.SNAPSHOT, Action.RESTORE])
async def test_what_has_to_wait_may_begin_when_the_last_attach_has_ended(engine: AsyncEngine, action: Action) -> None:
    vm = await new_vm(engine)
    under_way = [await accepted(engine, vm, one) for one in BESIDE]
    while under_way:
        before = await read_vm(engine, vm.id)
        with pytest.raises(AttachmentInProgressError):
            await accepted(engine, vm, action)
        assert await read_vm(engine, vm.id) == before
        await end(engine, under_way.pop(), well=len(under_way) % 2 == 0)
    input = await accepted(engine, vm, action)
    assert (await read_vm(engine, vm.id)).operation_id == input.operation_id


async def attach(tx: AsyncConnection, vm: VM, volume_id: object, device: str = "/dev/vdb") -> None:
    """Attach the volume as the API does: lock the VM, then the volume."""
    locked = await queries.lock_vm(tx, vm.id)
    volume = await queries.fetch_one(tx, select(Volume).where(Volume.id == volume_id).with_for_update())
    assert locked
    assert volume
    asked = new_operation(Action.ATTACH_VOLUME, resource_type=Kind.VOLUME, resource_id=volume.id)
    await acceptance.accept(tx, locked, asked)
    await resource_claims.hold(tx, Volume, volume, asked.action, asked.id)
    await add_attachment(tx, vm, volume, status=AttachmentStatus.ATTACHING, device=device, operation_id=asked.id)


async def plug(tx: AsyncConnection, vm: VM, ip_address: str) -> None:
    """Take an address of the smallest network."""
    await add_interface(tx, vm, ip_address, network="edge")


async def test_of_many_vms_one_gets_the_volume(engine: AsyncEngine) -> None:
    for _ in range(5):
        async with engine.begin() as tx:
            user = await add_user(tx)
            vms = [await add_vm(tx, user) for _ in range(6)]
            volume = await add_volume(tx, user)
        won = await race(engine, *(calling(attach, vm, volume.id) for vm in vms))
        assert won.count(True) == 1
        assert [(await read_vm(engine, vm.id)).attaching for vm in vms] == [int(one) for one in won]
        (attachment,) = [row for row in (await rows(engine))["attachment"] if row.volume_id == volume.id]
        assert attachment.vm_id == vms[won.index(True)].id


async def test_of_many_volumes_one_gets_the_device(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm, volumes = await add_vm(tx, user), [await add_volume(tx, user) for _ in range(6)]
    won = await race(engine, *(calling(attach, vm, volume.id, "/dev/vdc") for volume in volumes))
    assert won.count(True) == 1
    assert (await read_vm(engine, vm.id)).attaching == 1
    free = [row.status for row in (await rows(engine))["volume"]].count(VolumeStatus.AVAILABLE)
    assert free == 5


async def test_of_many_vms_one_gets_the_last_address(engine: AsyncEngine) -> None:
    async with engine.begin() as tx:
        user = await add_user(tx)
        vms = [await add_vm(tx, user) for _ in range(6)]
    won = await race(engine, *(calling(plug, vm, "10.2.0.9") for vm in vms))
    assert won.count(True) == 1
    assert [row.vm_id for row in (await rows(engine))["interface"]] == [vms[won.index(True)].id]


async def test_an_attach_against_a_delete_of_the_vm_leaves_nothing_tied(engine: AsyncEngine) -> None:
    for _ in range(10):
        async with engine.begin() as tx:
            user = await add_user(tx)
            vm, volume = await add_vm(tx, user), await add_volume(tx, user)
        attached, deleted = await race(engine, calling(attach, vm, volume.id), calling(claim, vm.id, Action.DELETE))
        assert deleted
        held = await read_vm(engine, vm.id)
        assert (held.status, held.attaching) == (Status.DELETING, 0)
        found = await rows(engine)
        tied = [row for row in found["attachment"] if row.vm_id == vm.id]
        assert [(row.status, row.operation_id) for row in tied] == [("DETACHING", held.operation_id)] * attached
        (status,) = [row.status for row in found["volume"] if row.id == volume.id]
        assert status == ("DETACHING" if attached else "AVAILABLE")


async def test_the_count_is_never_less_than_none(engine: AsyncEngine) -> None:
    vm = await new_vm(engine)
    with pytest.raises(IntegrityError, match="ck_vms_attaching"):
        async with engine.begin() as tx:
            await queries.update_vm(tx, vm.id, {"attaching": -1})
