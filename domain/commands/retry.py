"""Repeat a failed operation on behalf of its project. Only an admin can request this."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import Accepted, Requester
from domain.commands.interfaces import attach_interface, detach_interface
from domain.commands.resize_decisions import decide_resize
from domain.commands.snapshots import create_snapshot, delete_snapshot, restore_vm
from domain.commands.vms import delete_vm, reboot_vm, resize_vm, start_vm, stop_vm
from domain.commands.volumes import attach_volume, delete_volume, detach_volume, extend_volume
from domain.data.models import Network, Operation, Snapshot
from domain.data.parameters import (
    AttachVolume,
    ExtendVolume,
    Interface,
    Resize,
    TakeSnapshot,
    control_of,
    parameters_of,
)
from domain.data.queries import fetch_one, get_operation, lock_vm
from domain.rules.errors import NotFoundError, NotRetryableError, UnknownReferenceError
from domain.rules.references import Choice
from domain.rules.states import OPEN_STATUSES, Action, OperationStatus
from domain.rules.text import tidy

Retry = Callable[[AsyncConnection, Requester, Operation], Awaitable[Accepted[Any]]]

_FAILED: Final = (OperationStatus.FAILED, OperationStatus.CANCELED)


async def retry_operation(tx: AsyncConnection, admin: Requester, operation_id: UUID) -> Accepted[Operation]:
    """Repeat any user's failed operation; the new operation has the same project and names the old one in `retry_of`.

    NotRetryableError if it has not failed, if its resource must be created anew, or if another operation does or has
    done the same. InvalidTransitionError if the lifecycle table refuses.
    """
    # Read without a lock: an operation that has ended keeps its status for ever.
    operation = await fetch_one(tx, select(Operation).where(Operation.id == operation_id))
    if operation is None:
        raise NotFoundError("operation", operation_id)
    if operation.status not in _FAILED:
        raise NotRetryableError(f"Only a FAILED or CANCELED operation can be retried; this one is {operation.status}.")
    if operation.action not in _RETRIES:
        raise NotRetryableError(
            f"A {operation.action.word} cannot be retried. Delete its resource and create a new one."
        )
    await _refuse_if_repeated(tx, operation)
    on_behalf = replace(admin, may_change_all=True)
    accepted = await _RETRIES[operation.action](tx, on_behalf, operation)
    if not accepted.is_new:
        raise NotRetryableError(f"Operation {accepted.operation_id} does that already.")
    is_new_operation = Operation.id == accepted.operation_id
    await tx.execute(update(Operation).where(is_new_operation).values(retry_of=operation.id))
    return Accepted(await get_operation(tx, accepted.operation_id), accepted.operation_id)


async def _refuse_if_repeated(tx: AsyncConnection, failed: Operation) -> None:
    """Raise NotRetryableError if a retry is open or has succeeded: of the operation, or of one that it retried.

    The lifecycle table cannot refuse that. A VM may have any number of interfaces, for example.
    """
    # The VM comes first in the lock order.
    if failed.vm_id:
        await lock_vm(tx, failed.vm_id)
    # Housekeeping may be deleting the operation, and leaves it alone from now on. It keeps those that this one names.
    kept = select(Operation.id).where(Operation.id == failed.id).with_for_update(read=True, key_share=True)
    if await tx.scalar(kept) is None:
        raise NotFoundError("operation", failed.id)
    first = select(Operation.id, Operation.retry_of).where(Operation.id == failed.id).cte("earlier", recursive=True)
    earlier = first.union(select(Operation.id, Operation.retry_of).where(Operation.id == first.c.retry_of))
    root = (await tx.scalars(select(earlier.c.id).where(earlier.c.retry_of.is_(None)))).one()
    # All retries of one request lock the operation that was the first, so that they come here one after the other.
    await tx.execute(select(Operation.id).where(Operation.id == root).with_for_update(key_share=True))
    top = select(Operation.id, Operation.status).where(Operation.id == root).cte("repeated", recursive=True)
    repeated = top.union(select(Operation.id, Operation.status).where(Operation.retry_of == top.c.id))
    effective = repeated.c.status.in_((*OPEN_STATUSES, OperationStatus.SUCCEEDED))
    other = await tx.scalar(select(repeated.c.id).where(effective).limit(1))
    if other is not None:
        raise NotRetryableError(f"Operation {other} retries that already, or has done it.")


def _vm(failed: Operation) -> UUID:
    assert failed.vm_id is not None  # noqa: S101 - only volumes are created and deleted without a VM
    return failed.vm_id


async def _resize(tx: AsyncConnection, requester: Requester, failed: Operation) -> Accepted[Any]:
    flavor = Choice(parameters_of(failed, Resize).flavor_id, "flavor_id")
    return await resize_vm(tx, requester, _vm(failed), flavor, control_of(failed).confirm_window or 0)


async def _snapshot(tx: AsyncConnection, requester: Requester, failed: Operation) -> Accepted[Any]:
    labels = await tx.scalar(select(Snapshot.labels).where(Snapshot.id == failed.resource_id))
    return await create_snapshot(tx, requester, _vm(failed), parameters_of(failed, TakeSnapshot).name, labels or {})


async def _attach_volume(tx: AsyncConnection, requester: Requester, failed: Operation) -> Accepted[Any]:
    earlier = parameters_of(failed, AttachVolume)
    options = {"delete_on_termination": earlier.delete_on_termination, "chooses_device": earlier.device is not None}
    return await attach_volume(tx, requester, _vm(failed), failed.resource_id, **options)


async def _attach_interface(tx: AsyncConnection, requester: Requester, failed: Operation) -> Accepted[Any]:
    # The interface's row was deleted when the attach failed.
    earlier = parameters_of(failed, Interface)
    # An earlier version recorded the name only, and names were unique.
    names = {earlier.network, tidy(earlier.network)}  # the catalogue had the cloud's spelling then, and has ours now
    is_it = Network.id == earlier.network_id if earlier.network_id else Network.name.in_(names)
    network_id = await tx.scalar(select(Network.id).where(is_it, Network.is_available))
    if network_id is None:
        raise UnknownReferenceError(f"There is no network {earlier.network} any more.", [])
    return await attach_interface(tx, requester, _vm(failed), Choice(network_id, "network_id"), earlier.wanted_address)


_RETRIES: Final[dict[Action, Retry]] = {
    Action.START: lambda tx, requester, failed: start_vm(tx, requester, _vm(failed)),
    Action.STOP: lambda tx, requester, failed: stop_vm(tx, requester, _vm(failed)),
    Action.REBOOT_SOFT: lambda tx, requester, failed: reboot_vm(tx, requester, _vm(failed), hard=False),
    Action.REBOOT_HARD: lambda tx, requester, failed: reboot_vm(tx, requester, _vm(failed), hard=True),
    Action.RESIZE: _resize,
    Action.CONFIRM_RESIZE: lambda tx, requester, failed: decide_resize(tx, requester, _vm(failed), failed.action),
    Action.REVERT_RESIZE: lambda tx, requester, failed: decide_resize(tx, requester, _vm(failed), failed.action),
    Action.DELETE: lambda tx, requester, failed: delete_vm(tx, requester, _vm(failed)),
    Action.SNAPSHOT: _snapshot,
    Action.RESTORE: lambda tx, requester, failed: restore_vm(tx, requester, _vm(failed), failed.resource_id),
    Action.DELETE_SNAPSHOT: lambda tx, requester, failed: delete_snapshot(
        tx, requester, failed.resource_id, _vm(failed)
    ),
    Action.ATTACH_VOLUME: _attach_volume,
    Action.DETACH_VOLUME: lambda tx, requester, failed: detach_volume(tx, requester, _vm(failed), failed.resource_id),
    Action.ATTACH_INTERFACE: _attach_interface,
    Action.DETACH_INTERFACE: lambda tx, requester, failed: detach_interface(
        tx, requester, _vm(failed), failed.resource_id
    ),
    Action.DELETE_VOLUME: lambda tx, requester, failed: delete_volume(tx, requester, failed.resource_id),
    Action.EXTEND_VOLUME: lambda tx, requester, failed: extend_volume(
        tx, requester, failed.resource_id, parameters_of(failed, ExtendVolume).size_gb
    ),
}
"""The command that repeats each action. Creates are missing: their owner deletes the resource and creates a new one."""
