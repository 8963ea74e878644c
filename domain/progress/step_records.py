"""What workflows record of the operations they carry out: each step, each failed attempt, the end.

All of it is fenced: nothing is written for an operation that has ended, is of another epoch, or has lost its VM.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, extract, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.models import VM, Operation
from domain.data.queries import fetch_one, from_now, lock_vm, update_vm
from domain.progress import resource_claims
from domain.rules import lifecycle
from domain.rules.errors import CanceledError, SupersededError
from domain.rules.messages import FailOperationInput, OperationInput
from domain.rules.states import OPEN_STATUSES, Action, OperationStatus, Status, TaskState
from domain.rules.table import TABLE


async def enter_step(tx: AsyncConnection, input: OperationInput, step: TaskState, attempt: int) -> tuple[VM, Operation]:
    """Record that the operation is in `step`; the fence before every effect.

    SupersededError unless the operation is open, its epoch is this one, it holds its VM, and the VM is in the step
    before or already in this one; CanceledError where somebody asked for that. The first step entered is the
    operation's receipt.
    """
    statement = (
        update(VM)
        .where(
            VM.id == input.vm_id,
            VM.operation_id == input.operation_id,
            VM.task_state.in_(lifecycle.may_enter_from(input.action, step)),
        )
        .values(task_state=step)
        .returning(VM)
    )
    vm = await fetch_one(tx, statement)
    if vm is None:
        raise SupersededError(f"Operation {input.operation_id} may not enter {step}.")
    return vm, await enter(tx, input, attempt, step=step, progress=lifecycle.progress(input.action, step))


async def note_attempt(tx: AsyncConnection, input: OperationInput, attempt: int) -> None:
    """Show on the operation that this attempt is under way."""
    await tx.execute(update(Operation).where(*_still_open(input)).values(attempt=attempt, next_retry_at=None))


async def note_failed_attempt(
    tx: AsyncConnection, input: OperationInput, attempt: int, error: str, retry_in: float
) -> None:
    """Show on the operation why its attempt failed and that the next comes in `retry_in` seconds."""
    await tx.execute(
        update(Operation)
        .where(*_still_open(input))
        .values(attempt=attempt, last_error=error, next_retry_at=from_now(retry_in))
    )


async def enter(tx: AsyncConnection, input: OperationInput, attempt: int, **values: Any) -> Operation:
    """Record that an operation is under way, of itself where it takes no VM; the fence as above."""
    operation = await _update_operation(
        tx,
        input,
        status=OperationStatus.RUNNING,
        started_at=func.coalesce(Operation.started_at, func.now()),
        attempt=attempt,
        last_error=None,
        next_retry_at=None,
        **values,
    )
    if operation.cancel_requested_by is not None:
        raise CanceledError(operation.cancel_requested_by)
    return operation


async def check_holds(tx: AsyncConnection, input: OperationInput) -> tuple[VM | None, Operation]:
    """SupersededError unless the operation is open, of this epoch, and holds its VM, if it has one; that is locked."""
    vm, operation = await _load(tx, input)
    _refuse_unless_held(vm, operation)
    return vm, operation


async def finish(tx: AsyncConnection, input: OperationInput) -> None:
    """End the operation well and put what it holds where the table says; once, however often it is asked."""
    vm, operation = await _load(tx, input)
    if operation.status is OperationStatus.SUCCEEDED:
        return
    _refuse_unless_held(vm, operation)
    ended = {"status": OperationStatus.SUCCEEDED, "progress": 100, "last_error": None}
    operation = await _update_operation(tx, input, **ended, next_retry_at=None, finished_at=func.now())
    await resource_claims.end_well(tx, operation)
    if vm and operation.previous_status:
        status = lifecycle.finish(input.action, vm.task_state, operation.previous_status)
        values: dict[str, Any] = {"status": status, "task_state": None, "fault": None}
        await update_vm(tx, vm.id, values | _brought_about(operation))
    elif vm:
        await _count_down(tx, vm, input.action)


async def _count_down(tx: AsyncConnection, vm: VM, action: Action) -> None:
    """What was attached to the VM, or detached from it, is so no longer."""
    if TABLE[action].of_vm:
        await update_vm(tx, vm.id, {"attaching": VM.attaching - 1})


def _brought_about(operation: Operation) -> dict[str, Any]:
    """What a VM shows beyond its state once the operation has succeeded."""
    match operation.action:
        case Action.CREATE:
            return {"launched_at": func.now()}
        case Action.RESIZE:
            window = operation.input["confirm_window"]
            confirm_by = from_now(window) if window else None
            return {"flavor_id": UUID(operation.input["flavor_id"]), "confirm_by": confirm_by}
        case Action.REVERT_RESIZE:
            return {"flavor_id": UUID(operation.input["flavor_id"])}
        case Action.RESTORE:
            return {name: UUID(operation.input[name]) for name in ("flavor_id", "image_id")}
    return {}


async def read_confirm_window(tx: AsyncConnection, resize: OperationInput) -> float | None:
    """Seconds until the resize confirms itself; None where it never does, or no longer waits for it."""
    left = extract("epoch", VM.confirm_by - func.now())
    seconds = await tx.scalar(select(left).where(VM.id == resize.vm_id, VM.operation_id == resize.operation_id))
    return float(seconds) if seconds is not None else None


async def drop_confirm_window(tx: AsyncConnection, resize: OperationInput) -> None:
    """Let the resize wait for a person only, where it still waits."""
    waits = (VM.id == resize.vm_id, VM.operation_id == resize.operation_id, VM.confirm_by.is_not(None))
    await tx.execute(update(VM).where(*waits).values(confirm_by=None))


async def fail(tx: AsyncConnection, failure: FailOperationInput) -> None:
    """End the operation with an error and leave what it holds as the table says; once, however often it is asked."""
    input = failure.operation
    ended = OperationStatus.CANCELED if failure.canceled else OperationStatus.FAILED
    vm, operation = await _load(tx, input)
    if operation.status is ended:
        return
    _refuse_unless_held(vm, operation)
    error = {"code": failure.code, "message": failure.message}
    operation = await _update_operation(
        tx, input, status=ended, error=error, next_retry_at=None, finished_at=func.now()
    )
    begun = failure.begun and operation.started_at is not None
    await resource_claims.end_badly(tx, operation, failure, begun=begun)
    if vm and operation.previous_status:
        status = lifecycle.fail(input.action, operation.previous_status, intact=failure.intact, begun=begun)
        was = None if begun else operation.input.get("previous_fault")
        fault = (vm.fault or was or error) if status is Status.ERROR else None
        values: dict[str, Any] = {"status": status, "task_state": None, "fault": fault}
        if failure.applied:
            values |= _brought_about(operation)
        if failure.remains and failure.remains.flavor_id:
            values["flavor_id"] = failure.remains.flavor_id
        await update_vm(tx, vm.id, values)
    elif vm:
        await _count_down(tx, vm, input.action)


async def _load(tx: AsyncConnection, input: OperationInput) -> tuple[VM | None, Operation]:
    vm = await lock_vm(tx, input.vm_id) if input.vm_id else None
    operation = await fetch_one(tx, select(Operation).where(Operation.id == input.operation_id))
    if operation is None or operation.epoch != input.epoch:
        raise SupersededError(f"Operation {input.operation_id} is not this workflow's to record.")
    return vm, operation


def _refuse_unless_held(vm: VM | None, operation: Operation) -> None:
    is_held = vm is None or operation.previous_status is None or vm.operation_id == operation.id
    if operation.status not in OPEN_STATUSES or not is_held:
        raise SupersededError(f"Operation {operation.id} is {operation.status}.")


def _still_open(input: OperationInput) -> tuple[ColumnElement[bool], ...]:
    return (
        Operation.id == input.operation_id,
        Operation.epoch == input.epoch,
        Operation.status.in_(OPEN_STATUSES),
    )


async def _update_operation(tx: AsyncConnection, input: OperationInput, **values: Any) -> Operation:
    changed = update(Operation).where(*_still_open(input)).values(values).returning(Operation)
    operation = await fetch_one(tx, changed)
    if operation is None:
        raise SupersededError(f"Operation {input.operation_id} has ended.")
    return operation
