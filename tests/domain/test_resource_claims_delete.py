"""A delete of a VM takes over all that is of the VM, whoever held it, and nothing else."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.data.models import VM, Attachment, User
from domain.rules.errors import SupersededError
from domain.rules.messages import OperationInput
from domain.rules.resources import AttachmentStatus, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, OperationStatus, Status
from tests.domain.holding import Rows, accept, all_vms, ask, end, rows
from tests.domain.specified import DELETED_ON_TERMINATION, TURNS, TURNS_OF_VM_DELETE
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

TIED = {"ATTACHING": "ATTACHING", "ATTACHED": "IN_USE", "DETACHING": "DETACHING"}  # attachment: its volume
each_ending = pytest.mark.parametrize("well", [True, False], ids=["finish", "fail"])
Shown = dict[tuple[str, UUID], str]


async def surround(tx: AsyncConnection, vm: VM, user: User, subnet: int) -> None:
    """Give the VM one of everything in every status: snapshots, volumes of both kinds, interfaces."""
    for status in SnapshotStatus:
        await add_snapshot(tx, vm, status=status)
    for number, (tied, of_volume) in enumerate(TIED.items()):
        for goes in (False, True):
            volume = await add_volume(tx, user, status=VolumeStatus(of_volume))
            place: dict[str, Any] = {"device": f"/dev/vd{'bcdefg'[2 * number + goes]}", "delete_on_termination": goes}
            await add_attachment(tx, vm, volume, status=AttachmentStatus(tied), **place)
        await add_interface(tx, vm, f"10.0.{subnet}.{number + 9}", status=AttachmentStatus(tied))


async def surrounded(engine: AsyncEngine) -> tuple[VM, VM]:
    """A VM that has everything, and its neighbour, of the same owner, that has the same."""
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm, neighbour = await add_vm(tx, user, attaching=5), await add_vm(tx, user, attaching=5)
        await surround(tx, vm, user, 1)
        await surround(tx, neighbour, user, 2)
        for status in set(VolumeStatus) - set(TIED.values()):
            await add_volume(tx, user, status=status)
    return vm, neighbour


def by_key(found: Rows) -> Shown:
    """The status of every row, by its kind and key."""
    return {
        (kind, row.volume_id if kind == "attachment" else row.id): row.status.value
        for kind, of_kind in found.items()
        for row in of_kind
    }


def goes_with_it(attachment: Attachment) -> bool:
    """Whether the volume is deleted with the VM: one whose detach was accepted before is not."""
    return attachment.delete_on_termination and attachment.status is not AttachmentStatus.DETACHING


async def keys_of(engine: AsyncEngine, vm: VM, *, terminated: bool | None = None) -> set[UUID]:
    """The keys of all that is the VM's; or of only its volumes that go with it, or that do not."""
    found = await rows(engine)
    attached = {row.volume_id: goes_with_it(row) for row in found["attachment"] if row.vm_id == vm.id}
    if terminated is not None:
        return {id for id, goes in attached.items() if goes is terminated}
    return set(attached) | {row.id for kind in ("snapshot", "interface") for row in found[kind] if row.vm_id == vm.id}


def expected(before: Shown, mine: set[UUID], terminated: set[UUID], stage: str) -> Shown:
    """What is specified to be there, `while_running`, where it `ends` or after its `failure`."""
    after: Shown = {}
    for (kind, id), status in before.items():
        turn = TURNS_OF_VM_DELETE.get((kind, status)) if id in mine else None
        turn = DELETED_ON_TERMINATION if turn and kind == "volume" and id in terminated else turn
        becomes = getattr(turn, stage) if turn else status
        if becomes:
            after[kind, id] = becomes
    return after


async def test_a_delete_holds_all_that_is_of_its_vm_and_nothing_else(engine: AsyncEngine) -> None:
    vm, _ = await surrounded(engine)
    before, mine, terminated = (
        by_key(await rows(engine)),
        await keys_of(engine, vm),
        await keys_of(engine, vm, terminated=True),
    )
    async with engine.begin() as tx:
        delete = await claim(tx, vm.id, Action.DELETE)
    after = await rows(engine)
    assert by_key(after) == expected(before, mine, terminated, "while_running")
    held = {
        row.volume_id if kind == "attachment" else row.id
        for kind in after
        for row in after[kind]
        if row.operation_id == delete.id
    }
    untouched = {id for (kind, id), status in before.items() if (kind, status) not in TURNS_OF_VM_DELETE}
    let_go = {id for (kind, id), status in before.items() if status == "RESTORING"}
    assert held == mine - untouched - let_go


