"""The records of an operation's progress: its steps, its failed attempts, its end.

Every write is fenced, because Temporal may run an activity twice, late, or on a worker that stalled. A record is only
written for an operation that is open, has the workflow's epoch and still holds its VM. An activity records its step
before it calls the cloud, so an operation that was superseded is stopped before it changes anything.

Ends lock the VM's row, then the operation's, then the other resources'. A delete that supersedes the VM's operations
locks in the same order; in another order the two could wait for each other.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, exists, extract, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.models import VM, Attachment, CloudResource, Interface, Operation
from domain.data.parameters import Resize, Restore, RevertResize, control_of, parameters_of
from domain.data.queries import fetch_one, from_now, has_begun, lock_vm, note_vm_changed, update_vm
from domain.progress import resource_claims
from domain.rules import lifecycle
from domain.rules.errors import CanceledError, SupersededError
from domain.rules.messages import FailOperationInput, OperationInput
from domain.rules.states import OPEN_STATUSES, Action, OperationStatus, Status, TaskState
from domain.rules.table import TABLE, Residue

NO_ANSWER: Final = "An attempt ended without an answer: it took too long, or its worker stopped."


async def enter_step(
    tx: AsyncConnection, input: OperationInput, step: TaskState, attempt: int, *, later: Sequence[TaskState] = ()
) -> tuple[VM, Operation]:
    """Record that the operation enters `step`, before it calls the cloud; one of the `later` steps if it is there.

    Raises SupersededError if the operation may not go on: it has ended, has another epoch, no longer holds its VM, or
    the VM is neither in the step before nor in this one, as after a mistake in the order of steps. Raises CanceledError
    if its cancel was requested. The first step also records that a worker has received the operation (`started_at`).
    """
    # The conditions are in the UPDATE itself: it locks the VM's row and checks them on its newest version, so no other
    # transaction can supersede the operation between the check and the write.
    statement = (
        update(VM)
        .where(
            VM.id == input.vm_id,
            VM.operation_id == input.operation_id,
            VM.task_state.in_([*lifecycle.may_enter_from(input.action, step), *later]),
        )
        .values(task_state=case((VM.task_state.in_(later), VM.task_state), else_=step))
        .returning(VM)
    )
    vm = await fetch_one(tx, statement)
    if vm is None or vm.task_state is None:
        raise SupersededError(f"Operation {input.operation_id} may not enter step {step}.")
    progress = lifecycle.progress(input.action, vm.task_state)
    return vm, await enter(tx, input, attempt, step=vm.task_state, progress=progress)


async def note_attempt(tx: AsyncConnection, input: OperationInput, attempt: int, *, of_wait: bool = False) -> None:
    """Record that an attempt after the first has begun, for people who read the operation.

    The attempt before has recorded its error, unless it took too long or its worker stopped. For a wait neither is an
    error: it begins a new attempt every few minutes.
    """
    last_error = Operation.last_error if of_wait else func.coalesce(Operation.last_error, NO_ANSWER)
    values = {"attempt": attempt, "next_retry_at": None, "last_error": last_error}
    await tx.execute(update(Operation).where(*_is_current(input)).values(values))


async def note_failed_attempt(
    tx: AsyncConnection, input: OperationInput, attempt: int, error: str, retry_in: float
) -> None:
    """Record why an attempt failed and that the next one begins in `retry_in` seconds."""
    await tx.execute(
        update(Operation)
        .where(*_is_current(input))
        .values(attempt=attempt, last_error=error, next_retry_at=from_now(retry_in))
    )


async def enter(tx: AsyncConnection, input: OperationInput, attempt: int, **values: Any) -> Operation:
    """Record that the operation is running. This is the fence of operations that do not hold a VM."""
    operation = await _update_operation(
        tx,
        input,
        status=OperationStatus.RUNNING,
        started_at=func.coalesce(Operation.started_at, func.now()),
        attempt=attempt,
        # Kept while the step is retried, so that people see it at any time. See also `note_attempt`.
        last_error=func.coalesce(Operation.last_error, NO_ANSWER) if attempt > 1 else None,
        next_retry_at=None,
        **values,
    )
    if operation.cancel_requested_by is not None:
        raise CanceledError(operation.cancel_requested_by)
    return operation


async def note_created(
    tx: AsyncConnection, input: OperationInput, model: type[CloudResource | Attachment], id: UUID, **values: Any
) -> None:
    """Write what the cloud has chosen for a resource that the operation creates, its id above all.

    SupersededError if the operation has ended, has another epoch, or no longer holds the resource.
    """
    (key,) = model.__table__.primary_key
    held = (key == id, model.operation_id == input.operation_id)
    is_current = exists().where(*_is_current(input))
    if model in {Interface, Attachment}:
        await note_vm_changed(tx, input.vm_id)
    if model is Interface:
        await take_addresses(tx, id, values)
    if "device" in values:
        # The cloud gives a device to one volume of a server. Whichever had it here has lost it there.
        had = (Attachment.vm_id == input.vm_id, Attachment.device == values["device"], Attachment.volume_id != id)
        await tx.execute(update(Attachment).where(*had).values(device=None))
    written = await tx.execute(update(model).where(*held, is_current).values(values))
    if not written.rowcount:
        raise SupersededError(f"Operation {input.operation_id} no longer holds what it has created.")


async def take_addresses(tx: AsyncConnection, id: UUID, values: Mapping[str, Any]) -> None:
    """Take the addresses of an interface from others that have them here.

    The cloud gives an address to one port of a network. Whichever had it here has another one there, or is gone.
    """
    network = select(Interface.network_id).where(Interface.id == id).scalar_subquery()
    for column in (Interface.ip_address, Interface.mac_address):
        address = values[column.key]
        if address is None:  # a port may have no address, as many others
            continue
        has_it = and_(Interface.network_id == network, column == address)
        others = await tx.execute(select(Interface.id, Interface.vm_id).where(Interface.id != id, has_it))
        for other in others.all():
            await note_vm_changed(tx, other.vm_id)
            # It may have got another address since it was read.
            await tx.execute(update(Interface).where(Interface.id == other.id, has_it).values({column.key: None}))


async def note_zone(tx: AsyncConnection, input: OperationInput, zone: str) -> None:
    """Write the zone that the cloud has chosen for the operation's VM, unless its request named one."""
    held = (VM.id == input.vm_id, VM.operation_id == input.operation_id)
    await tx.execute(update(VM).where(*held, VM.availability_zone.is_(None)).values(availability_zone=zone))


