"""The claims of operations on resources other than the VM: snapshots, volumes, attachments and interfaces.

A row's `operation_id` names the operation that holds it. Operations claim rows when they are accepted and settle them
when they end, as the lifecycle table says. Callers lock rows in the order VM, operation, snapshot, volume, attachment,
interface, so that two transactions never wait for each other.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Delete, Update, Uuid, and_, case, delete, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.guests import UserData
from domain.data.models import Attachment, Interface, Operation, Snapshot, Volume
from domain.data.parameters import ExtendVolume, control_of, parameters_of
from domain.data.queries import has_begun, snapshots_without_image
from domain.rules.errors import InvalidTransitionError
from domain.rules.lifecycle import accept_change, change_of, is_at_rest
from domain.rules.messages import LeftoversResult
from domain.rules.resources import AttachmentStatus, Before, Change, Kind, ResourceStatus, VolumeStatus
from domain.rules.states import Action
from domain.rules.table import TABLE, Residue

Resource = Snapshot | Volume | Attachment | Interface
T = TypeVar("T", Snapshot, Volume, Attachment, Interface)

_MODELS: Final[dict[Kind, type[Resource]]] = {
    Kind.SNAPSHOT: Snapshot,
    Kind.VOLUME: Volume,
    Kind.ATTACHMENT: Attachment,
    Kind.INTERFACE: Interface,
}


def kind_of(model: type[Resource]) -> Kind:
    """Return the kind of a model's rows."""
    return next(kind for kind, candidate in _MODELS.items() if candidate is model)


async def claim(tx: AsyncConnection, model: type[T], row: T, action: Action, operation_id: UUID) -> None:
    """Let an operation claim a locked row. InvalidTransitionError if the lifecycle table refuses."""
    try:
        status = accept_change(action, kind_of(model), row.status)
    except InvalidTransitionError as error:
        error.operation_id = None if is_at_rest(kind_of(model), row.status) else row.operation_id
        raise
    (key,) = model.__table__.primary_key
    await tx.execute(_update(model, [key == getattr(row, key.name)], status=status, operation_id=operation_id))


async def claim_volumes(tx: AsyncConnection, action: Action, claims: Sequence[tuple[UUID, UUID]]) -> None:
    """Let operations claim locked volumes, all in one statement. Each claim has the ids of a volume and an operation.

    The caller has checked that the lifecycle table allows it.
    """
    volumes, operations = (literal(list(ids), ARRAY(Uuid)) for ids in zip(*claims, strict=True))
    claim = func.unnest(volumes, operations).table_valued("volume_id", "operation_id").render_derived()
    values = {"status": change_of(action, Kind.VOLUME).during, "operation_id": claim.c.operation_id}
    await tx.execute(_update(Volume, [Volume.id == claim.c.volume_id], **values))


async def settle_success(tx: AsyncConnection, operation: Operation) -> None:
    """Put the rows that the operation holds into the table's `target`, and delete those without one.

    A VM that is deleted loses its user data, too.
    """
    forget = [delete(UserData).where(UserData.vm_id == operation.vm_id)] if operation.action is Action.DELETE else []
    is_extension = operation.action is Action.EXTEND_VOLUME
    values = {"size_gb": parameters_of(operation, ExtendVolume).size_gb} if is_extension else {}
    await _settle(tx, operation, lambda change: change.target, forget, **values)


def success(action: Action, operation_id: ColumnElement[UUID], vm_id: ColumnElement[UUID]) -> Sequence[Update]:
    """Return the statements that put the rows that an operation on a VM holds into the table's `target`.

    For actions that delete no rows. The statements return something, as a CTE must.
    """
    statements = []
    for change in TABLE[action].changes:
        model, target = _MODELS[change.kind], change.target
        assert target is not None  # noqa: S101 - only a delete and detaches delete rows
        held = [model.operation_id == operation_id, model.status == change.during]
        if not issubclass(model, Volume):
            held.append(model.vm_id == vm_id)
        statements.append(_update(model, held, status=target).returning(literal(1)))
    return statements


async def settle_failure(
    tx: AsyncConnection, operation: Operation, residue: Residue, leftovers: LeftoversResult | None = None
) -> None:
    """Put the rows that the operation holds into the table's status for this residue, and delete those without one.

    `leftovers` is what the cloud still has after a failed delete of a VM.
    """
    if leftovers is not None:
        await _settle_by_leftovers(tx, operation, leftovers)
    # Some actions on a snapshot or volume can begin in two statuses. The operation keeps which one it was.
    previous = control_of(operation).was
    if previous and (residue is Residue.NOT_BEGUN or not has_begun(operation)):
        await _settle(tx, operation, lambda change: type(change.during)(previous))
    elif residue is Residue.STILL_THERE:
        await _settle(tx, operation, lambda change: change.if_still_there or change.on_failure)
    else:
        await _settle(tx, operation, lambda change: change.on_failure)


