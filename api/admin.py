"""What admins do about what needs attention: ask again for what failed, put a VM into another state."""

from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

from fastapi import Response
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from api import bodies, resources
from api import operations as asking
from api.operations import asked_by
from api.web.security import Caller
from domain.commands import acceptance, service
from domain.data import queries
from domain.data.models import VM, Network, Operation
from domain.rules import lifecycle
from domain.rules.errors import InvalidTransitionError, NotFoundError, NotRetryableError
from domain.rules.states import Action, OperationStatus, Status

Retry = Callable[[AsyncConnection, Caller, Operation], Awaitable[Response]]

_MADE_HERE = text("operations.xmin = pg_current_xact_id()::xid")  # by this transaction
_ENDED_BADLY = (OperationStatus.FAILED, OperationStatus.CANCELED)


async def retry(tx: AsyncConnection, admin: Caller, operation_id: UUID) -> UUID:
    """Ask once more for what an operation was to do, on its owner's behalf; a new operation, which names the old one.

    NotRetryableError where it has not failed, or made something: what it made is in ERROR, and is made anew by its
    owner; or where another does it already. InvalidTransitionError where the lifecycle table refuses.
    """
    operation = await queries.fetch_one(tx, select(Operation).where(Operation.id == operation_id))
    if operation is None:
        raise NotFoundError("operation", operation_id)
    if operation.status not in _ENDED_BADLY:
        raise NotRetryableError(f"Only what FAILED or was CANCELED can be retried; this is {operation.status}.")
    if operation.action not in _RETRIES:
        raise NotRetryableError(f"A {operation.action.word} is not retried: delete what it made and ask anew.")
    on_behalf = Caller(operation.owner_id, admin.username, admin.session_id)
    answer = await _RETRIES[operation.action](tx, on_behalf, operation)
    new_id = UUID(answer.headers["Operation-Location"].rpartition("/")[2])
    named = update(Operation).where(Operation.id == new_id, _MADE_HERE).values(retry_of=operation.id)
    if not (await tx.execute(named)).rowcount:
        raise NotRetryableError(f"That is done by operation {new_id} already.")
    return new_id


async def _submit(tx: AsyncConnection, caller: Caller, failed: Operation) -> Response:
    return await asking.submit(tx, caller, _vm(failed), failed.action, failed.input)


async def _resize(tx: AsyncConnection, caller: Caller, failed: Operation) -> Response:
    flavor_id, window = UUID(failed.input["flavor_id"]), failed.input["confirm_window"]
    return await asking.resize_vm(tx, caller, _vm(failed), flavor_id, window)


async def _delete(tx: AsyncConnection, caller: Caller, failed: Operation) -> Response:
    return await asking.delete_vm(tx, caller, _vm(failed))


async def _snapshot(tx: AsyncConnection, caller: Caller, failed: Operation) -> Response:
    body = bodies.NewSnapshot(name=failed.input["name"])
    return await resources.create_snapshot(tx, caller, _vm(failed), body)


async def _attach_volume(tx: AsyncConnection, caller: Caller, failed: Operation) -> Response:
    delete_on_termination = failed.input["delete_on_termination"]
    body = bodies.NewAttachment(volume_id=failed.resource_id, delete_on_termination=delete_on_termination)
    return await resources.attach_volume(tx, caller, _vm(failed), body)


async def _attach_interface(tx: AsyncConnection, caller: Caller, failed: Operation) -> Response:
    network_id = await tx.scalar(select(Network.id).where(Network.name == failed.input["network"]))
    return await resources.attach_interface(tx, caller, _vm(failed), bodies.NewInterface(network_id=network_id))


def _of_vm(
    ask: Callable[[AsyncConnection, Caller, UUID, UUID], Awaitable[Response]],
) -> Retry:
    """What is asked of a VM's snapshot, volume or interface."""

    async def ask_again(tx: AsyncConnection, caller: Caller, failed: Operation) -> Response:
        return await ask(tx, caller, _vm(failed), failed.resource_id)

    return ask_again


async def _delete_volume(tx: AsyncConnection, caller: Caller, failed: Operation) -> Response:
    return await resources.delete_volume(tx, caller, failed.resource_id)


def _vm(failed: Operation) -> UUID:
    assert failed.vm_id is not None  # noqa: S101 - only volumes are made and deleted without
    return failed.vm_id


_RETRIES: Final[dict[Action, Retry]] = {
    Action.START: _submit,
    Action.STOP: _submit,
    Action.REBOOT_SOFT: _submit,
    Action.REBOOT_HARD: _submit,
    Action.RESIZE: _resize,
    Action.CONFIRM_RESIZE: _submit,
    Action.REVERT_RESIZE: _submit,
    Action.DELETE: _delete,
    Action.SNAPSHOT: _snapshot,
    Action.RESTORE: _of_vm(resources.restore_vm),
    Action.DELETE_SNAPSHOT: _of_vm(resources.delete_snapshot),
    Action.ATTACH_VOLUME: _attach_volume,
    Action.DETACH_VOLUME: _of_vm(resources.detach_volume),
    Action.ATTACH_INTERFACE: _attach_interface,
    Action.DETACH_INTERFACE: _of_vm(resources.detach_interface),
    Action.DELETE_VOLUME: _delete_volume,
}


async def reset_state(tx: AsyncConnection, admin: Caller, vm_id: UUID, status: Status) -> Response:
    """Put a VM into a status at once, whatever holds it, as Nova's os-resetState; an operation of its own says who did.

    InvalidTransitionError for what is deleted, has never run, or was never resized, where that is what the status says.
    """
    vm = await queries.lock_vm(tx, vm_id)
    if vm is None:
        raise NotFoundError("VM", vm_id)
    resize = await _undecided_resize(tx, vm) if status is Status.VERIFY_RESIZE else None
    if not _can_be(vm, status, resize):
        launched = vm.launched_at is not None
        allowed = lifecycle.allowed_actions(vm.status, vm.task_state, launched=launched, attaching=vm.attaching > 0)
        raise InvalidTransitionError(f"reset to {status}", vm.status, vm.task_state, allowed)
    asked = asked_by(admin, Action.RESET_STATE, {"status": status, "was": vm.status, "task_state": vm.task_state})
    message = f"{admin.username} put the VM into ERROR."
    fault = {"code": "state_reset", "message": message} if status is Status.ERROR else None
    resized = {"flavor_id": UUID(resize.input["flavor_id"])} if resize else {}
    vm = await service.reset_state(tx, vm, status, asked, fault, **resized)
    return asking.accepted_vm(vm)


async def _undecided_resize(tx: AsyncConnection, vm: VM) -> Operation | None:
    resize = await queries.fetch_one(tx, acceptance.last_resize(vm.id))
    if resize is None:
        return None
    decisions = (Operation.vm_id == vm.id, Operation.action.in_((Action.CONFIRM_RESIZE, Action.REVERT_RESIZE)))
    since = (Operation.status == OperationStatus.SUCCEEDED, Operation.created_at > resize.created_at)
    return None if await tx.scalar(select(Operation.id).where(*decisions, *since).limit(1)) else resize


def _can_be(vm: VM, status: Status, undecided: Operation | None) -> bool:
    if vm.status is Status.DELETED:
        return False
    if status is Status.VERIFY_RESIZE:
        return undecided is not None
    return status is Status.ERROR or vm.launched_at is not None