@each_ending
async def test_the_end_of_a_delete_puts_all_where_it_is_specified_to(engine: AsyncEngine, *, well: bool) -> None:
    vm, _ = await surrounded(engine)
    before, mine = by_key(await rows(engine)), await keys_of(engine, vm)
    terminated = await keys_of(engine, vm, terminated=True)
    async with engine.begin() as tx:
        delete = message(await claim(tx, vm.id, Action.DELETE))
    for _ in range(2):
        await end(engine, delete, well=well)
        assert by_key(await rows(engine)) == expected(before, mine, terminated, "ends" if well else "failure")


async def test_a_delete_that_failed_can_be_asked_again_and_then_takes_all_with_it(engine: AsyncEngine) -> None:
    vm, neighbour = await surrounded(engine)
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


async def test_what_is_detached_by_a_delete_may_be_attached_elsewhere(engine: AsyncEngine) -> None:
    attach = await ask(engine, Action.ATTACH_VOLUME)
    async with engine.begin() as tx:
        delete = message(await claim(tx, attach.vm, Action.DELETE))
    await end(engine, delete, well=True)
    async with engine.begin() as tx:
        user = await add_user(tx)
        volume = (await rows(engine))["volume"][0]
        again = await accept(tx, await add_vm(tx, user), user, Action.ATTACH_VOLUME, {"volume": volume})
    assert [row.operation_id for row in (await rows(engine))["attachment"]] == [again.operation_id]


@each_ending
@pytest.mark.parametrize("action", [Action(one) for one in TURNS if one not in {"create-volume", "delete-volume"}])
async def test_what_ran_ends_with_the_vm_but_for_a_delete_of_a_snapshot(
    engine: AsyncEngine, action: Action, *, well: bool
) -> None:
    input = await ask(engine, action)
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
async def test_a_snapshot_whose_own_delete_ends_first_or_last_is_nobody_elses(
    engine: AsyncEngine, *, well: bool
) -> None:
    """The delete of the VM neither takes it nor ends it."""
    going = await ask(engine, Action.DELETE_SNAPSHOT)
    async with engine.begin() as tx:
        delete = message(await claim(tx, going.vm, Action.DELETE))
    await end(engine, delete, well=True)
    assert [(row.status, row.operation_id) for row in (await rows(engine))["snapshot"]] == [
        (SnapshotStatus.DELETING, going.operation_id)
    ]
    await end(engine, going, well=well)
    assert [row.status for row in (await rows(engine))["snapshot"]] == ["DELETED" if well else "ERROR"]
    assert await all_vms(engine) == [(Status.DELETED, None, 0)]


async def test_whether_a_volume_goes_with_its_vm_is_decided_when_the_vm_goes(engine: AsyncEngine) -> None:
    attach = await ask(engine, Action.ATTACH_VOLUME)
    async with engine.begin() as tx:
        await tx.execute(update(Attachment).values(delete_on_termination=True))
        delete: OperationInput = message(await claim(tx, attach.vm, Action.DELETE))
    await end(engine, delete, well=True)
    found = await rows(engine)
    assert ([row.status for row in found["volume"]], found["attachment"]) == ([VolumeStatus.DELETED], [])
    async with engine.connect() as connection:
        assert (await connection.execute(select(VM.status))).all() == [(Status.DELETED,)]


async def test_a_volume_whose_detach_was_accepted_stays_though_the_delete_is_asked_twice(engine: AsyncEngine) -> None:
    detach = await ask(engine, Action.DETACH_VOLUME)
    async with engine.begin() as tx:
        await tx.execute(update(Attachment).values(delete_on_termination=True))
    for well in (False, True):
        async with engine.begin() as tx:
            delete = message(await claim(tx, detach.vm, Action.DELETE))
        await end(engine, delete, well=well)
    found = await rows(engine)
    assert ([row.status for row in found["volume"]], found["attachment"]) == ([VolumeStatus.AVAILABLE], [])
