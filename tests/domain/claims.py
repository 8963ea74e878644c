"""Helpers for operations that claim resources: accept them as the API does, end them, and read all rows."""

from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.commands import acceptance
from domain.data import queries
from domain.data.accounts import User
from domain.data.models import VM, Attachment, Interface, Snapshot, Volume
from domain.progress import resource_claims, step_records
from domain.rules.messages import FailOperationInput, OperationInput
from domain.rules.resources import AttachmentStatus, Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status, TaskState
from tests.domain.specified import CHANGES, OF_NO_VM, SPECIFIED
from tests.support.rows import (
    add_attachment,
    add_held_vm,
    add_interface,
    add_snapshot,
    add_user,
    add_vm,
    add_volume,
    new_operation,
)

MODELS: dict[str, type[Any]] = {
    "snapshot": Snapshot,
    "volume": Volume,
    "attachment": Attachment,
    "interface": Interface,
}
Rows = dict[str, list[Any]]


async def add_of(tx: AsyncConnection, vm: VM, user: User, kind: str, status: str, **values: Any) -> Any:
    """Add a resource of the kind in the status. An attachment is added to the only volume without one."""
    match kind:
        case "snapshot":
            return await add_snapshot(tx, vm, status=SnapshotStatus(status), **values)
        case "volume":
            return await add_volume(tx, user, status=VolumeStatus(status), **values)
        case "interface":
            return await add_interface(tx, vm, status=AttachmentStatus(status), **values)
    unattached = select(Volume).where(Volume.id.not_in(select(Attachment.volume_id)))
    volume = await queries.fetch_one(tx, unattached)
    assert volume is not None
    return await add_attachment(tx, vm, volume, status=AttachmentStatus(status), **values)


async def accept_on_new_vm(engine: AsyncEngine, action: Action) -> OperationInput:
    """Accept the action on a new ACTIVE VM and the resources it needs. Return the input of its workflow."""
    if action is Action.CREATE:
        input = await add_held_vm(engine, action)
        async with engine.begin() as tx:
            vm = await queries.lock_vm(tx, input.vm)
            assert vm is not None
            claimed: dict[str, Any] = {"status": AttachmentStatus.ATTACHING, "operation_id": input.operation_id}
            await add_interface(tx, vm, **claimed)
            volume = await add_volume(
                tx, await add_user(tx), status=VolumeStatus.ATTACHING, operation_id=input.operation_id
            )
            await add_attachment(tx, vm, volume, **claimed)
        return input
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user)
        existing = {
            kind: await add_of(tx, vm, user, kind, expected.sources[0])
            for kind, expected in CHANGES[action].items()
            if expected.sources
        }
        return await accept(tx, vm, user, action, existing)


async def accept(tx: AsyncConnection, vm: VM, user: User, action: Action, existing: dict[str, Any]) -> OperationInput:
    """Accept the action on the VM and the `existing` resources, and add those that it creates."""
    kind = next(iter(CHANGES[action]))
    resource_id: UUID = existing[kind].id if kind in existing else uuid4()
    new = new_operation(action, resource_type=Kind(kind), resource_id=resource_id)
    vm_id = None if kind == "volume" and action in OF_NO_VM else vm.id
    if action in OF_NO_VM:
        await acceptance.accept_without_vm(tx, user.id, new, vm_id)
    else:
        await acceptance.accept(tx, vm, new)
    for kind, row in existing.items():
        await resource_claims.claim(tx, MODELS[kind], row, action, new.id)
    for kind, expected in CHANGES[action].items():
        if not expected.sources:
            await add_of(tx, vm, user, kind, expected.while_running, operation_id=new.id)
    return OperationInput(new.id, vm_id, action, resource_id=resource_id)


async def end(engine: AsyncEngine, input: OperationInput, *, well: bool) -> None:
    """Record the end of the operation: a success if it ended `well`, else a failure."""
    async with engine.begin() as tx:
        if well:
            await step_records.finish(tx, input)
        else:
            await step_records.fail(tx, FailOperationInput(input, "no_luck", "It went wrong."))


async def go_through(engine: AsyncEngine, input: OperationInput) -> None:
    """Enter every step of the operation. One without steps is recorded as received."""
    async with engine.begin() as tx:
        for step in SPECIFIED[input.action].task_states:
            await step_records.enter_step(tx, input, TaskState(step), 1)
        if not SPECIFIED[input.action].task_states:
            await step_records.enter(tx, input, 1)


def key_of(model: type[Any]) -> list[Any]:
    """Return the primary key, which orders rows with the same creation time."""
    return list(model.__table__.primary_key)


async def rows(engine: AsyncEngine) -> Rows:
    """Return all rows of resources by kind, oldest first."""
    async with engine.connect() as connection:
        return {
            kind: list((await connection.execute(select(model).order_by(model.created_at, *key_of(model)))).all())
            for kind, model in MODELS.items()
        }


async def shown(engine: AsyncEngine) -> dict[str, list[str]]:
    """Return the statuses of all resources by kind, oldest first. Kinds without rows are left out."""
    return {kind: [row.status.value for row in found] for kind, found in (await rows(engine)).items() if found}


async def all_vms(engine: AsyncEngine) -> list[tuple[Status, TaskState | None, int]]:
    """Return status, task state and `attaching` of every VM."""
    async with engine.connect() as connection:
        found = await connection.execute(select(VM.status, VM.task_state, VM.attaching))
        return [(status, task_state, attaching) for status, task_state, attaching in found]