async def _settle(
    tx: AsyncConnection,
    operation: Operation,
    status_of: Callable[[Change], ResourceStatus | Before | None],
    others: Iterable[Delete] = (),
    **values: Any,
) -> None:
    """Settle the rows that the operation holds, and execute the other statements in the same round trip.

    `values` are further columns of these rows.
    """
    statements: list[Update | Delete] = [*others]
    for change in TABLE[operation.action].changes:
        model, status = _MODELS[change.kind], status_of(change)
        if isinstance(status, Before):
            status = type(change.during)(control_of(operation).was or "")
        held = [model.operation_id == operation.id, model.status == change.during]
        if not issubclass(model, Volume):
            held.append(model.vm_id == operation.vm_id)  # these have an index on vm_id, volumes on operation_id
        kept = _update(model, held, status=status, **values)
        statements.append(delete(model).where(*held) if status is None else kept)
    await _execute(tx, statements)


async def _settle_by_leftovers(tx: AsyncConnection, operation: Operation, leftovers: LeftoversResult) -> None:
    """Settle the rows of a failed delete whose resources the cloud has deleted or detached, as after a success.

    The caller then settles the rest as after a failure. The rest are the rows that still have the status `during`.
    """
    of_attachments = (Attachment.vm_id == operation.vm_id, Attachment.operation_id == operation.id)
    of_interfaces = (Interface.vm_id == operation.vm_id, Interface.operation_id == operation.id)
    detached = (Volume.operation_id == operation.id, Volume.id.not_in(leftovers.attached))
    status = case((Volume.id.in_(leftovers.free), VolumeStatus.AVAILABLE.value), else_=VolumeStatus.DELETED.value)
    statements: list[Update | Delete] = [
        _update(Volume, detached, status=status),
        delete(Attachment).where(*of_attachments, Attachment.volume_id.not_in(leftovers.attached)),
        delete(Interface).where(*of_interfaces, Interface.id.not_in(leftovers.ports)),
    ]
    await _execute(tx, statements)


async def mark_undeletable(tx: AsyncConnection, model: type[Snapshot | Volume], id: UUID, operation_id: UUID) -> None:
    """Put a row that the cloud refuses to delete into ERROR, so that its owner can delete it separately."""
    await tx.execute(_update(model, (model.id == id, model.operation_id == operation_id), status="ERROR"))


async def take_over(tx: AsyncConnection, vm_id: UUID, operation_id: UUID) -> None:
    """Let a delete of the VM claim the VM's resources, even those that other operations hold.

    Finished snapshots keep their status: they outlive the VM, even those whose images are missing now. So does a volume
    that is being detached, even with `delete_on_termination`, because its owner requested the detach before the delete.
    """
    of_vm = (Attachment.volume_id == Volume.id, Attachment.vm_id == vm_id, Volume.status != VolumeStatus.DELETED)
    goes_with_vm = and_(Attachment.delete_on_termination, Attachment.status != AttachmentStatus.DETACHING)
    detaching = change_of(Action.DETACH_VOLUME, Kind.VOLUME).during
    volume_status = case((goes_with_vm, VolumeStatus.DELETING.value), else_=detaching.value)
    restore = change_of(Action.RESTORE, Kind.SNAPSHOT)
    # The volumes' update reads the attachments as they are before the update of the attachments (see _execute).
    statements: list[Update] = [
        _update(Volume, of_vm, status=volume_status, operation_id=operation_id),
        _update(Snapshot, (Snapshot.vm_id == vm_id, Snapshot.status == restore.during), status=restore.on_failure),
    ]
    for kind in (Kind.SNAPSHOT, Kind.ATTACHMENT, Kind.INTERFACE):
        change, model = change_of(Action.DELETE, kind), _MODELS[kind]
        assert not issubclass(model, Volume)  # noqa: S101 - for the type checker: volumes are updated above
        held = [model.vm_id == vm_id, model.status.in_(change.sources)]
        if model is Snapshot:
            held.append(Snapshot.id.not_in(snapshots_without_image(Operation.vm_id == vm_id)))
        # If this delete fails, the attachment becomes ATTACHED again. A second delete could then no longer see that
        # the volume was being detached, so the row keeps the decision.
        values = {"delete_on_termination": goes_with_vm} if model is Attachment else {}
        statements.append(_update(model, held, status=change.during, operation_id=operation_id, **values))
    await _execute(tx, statements)


def _update(model: type[Resource], which: Iterable[ColumnElement[bool]], **values: Any) -> Update:
    return update(model).where(*which).values(values)


async def _execute(tx: AsyncConnection, statements: Iterable[Update | Delete]) -> None:
    """Execute all statements in one round trip.

    Each becomes a CTE of one SELECT. All of them see the database as it was before the first (one snapshot), so no
    statement may rely on another's effect, and no two may change the same row: PostgreSQL would apply only one of them.
    """
    ctes = [statement.returning(literal(1)).cte(f"change_{number}") for number, statement in enumerate(statements)]
    if ctes:
        await tx.execute(select(literal(1)).add_cte(*ctes))
