"""The statements that lease accepted operations: for delivery to Temporal, and later for checks of their workflows.

An operation's row is its own outbox entry. One column, `deliver_after`, says when the row is due: for its delivery or,
once delivered, for a check of its workflow. A lease, a retry and a delivery all move it forward, so that a process that
dies leaves nothing to clean up: its rows are due again when the time has come (ADR 005).
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import CTE, ColumnElement, Select, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.models import IN_TEMPORAL, Operation
from domain.data.queries import fetch_all, fetch_one, from_now, lock_vm, update_vm
from domain.progress.fair_queue import next_operations
from domain.rules.messages import own_workflow_id
from domain.rules.states import OPEN_STATUSES, OperationStatus
from domain.rules.table import TABLE

_FRESH_PLANS: Final = text("SET LOCAL plan_cache_mode = force_custom_plan")
MIN_PAUSE: Final = timedelta(seconds=30)  # from a delivery of a decision to the next one in the same run


async def lease_operations(tx: AsyncConnection, limit: int, seconds: float) -> Sequence[Operation]:
    """Lease up to `limit` operations for delivery, round-robin by user; no two callers get the same one."""
    # PostgreSQL would keep a plan that it made while nothing waited. For thousands that wait it takes seconds.
    await tx.execute(_FRESH_PLANS)
    return await _lease(tx, next_operations(limit), seconds)


async def lease_checks(tx: AsyncConnection, limit: int, seconds: float) -> Sequence[Operation]:
    """Lease up to `limit` operations whose workflows are due for a check; they are due again in `seconds`."""
    # SKIP LOCKED: several processes do this at the same time, and each should take other rows instead of waiting.
    due = (
        select(Operation.id)
        .where(IN_TEMPORAL, Operation.deliver_after <= func.now())
        .order_by(Operation.deliver_after)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return await _lease(tx, due.cte("due"), seconds)


async def _lease(tx: AsyncConnection, ids: CTE, seconds: float) -> Sequence[Operation]:
    leased = update(Operation).where(Operation.id.in_(select(ids.c.id))).values(deliver_after=from_now(seconds))
    return await fetch_all(tx, leased.returning(Operation))


async def note_delivered(tx: AsyncConnection, operation_ids: Sequence[UUID], check_in: float) -> None:
    """Count a delivery of each operation; its workflow is checked in `check_in` seconds."""
    await tx.execute(
        update(Operation)
        .where(Operation.id.in_(_lock_available(operation_ids)))
        .values(deliveries=Operation.deliveries + 1, delivered_at=func.now(), deliver_after=from_now(check_in))
    )


async def note_undelivered(tx: AsyncConnection, operation_ids: Sequence[UUID], retry_in: float) -> None:
    """Give back the lease of each operation; its next delivery is due in `retry_in` seconds."""
    await tx.execute(
        update(Operation)
        .where(Operation.id.in_(_lock_available(operation_ids)))
        .values(deliver_after=from_now(retry_in))
    )


def _lock_available(operation_ids: Sequence[UUID]) -> Select[UUID]:
    """Lock the operations that no other transaction has locked, and return a query for their ids."""
    # Waiting for locks on several rows could deadlock with another process that holds some of them. A row that is
    # skipped is due again when its lease ends, and a second delivery is harmless because workflow ids are unique.
    available = select(Operation.id).where(Operation.id.in_(operation_ids)).with_for_update(skip_locked=True)
    locked = available.cte("locked")
    return select(locked.c.id)


async def give_own_workflow(tx: AsyncConnection, operation: Operation) -> Operation | None:
    """Give a decision its own workflow id in place of that of the resize; None if it is no longer queued."""
    queued = (Operation.id == operation.id, Operation.status == OperationStatus.QUEUED)
    changed = update(Operation).where(*queued).values(workflow_id=workflow_of(operation))
    return await fetch_one(tx, changed.returning(Operation))


async def deliver_again(tx: AsyncConnection, decision: Operation, run_id: str | None = None) -> bool:
    """Make a decision due for delivery again, unless a worker has begun it meanwhile or it is too early for that.

    `run_id` is the open run of the waiting workflow; if there is none (None), it is not too early.
    """
    queued = [Operation.id == decision.id, Operation.status == OperationStatus.QUEUED]
    values: dict[str, Any] = {"deliveries": 0, "deliver_after": func.now()}
    if run_id is not None:
        queued.append(_may_be_forgotten(run_id))
        values["signaled_run"] = run_id
    return await fetch_one(tx, update(Operation).where(*queued).values(values).returning(Operation)) is not None


async def is_signal_due(tx: AsyncConnection, decision: Operation, run_id: str) -> bool:
    """Whether it is time to repeat the signal of a decision that has begun to this run of the waiting workflow."""
    due = select(Operation.id).where(Operation.id == decision.id, _may_be_forgotten(run_id))
    return await tx.scalar(due) is not None


def _may_be_forgotten(run_id: str) -> ColumnElement[bool]:
    """Whether the signal of a decision should be sent again.

    It should if another run of the waiting workflow, `run_id`, has begun since, as after a reset. It should also if
    the decision has waited as long since its last delivery as before it, so that the pauses double: a Temporal that was
    restored from a backup has forgotten signals, but its runs have the same ids.
    """
    delivered_at = func.coalesce(Operation.delivered_at, Operation.created_at)
    pause = func.greatest(delivered_at - Operation.created_at, MIN_PAUSE)
    return or_(Operation.signaled_run.is_distinct_from(run_id), delivered_at + pause <= func.now())


async def note_signaled(tx: AsyncConnection, decision: Operation, run_id: str) -> None:
    """Record that this run of the waiting workflow has got the signal of the decision again."""
    values = {"signaled_run": run_id, "deliveries": Operation.deliveries + 1, "delivered_at": func.now()}
    await tx.execute(update(Operation).where(Operation.id == decision.id).values(values))


async def restart(tx: AsyncConnection, operation: Operation, interruption: str | None = None) -> bool:
    """Queue an operation for a new workflow, because its own is gone; False if it has ended or is restarted already.

    The new workflow runs all steps again. Those that are done change nothing, because the cloud recognizes their
    tokens. With an `interruption` it runs no step: it undoes the operation or observes its effect, and ends it with
    that code.
    """
    # The VM comes first in the lock order (see domain/data/models.py), although it is written last.
    vm = await lock_vm(tx, operation.vm_id) if operation.vm_id else None
    # Two processes may find the workflow gone. The condition on the epoch lets only one of them restart the operation.
    unchanged = (Operation.id == operation.id, Operation.epoch == operation.epoch, Operation.status.in_(OPEN_STATUSES))
    values: dict[str, Any] = {
        "status": OperationStatus.QUEUED,
        "epoch": operation.epoch + 1,
        "workflow_id": workflow_of(operation, operation.epoch + 1),
        "interruption": interruption,
        "deliveries": 0,
        "deliver_after": func.now(),
    }
    if await fetch_one(tx, update(Operation).where(*unchanged).values(values).returning(Operation)) is None:
        return False
    steps = TABLE[operation.action].steps
    if steps and not interruption and vm is not None and vm.operation_id == operation.id:
        # A step can be entered only from the step before it, so the new workflow needs the first task state.
        await update_vm(tx, vm.id, {"task_state": steps[0]})
    return True


def workflow_of(operation: Operation, epoch: int | None = None) -> str:
    """The id of the operation's own workflow. A decision is first delivered to its resize's workflow instead."""
    resource_id = operation.vm_id or operation.resource_id
    return own_workflow_id(operation.action, resource_id, operation.id, operation.epoch if epoch is None else epoch)
