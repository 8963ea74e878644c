"""Only the statements that carry a rule.

Statements run on Core connections: a fetched row has its model's attributes and is read-only. Rows are locked in
the order VM, operation, so that a delete and a workflow's record never wait for each other in a circle.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

from sqlalchemy import ColumnElement, Interval, Select, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import TypedReturnsRows

from domain import lifecycle
from domain.errors import SupersededError
from domain.lifecycle import OPEN_STATUSES, Action, OperationStatus, Status, TaskState
from domain.messages import FailOperationInput, OperationInput
from domain.models import VM, Operation

T = TypeVar("T")


async def fetch_one(tx: AsyncConnection, statement: TypedReturnsRows[T]) -> T | None:
    """The statement's only row, typed as its model; None where there is none."""
    return cast("T | None", (await tx.execute(statement)).one_or_none())


async def fetch_all(tx: AsyncConnection, statement: TypedReturnsRows[T]) -> Sequence[T]:
    """The statement's rows, typed as their model."""
    return cast("Sequence[T]", (await tx.execute(statement)).all())


async def lock_vm(tx: AsyncConnection, vm_id: UUID) -> VM | None:
    """The VM's row, which stays as it is until the transaction ends."""
    return await fetch_one(tx, select(VM).where(VM.id == vm_id).with_for_update())


async def claim_vm(tx: AsyncConnection, vm: VM, action: Action, operation_id: UUID) -> VM:
    """Let an operation take a locked VM; InvalidTransitionError where the table refuses.

    An action that pre-empts closes every open operation of the VM as SUPERSEDED.
    """
    claim = lifecycle.begin(action, vm.status, vm.task_state, launched=vm.launched_at is not None)
    if lifecycle.TABLE[action].preempts:
        await _supersede(tx, vm.id, by=action)
    values: dict[str, Any] = {
        "status": claim.status,
        "task_state": claim.task_state,
        "operation_id": operation_id,
        "fault": vm.fault if claim.status is Status.ERROR else None,
    }
    return await _update_vm(tx, vm.id, values)


async def _supersede(tx: AsyncConnection, vm_id: UUID, by: Action) -> None:
    error = {"code": SupersededError.code, "message": f"A {by.word} of the VM took over."}
    await tx.execute(
        update(Operation)
        .where(Operation.vm_id == vm_id, Operation.status.in_(OPEN_STATUSES))
        .values(status=OperationStatus.SUPERSEDED, error=error, next_retry_at=None, finished_at=func.now())
    )


async def insert_row(tx: AsyncConnection, model: type[T], **values: Any) -> T:
    """Insert one row and return it with what the database filled in."""
    return cast("T", (await tx.execute(insert(model).values(**values).returning(model))).one())


