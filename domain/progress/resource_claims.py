"""What operations hold beside a VM: they are changed as the lifecycle table says, one statement for all of them."""

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Delete, Update, and_, case, delete, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.models import Attachment, Interface, Operation, Snapshot, Volume
from domain.rules.lifecycle import begin_change, change_of
from domain.rules.messages import FailOperationInput, RemainsResult
from domain.rules.resources import AttachmentStatus, Change, Kind, ResourceStatus, VolumeStatus
from domain.rules.states import Action
from domain.rules.table import TABLE

Holding = Snapshot | Volume | Attachment | Interface
T = TypeVar("T", Snapshot, Volume, Attachment, Interface)

_MODELS: Final[dict[Kind, type[Holding]]] = {
    Kind.SNAPSHOT: Snapshot,
    Kind.VOLUME: Volume,
    Kind.ATTACHMENT: Attachment,
    Kind.INTERFACE: Interface,
}


def kind_of(model: type[Holding]) -> Kind:
    """What the lifecycle table calls the rows of a model."""
    return next(kind for kind, one in _MODELS.items() if one is model)


async def hold(tx: AsyncConnection, model: type[T], row: T, action: Action, operation_id: UUID) -> None:
    """Let an operation take a locked row; InvalidTransitionError where the table refuses."""
    status = begin_change(action, kind_of(model), row.status)
    (key,) = model.__table__.primary_key
    await tx.execute(_put(model, [key == getattr(row, key.name)], status=status, operation_id=operation_id))


async def end_well(tx: AsyncConnection, operation: Operation) -> None:
    """Put what the operation holds where the table says that it ends; what has no place there goes."""
    await _end(tx, operation, lambda change: change.target)


async def end_badly(
    tx: AsyncConnection, operation: Operation, failure: FailOperationInput, *, begun: bool = True
) -> None:
    """Put what the operation holds where the table says that a failure leaves it, or where it has been seen.

    Where it has not `begun`, what it was to delete is as it `was`.
    """
    if failure.remains is not None:
        await _end_as_seen(tx, operation, failure.remains)
    was = operation.input.get("was")
    if was and not begun:
        await _end(tx, operation, lambda _: was)
    else:
        await _end(tx, operation, lambda change: (failure.intact and change.intact) or change.on_failure)


async def _end(tx: AsyncConnection, operation: Operation, status_of: Callable[[Change], ResourceStatus | None]) -> None:
    changes = []
    for change in TABLE[operation.action].changes:
        model, status = _MODELS[change.kind], status_of(change)
        held = [model.operation_id == operation.id, model.status == change.during]
        if not issubclass(model, Volume):
            held.append(model.vm_id == operation.vm_id)  # by which their rows are found
        changes.append(delete(model).where(*held) if status is None else _put(model, held, status=status))
    await _execute(tx, changes)


async def _end_as_seen(tx: AsyncConnection, operation: Operation, seen: RemainsResult) -> None:
    """Put what a failed delete of a VM holds, and the cloud no longer has, where the delete would have put it."""
    of_vm = (Attachment.vm_id == operation.vm_id, Attachment.operation_id == operation.id)
    left = case((Volume.id.in_(seen.free), VolumeStatus.AVAILABLE.value), else_=VolumeStatus.DELETED.value)
    freed = (Volume.operation_id == operation.id, Volume.id.not_in(seen.attached))
    unplugged = (Interface.vm_id == operation.vm_id, Interface.operation_id == operation.id)
    changes: list[Update | Delete] = [
        _put(Volume, freed, status=left),
        delete(Attachment).where(*of_vm, Attachment.volume_id.not_in(seen.attached)),
        delete(Interface).where(*unplugged, Interface.id.not_in(seen.ports)),
    ]
    await _execute(tx, changes)


async def give_up(tx: AsyncConnection, model: type[Snapshot | Volume], id: UUID, operation_id: UUID) -> None:
    """Let go of something that the cloud does not delete, so that it can be deleted by itself."""
    await tx.execute(_put(model, (model.id == id, model.operation_id == operation_id), status="ERROR"))


async def take_over(tx: AsyncConnection, vm_id: UUID, operation_id: UUID) -> None:
    """Let a delete of the VM hold all that is of the VM, whoever held it; finished snapshots stay as they are.

    A volume whose detach it takes over was asked to stay.
    """
    of_vm = (Attachment.volume_id == Volume.id, Attachment.vm_id == vm_id)
    detach = change_of(Action.DETACH_VOLUME, Kind.VOLUME).during
    goes = and_(Attachment.delete_on_termination, Attachment.status != AttachmentStatus.DETACHING)
    tied = case((goes, VolumeStatus.DELETING.value), else_=detach.value)
    left = change_of(Action.RESTORE, Kind.SNAPSHOT)
    changes: list[Update] = [
        _put(Volume, of_vm, status=tied, operation_id=operation_id),
        _put(Snapshot, (Snapshot.vm_id == vm_id, Snapshot.status == left.during), status=left.on_failure),
    ]
    for kind in (Kind.SNAPSHOT, Kind.ATTACHMENT, Kind.INTERFACE):
        change, model = change_of(Action.DELETE, kind), _MODELS[kind]
        assert not issubclass(model, Volume)  # noqa: S101 - of those there are two changes
        taken = (model.vm_id == vm_id, model.status.in_(change.sources))
        stays = {"delete_on_termination": goes} if model is Attachment else {}
        changes.append(_put(model, taken, status=change.during, operation_id=operation_id, **stays))
    await _execute(tx, changes)


def _put(model: type[Holding], which: Iterable[ColumnElement[bool]], **values: Any) -> Update:
    return update(model).where(*which).values(values)


async def _execute(tx: AsyncConnection, changes: Iterable[Update | Delete]) -> None:
    """All of them in one round trip."""
    ctes = [change.returning(literal(1)).cte(f"change_{number}") for number, change in enumerate(changes)]
    if ctes:
        await tx.execute(select(literal(1)).add_cte(*ctes))
