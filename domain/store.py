"""Only the statements that carry a rule.

Statements run on Core connections: a fetched row has its model's attributes and is read-only. Rows are locked in
the order VM, operation, so that a delete and a workflow's record never wait for each other in a circle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Interval, Select, extract, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import TypedReturnsRows

from domain import lifecycle
from domain.errors import SupersededError
from domain.lifecycle import OPEN_STATUSES, TABLE, Action, OperationStatus, Status, TaskState
from domain.messages import FailOperationInput, OperationInput
from domain.models import VM, Operation

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """A new operation: what is asked of a VM, by whom, in which request; `input` is kept with it."""

    action: Action
    actor: str
    request_id: str
    input: dict[str, Any] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid4)


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
    if TABLE[action].preempts:
        await _supersede(tx, vm.id, by=action)
    values: dict[str, Any] = {
        "status": claim.status,
        "task_state": claim.task_state,
        "operation_id": operation_id,
        "fault": vm.fault if claim.status is Status.ERROR else None,
        "confirm_by": None,
    }
    return await _update_vm(tx, vm.id, values)


async def accept(tx: AsyncConnection, vm: VM, asked: Asked, deliver_in: float = 0.0) -> VM:
    """Let a new operation take a locked VM and write it down; it is delivered after `deliver_in` seconds.

    What ends a resize goes to the workflow of the resize, and returns to the status before that.
    InvalidTransitionError where the table refuses.
    """
    claimed = await claim_vm(tx, vm, asked.action, asked.id)
    row = operation_row(asked, vm.owner_id, vm.id, vm.status)
    if TABLE[asked.action].signal:
        row |= await _of_resize(tx, vm.id, asked.action)
    # The lock decides who is first, not whose transaction began first, so that now() would tell it wrongly.
    row |= {"created_at": func.clock_timestamp(), "deliver_after": _from_now(deliver_in)}
    await tx.execute(insert(Operation).values(row))
    return claimed


def operation_row(asked: Asked, owner_id: UUID, vm_id: UUID, previous_status: Status) -> dict[str, Any]:
    """The columns of a new operation."""
    return {
        "id": asked.id,
        "owner_id": owner_id,
        "actor": asked.actor,
        "action": asked.action,
        "resource_type": "vm",
        "resource_id": vm_id,
        "vm_id": vm_id,
        "input": asked.input,
        "previous_status": previous_status,
        "workflow_id": own_workflow_id(asked.action, vm_id, asked.id),
        "request_id": asked.request_id,
    }


def own_workflow_id(action: Action, vm_id: UUID, operation_id: UUID) -> str:
    """The id of a workflow that is started for one operation."""
    return f"{action.word}-{vm_id}-{operation_id}"


def last_resize(vm_id: UUID) -> Select[Operation]:
    """The VM's latest resize that succeeded: the one that waits to be decided, where one does."""
    resizes = select(Operation).where(Operation.vm_id == vm_id, Operation.action == Action.RESIZE)
    latest = resizes.where(Operation.status == OperationStatus.SUCCEEDED).order_by(Operation.created_at.desc())
    return latest.limit(1)


async def _of_resize(tx: AsyncConnection, vm_id: UUID, action: Action) -> dict[str, Any]:
    resize = await fetch_one(tx, last_resize(vm_id))
    assert resize is not None  # noqa: S101 - only a resize leaves a VM in VERIFY_RESIZE
    kept = "previous_flavor" if action is Action.REVERT_RESIZE else "flavor"
    return {
        "previous_status": resize.previous_status,
        "workflow_id": resize.workflow_id,
        "input": {"flavor_id": resize.input[f"{kept}_id"], "flavor": resize.input[kept]},
    }


def input_of(operation: Operation, vm_name: str) -> OperationInput:
    """What the operation's workflow is given."""
    flavor, before = operation.input.get("flavor"), operation.input.get("previous_flavor")
    about = {
        Action.RESIZE: f"from {before} to {flavor}",
        Action.CONFIRM_RESIZE: f"to {flavor}",
        Action.REVERT_RESIZE: f"back to {flavor}",
    }
    return OperationInput(
        operation.id,
        operation.vm_id,
        operation.action,
        operation.epoch,
        operation.previous_status,
        vm_name,
        operation.actor,
        about.get(operation.action, ""),
    )


async def _supersede(tx: AsyncConnection, vm_id: UUID, by: Action) -> None:
    error = {"code": SupersededError.code, "message": f"A {by.word} of the VM took over."}
    await tx.execute(
        update(Operation)
        .where(Operation.vm_id == vm_id, Operation.status.in_(OPEN_STATUSES))
        .values(
            status=OperationStatus.SUPERSEDED,
            error=error,
            next_retry_at=None,
            finished_at=func.clock_timestamp(),
        )
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
    await _update_vm(tx, vm.id, values | _brought_about(operation))
    await _update_operation(
        tx,
        input,
        status=OperationStatus.SUCCEEDED,
        progress=100,
        last_error=None,
        next_retry_at=None,
        finished_at=func.now(),
    )


def _brought_about(operation: Operation) -> dict[str, Any]:
    """What a VM shows beyond its state once the operation has succeeded."""
    match operation.action:
        case Action.CREATE:
            return {"launched_at": func.now()}
        case Action.RESIZE:
            window = operation.input["confirm_window"]
            confirm_by = _from_now(window) if window else None
            return {"flavor_id": UUID(operation.input["flavor_id"]), "confirm_by": confirm_by}
        case Action.REVERT_RESIZE:
            return {"flavor_id": UUID(operation.input["flavor_id"])}
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


async def reroute(tx: AsyncConnection, operation: Operation) -> Operation | None:
    """Give an operation whose receipt has not come a workflow of its own; None where it needs none any more."""
    wanting = (
        Operation.id == operation.id,
        Operation.status == OperationStatus.QUEUED,
        Operation.started_at.is_(None),
    )
    own = own_workflow_id(operation.action, operation.vm_id, operation.id)
    rerouted = update(Operation).where(*wanting).values(workflow_id=own).returning(Operation)
    return await fetch_one(tx, rerouted)


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