async def check_holds(tx: AsyncConnection, input: OperationInput) -> tuple[VM | None, Operation]:
    """Lock the operation's VM, if it has one, and return both. SupersededError if the operation may not go on."""
    vm, operation = await _load(tx, input)
    _refuse_unless_held(vm, operation)
    return vm, operation


async def finish(tx: AsyncConnection, input: OperationInput) -> None:
    """Record the success of the operation and settle everything it holds. A repeated call changes nothing."""
    vm, operation = await _load(tx, input)
    if operation.status is OperationStatus.SUCCEEDED:
        return
    _refuse_unless_held(vm, operation)
    success = {"status": OperationStatus.SUCCEEDED, "progress": 100, "last_error": None}
    operation = await _update_operation(tx, input, **success, next_retry_at=None, finished_at=func.now())
    await resource_claims.settle_success(tx, operation)
    if vm and operation.previous_status:
        status = lifecycle.finish(input.action, vm.task_state, operation.previous_status)
        values: dict[str, Any] = {"status": status, "task_state": None, "fault": None}
        await update_vm(tx, vm.id, values | _result(operation))
    elif vm:
        await _count_down(tx, vm, input.action)


async def _count_down(tx: AsyncConnection, vm: VM, action: Action) -> None:
    """Count down `attaching` of the VM at the end of an attach or detach."""
    if TABLE[action].is_on_vm:
        await update_vm(tx, vm.id, {"attaching": VM.attaching - 1})


def _result(operation: Operation) -> dict[str, Any]:
    """Return the columns of the VM, beside its state, that the operation changes when it succeeds."""
    match operation.action:
        case Action.CREATE:
            return {"launched_at": func.now()}
        case Action.RESIZE:
            window = control_of(operation).confirm_window
            confirm_by = from_now(window) if window else None
            return {"flavor_id": parameters_of(operation, Resize).flavor_id, "confirm_by": confirm_by}
        case Action.REVERT_RESIZE:
            return {"flavor_id": parameters_of(operation, RevertResize).flavor_id}
        case Action.RESTORE:
            snapshot = parameters_of(operation, Restore)
            return {"flavor_id": snapshot.flavor_id, "image_id": snapshot.image_id}
    return {}