async def enter_step(tx: AsyncConnection, input: OperationInput, step: TaskState, attempt: int) -> tuple[VM, Operation]:
    """Record that the operation is in `step`; the fence before every effect.

    SupersededError unless the operation is open, its epoch is this one, it holds its VM, and the VM is in the step
    before or already in this one. The first step entered is the operation's receipt.
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
    operation = await _update_operation(
        tx,
        input,
        status=OperationStatus.RUNNING,
        started_at=func.coalesce(Operation.started_at, func.now()),
        step=step,
        progress=lifecycle.progress(input.action, step),
        attempt=attempt,
        last_error=None,
        next_retry_at=None,
    )
    return vm, operation


async def note_failed_attempt(
    tx: AsyncConnection, input: OperationInput, attempt: int, error: str, retry_in: float
) -> None:
    """Show on the operation why its attempt failed and that the next comes in `retry_in` seconds."""
    await tx.execute(
        update(Operation)
        .where(*_still_open(input))
        .values(attempt=attempt, last_error=error, next_retry_at=_from_now(retry_in))
    )


async def check_holds(tx: AsyncConnection, input: OperationInput) -> tuple[VM, Operation]:
    """SupersededError unless the operation is open, of this epoch, and holds its VM, which is locked."""
    vm, operation = await _load(tx, input)
    _refuse_unless_held(vm, operation)
    return vm, operation


async def finish(tx: AsyncConnection, input: OperationInput) -> None:
    """End the operation well and put its VM where the table says; once, however often it is asked."""
    vm, operation = await _load(tx, input)
    if operation.status is OperationStatus.SUCCEEDED:
        return
    _refuse_unless_held(vm, operation)
    status = lifecycle.finish(input.action, vm.task_state, operation.previous_status)
    values: dict[str, Any] = {"status": status, "task_state": None, "fault": None}
    if input.action is Action.CREATE:
        values["launched_at"] = func.now()
    await _update_vm(tx, vm.id, values)
    await _update_operation(
        tx,
        input,
        status=OperationStatus.SUCCEEDED,
        progress=100,
        last_error=None,
        next_retry_at=None,
        finished_at=func.now(),
    )


async def fail(tx: AsyncConnection, failure: FailOperationInput) -> None:
    """End the operation with an error and leave its VM as the table says; once, however often it is asked."""
    input = failure.operation
    ended = OperationStatus.CANCELED if failure.canceled else OperationStatus.FAILED
    vm, operation = await _load(tx, input)
    if operation.status is ended:
        return
    _refuse_unless_held(vm, operation)
    error = {"code": failure.code, "message": failure.message}
    status = lifecycle.fail(input.action, operation.previous_status, intact=failure.intact)
    fault = (vm.fault or error) if status is Status.ERROR else None
    await _update_vm(tx, vm.id, {"status": status, "task_state": None, "fault": fault})
    await _update_operation(tx, input, status=ended, error=error, next_retry_at=None, finished_at=func.now())


async def lease_operations(tx: AsyncConnection, limit: int, lease: float) -> Sequence[Operation]:
    """Take up to `limit` operations that want delivery, longest waiting first, for `lease` seconds.

    No two callers get the same one; a caller that dies loses its lease to the next.
    """
    wanting = (
        select(Operation.id)
        .where(
            Operation.status == OperationStatus.QUEUED,
            Operation.started_at.is_(None),
            Operation.deliver_after <= func.now(),
        )
        .order_by(Operation.deliver_after)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("wanting")
    )
    leased = update(Operation).where(Operation.id.in_(select(wanting.c.id))).values(deliver_after=_from_now(lease))
    return await fetch_all(tx, leased.returning(Operation))


async def note_delivered(tx: AsyncConnection, operation_ids: Sequence[UUID], receipt_within: float) -> None:
    """Count a delivery; one whose receipt does not come is delivered again, after twice as long each time."""
    seconds = receipt_within * func.power(2, func.least(Operation.deliveries, 6))
    backoff = func.make_interval(0, 0, 0, 0, 0, 0, seconds, type_=Interval)
    await tx.execute(
        update(Operation)
        .where(Operation.id.in_(_unlocked(operation_ids)))
        .values(deliveries=Operation.deliveries + 1, deliver_after=func.now() + backoff)
    )


async def note_undelivered(tx: AsyncConnection, operation_ids: Sequence[UUID], retry_in: float) -> None:
    """Give a lease back, for the next attempt in `retry_in` seconds."""
    await tx.execute(
        update(Operation).where(Operation.id.in_(_unlocked(operation_ids))).values(deliver_after=_from_now(retry_in))
    )


def _unlocked(operation_ids: Sequence[UUID]) -> Select[UUID]:
    """Those that nobody else is writing to: waiting for several rows could deadlock, and a lease ends by itself."""
    chosen = select(Operation.id).where(Operation.id.in_(operation_ids)).with_for_update(skip_locked=True).cte("chosen")
    return select(chosen.c.id)


async def _load(tx: AsyncConnection, input: OperationInput) -> tuple[VM, Operation]:
    vm = await lock_vm(tx, input.vm_id)
    operation = await fetch_one(tx, select(Operation).where(Operation.id == input.operation_id))
    if vm is None or operation is None or operation.epoch != input.epoch:
        raise SupersededError(f"Operation {input.operation_id} is not this workflow's to record.")
    return vm, operation


def _refuse_unless_held(vm: VM, operation: Operation) -> None:
    if operation.status not in OPEN_STATUSES or vm.operation_id != operation.id:
        raise SupersededError(f"Operation {operation.id} is {operation.status}.")


def _still_open(input: OperationInput) -> tuple[ColumnElement[bool], ...]:
    return (
        Operation.id == input.operation_id,
        Operation.epoch == input.epoch,
        Operation.status.in_(OPEN_STATUSES),
    )


async def _update_vm(tx: AsyncConnection, vm_id: UUID, values: dict[str, Any]) -> VM:
    return cast("VM", (await tx.execute(update(VM).where(VM.id == vm_id).values(values).returning(VM))).one())


async def _update_operation(tx: AsyncConnection, input: OperationInput, **values: Any) -> Operation:
    changed = update(Operation).where(*_still_open(input)).values(values).returning(Operation)
    operation = await fetch_one(tx, changed)
    if operation is None:
        raise SupersededError(f"Operation {input.operation_id} has ended.")
    return operation


def _from_now(seconds: float) -> ColumnElement[datetime]:
    return func.now() + timedelta(seconds=seconds)
