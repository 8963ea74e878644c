"""Operations that hold more than a VM, accepted as the API accepts them; and what all rows then show."""

from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from domain.commands import acceptance
from domain.data import queries
from domain.data.models import VM, Attachment, Interface, Snapshot, User, Volume
from domain.progress import resource_claims, step_records
from domain.rules.messages import FailOperationInput, OperationInput
from domain.rules.resources import AttachmentStatus, Kind, SnapshotStatus, VolumeStatus
from domain.rules.states import Action, Status, TaskState
from tests.domain.specified import OF_NO_VM, SPECIFIED, TURNS
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
    """A resource of the kind in the status; an attachment is one of the only volume that has none."""
    match kind:
        case "snapshot":
            return await add_snapshot(tx, vm, status=SnapshotStatus(status), **values)
        case "volume":
            return await add_volume(tx, user, status=VolumeStatus(status), **values)
        case "interface":
            return await add_interface(tx, vm, status=AttachmentStatus(status), **values)
    loose = select(Volume).where(Volume.id.not_in(select(Attachment.volume_id)))
    volume = await queries.fetch_one(tx, loose)
    assert volume is not None
    return await add_attachment(tx, vm, volume, status=AttachmentStatus(status), **values)


async def ask(engine: AsyncEngine, action: Action) -> OperationInput:
    """Let the action take a VM that is ACTIVE, where it needs one, and what it is about; what its workflow is given."""
    if action is Action.CREATE:
        input = await add_held_vm(engine, action)
        async with engine.begin() as tx:
            built = await queries.lock_vm(tx, input.vm)
            assert built is not None
            await add_interface(tx, built, status=AttachmentStatus.ATTACHING, operation_id=input.operation_id)
        return input
    async with engine.begin() as tx:
        user = await add_user(tx)
        vm = await add_vm(tx, user)
        there = {
            kind: await add_of(tx, vm, user, kind, turn.sources[0])
            for kind, turn in TURNS[action].items()
            if turn.sources
        }
        return await accept(tx, vm, user, action, there)


async def accept(tx: AsyncConnection, vm: VM, user: User, action: Action, there: dict[str, Any]) -> OperationInput:
    """Let the action take the VM, and what is there; what it makes is added."""
    kind = next(iter(TURNS[action]))
    about: UUID = there[kind].id if kind in there else uuid4()
    asked = new_operation(action, resource_type=Kind(kind), resource_id=about)
    vm_id = None if kind == "volume" and action in OF_NO_VM else vm.id
    if action in OF_NO_VM:
        await acceptance.accept_without_vm(tx, user.id, asked, vm_id)
    else:
        await acceptance.accept(tx, vm, asked)
    for held, row in there.items():
        await resource_claims.hold(tx, MODELS[held], row, action, asked.id)
    for made, turn in TURNS[action].items():
        if not turn.sources:
            await add_of(tx, vm, user, made, turn.while_running, operation_id=asked.id)
    return OperationInput(asked.id, vm_id, action, resource_id=about)


async def end(engine: AsyncEngine, input: OperationInput, *, well: bool) -> None:
    """Record the operation's end."""
    async with engine.begin() as tx:
        if well:
            await step_records.finish(tx, input)
        else:
            await step_records.fail(tx, FailOperationInput(input, "no_luck", "It went wrong."))


async def go_through(engine: AsyncEngine, input: OperationInput) -> None:
    """Enter every step of the operation; one that has none gets its receipt."""
    async with engine.begin() as tx:
        for step in SPECIFIED[input.action].task_states:
            await step_records.enter_step(tx, input, TaskState(step), 1)
        if not SPECIFIED[input.action].task_states:
            await step_records.enter(tx, input, 1)


def key_of(model: type[Any]) -> list[Any]:
    """The columns that tell rows of the same moment apart."""
    return list(model.__table__.primary_key)


async def rows(engine: AsyncEngine) -> Rows:
    """Every row that is no VM, by kind, oldest first."""
    async with engine.connect() as connection:
        return {
            kind: list((await connection.execute(select(model).order_by(model.created_at, *key_of(model)))).all())
            for kind, model in MODELS.items()
        }


async def shown(engine: AsyncEngine) -> dict[str, list[str]]:
    """The statuses of every row that is no VM, by kind, oldest first; kinds without rows are left out."""
    return {kind: [row.status.value for row in found] for kind, found in (await rows(engine)).items() if found}


async def all_vms(engine: AsyncEngine) -> list[tuple[Status, TaskState | None, int]]:
    """Status, task state and `attaching` of every VM."""
    async with engine.connect() as connection:
        found = await connection.execute(select(VM.status, VM.task_state, VM.attaching))
        return [(status, task_state, attaching) for status, task_state, attaching in found]