async def read_confirm_window(tx: AsyncConnection, resize: OperationInput) -> float | None:
    """Return the seconds until the resize confirms itself; None if it never does, or no longer waits."""
    remaining = extract("epoch", VM.confirm_by - func.now())
    seconds = await tx.scalar(select(remaining).where(VM.id == resize.vm_id, VM.operation_id == resize.operation_id))
    return float(seconds) if seconds is not None else None


async def drop_confirm_window(tx: AsyncConnection, resize: OperationInput) -> None:
    """Remove the confirm window of a resize that still waits: from now on only a person decides it."""
    is_waiting = (VM.id == resize.vm_id, VM.operation_id == resize.operation_id, VM.confirm_by.is_not(None))
    await tx.execute(update(VM).where(*is_waiting).values(confirm_by=None))


async def fail(tx: AsyncConnection, failure: FailOperationInput) -> None:
    """Record the failure of the operation and settle everything it holds. A repeated call changes nothing."""
    input = failure.operation
    status = OperationStatus.CANCELED if failure.canceled else OperationStatus.FAILED
    vm, operation = await _load(tx, input)
    if operation.status is status:
        return
    _refuse_unless_held(vm, operation)
    error = {"code": failure.code, "message": failure.message}
    operation = await _update_operation(
        tx, input, status=status, error=error, next_retry_at=None, finished_at=func.now()
    )
    await resource_claims.settle_failure(tx, operation, failure.observed_residue, failure.remains)
    if vm and operation.previous_status:
        await update_vm(tx, vm.id, _vm_after_failure(vm, operation, failure))
    elif vm:
        await _count_down(tx, vm, input.action)


def _vm_after_failure(vm: VM, operation: Operation, failure: FailOperationInput) -> dict[str, Any]:
    """Return the columns of the VM after a failure of the operation that held it."""
    assert operation.previous_status is not None  # noqa: S101 - every operation that holds a VM has one
    # Workflows of older versions never report NOT_BEGUN, nor does a delete. `started_at` shows it in every case.
    residue = failure.observed_residue if has_begun(operation) else Residue.NOT_BEGUN
    status = lifecycle.fail(operation.action, operation.previous_status, residue)
    error = {"code": failure.code, "message": failure.message}
    previous_fault = control_of(operation).previous_fault if residue is Residue.NOT_BEGUN else None
    fault = (vm.fault or previous_fault or error) if status is Status.ERROR else None
    values: dict[str, Any] = {"status": status, "task_state": None, "fault": fault}
    if residue is Residue.APPLIED:
        values |= _result(operation)
    if failure.remains and failure.remains.flavor_id:
        values["flavor_id"] = failure.remains.flavor_id
    return values


async def _load(tx: AsyncConnection, input: OperationInput) -> tuple[VM | None, Operation]:
    vm = await lock_vm(tx, input.vm_id) if input.vm_id else None
    # The operation is read without a lock. An UPDATE that follows checks the fence again, on the row's newest version.
    operation = await fetch_one(tx, select(Operation).where(Operation.id == input.operation_id))
    if operation is None or operation.epoch != input.epoch:
        raise SupersededError(f"Operation {input.operation_id} belongs to another workflow.")
    return vm, operation


def _refuse_unless_held(vm: VM | None, operation: Operation) -> None:
    if operation.status not in OPEN_STATUSES:
        raise SupersededError(f"Operation {operation.id} has ended as {operation.status}.")
    if vm is not None and operation.previous_status is not None and vm.operation_id != operation.id:
        raise SupersededError(f"Operation {operation.id} no longer holds its VM.")


def _is_current(input: OperationInput) -> tuple[ColumnElement[bool], ...]:
    return (
        Operation.id == input.operation_id,
        Operation.epoch == input.epoch,
        Operation.status.in_(OPEN_STATUSES),
    )


async def _update_operation(tx: AsyncConnection, input: OperationInput, **values: Any) -> Operation:
    statement = update(Operation).where(*_is_current(input)).values(values).returning(Operation)
    operation = await fetch_one(tx, statement)
    if operation is None:
        raise SupersededError(f"Operation {input.operation_id} has ended.")
    return operation
