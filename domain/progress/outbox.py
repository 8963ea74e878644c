"""The statements by which accepted operations are taken to Temporal, and looked after there.

The operation's row is the outbox: `deliver_after` is the time of its next delivery or, once delivered, next look.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import CTE, Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.models import LOOKED_AFTER, Operation
from domain.data.queries import fetch_all, fetch_one, from_now, lock_vm, update_vm
from domain.progress.fair_queue import next_in_turn
from domain.rules.messages import own_workflow_id
from domain.rules.states import OPEN_STATUSES, OperationStatus
from domain.rules.table import TABLE


async def lease_operations(tx: AsyncConnection, limit: int, lease: float) -> Sequence[Operation]:
    """Take up to `limit` operations that want delivery, each owner's in turn (`turns`), for `lease` seconds.

    No two callers get the same one; a caller that dies loses its lease to the next.
    """
    return await _lease(tx, next_in_turn(limit), lease)


async def lease_looks(tx: AsyncConnection, limit: int, pause: float) -> Sequence[Operation]:
    """Take up to `limit` operations whose workflows want a look; the next is due in `pause` seconds."""
    due = (
        select(Operation.id)
        .where(LOOKED_AFTER, Operation.deliver_after <= func.now())
        .order_by(Operation.deliver_after)
    )
    return await _lease(tx, due.limit(limit).with_for_update(skip_locked=True).cte("taken"), pause)


async def _lease(tx: AsyncConnection, taken: CTE, seconds: float) -> Sequence[Operation]:
    leased = update(Operation).where(Operation.id.in_(select(taken.c.id))).values(deliver_after=from_now(seconds))
    return await fetch_all(tx, leased.returning(Operation))


async def note_delivered(tx: AsyncConnection, operation_ids: Sequence[UUID], look_in: float) -> None:
    """Count a delivery; whether it was heeded is looked at in `look_in` seconds."""
    await tx.execute(
        update(Operation)
        .where(Operation.id.in_(_unlocked(operation_ids)))
        .values(deliveries=Operation.deliveries + 1, delivered_at=func.now(), deliver_after=from_now(look_in))
    )


async def note_undelivered(tx: AsyncConnection, operation_ids: Sequence[UUID], retry_in: float) -> None:
    """Give a lease back, for the next attempt in `retry_in` seconds."""
    await tx.execute(
        update(Operation).where(Operation.id.in_(_unlocked(operation_ids))).values(deliver_after=from_now(retry_in))
    )


async def reroute(tx: AsyncConnection, operation: Operation) -> Operation | None:
    """Give an operation whose receipt has not come a workflow of its own; None where it needs none any more."""
    wanting = (Operation.id == operation.id, Operation.status == OperationStatus.QUEUED)
    rerouted = update(Operation).where(*wanting).values(workflow_id=workflow_of(operation)).returning(Operation)
    return await fetch_one(tx, rerouted)


async def deliver_again(tx: AsyncConnection, operation: Operation) -> None:
    """Deliver an operation whose delivery may have been lost, unless its receipt has come meanwhile."""
    wanting = (Operation.id == operation.id, Operation.status == OperationStatus.QUEUED)
    await tx.execute(update(Operation).where(*wanting).values(deliveries=0, deliver_after=func.now()))


async def restart(tx: AsyncConnection, operation: Operation, interruption: str | None = None) -> bool:
    """Have a new workflow carry out an operation whose own is gone, from its first step on; whether it needs one.

    What is done already is not done again, as the cloud knows its tokens. With an `interruption` the new workflow only
    undoes, or sees, what the operation has done, and ends it with that code.
    """
    vm = await lock_vm(tx, operation.vm_id) if operation.vm_id else None
    same = (Operation.id == operation.id, Operation.epoch == operation.epoch, Operation.status.in_(OPEN_STATUSES))
    values: dict[str, Any] = {
        "status": OperationStatus.QUEUED,
        "epoch": operation.epoch + 1,
        "workflow_id": workflow_of(operation, operation.epoch + 1),
        "interruption": interruption,
        "deliveries": 0,
        "deliver_after": func.now(),
    }
    if await fetch_one(tx, update(Operation).where(*same).values(values).returning(Operation)) is None:
        return False
    steps = TABLE[operation.action].steps
    if steps and not interruption and vm is not None and vm.operation_id == operation.id:
        await update_vm(tx, vm.id, {"task_state": steps[0]})
    return True


def workflow_of(operation: Operation, epoch: int | None = None) -> str:
    """The id of the workflow that is started for the operation alone, if one is."""
    of = operation.vm_id or operation.resource_id
    return own_workflow_id(operation.action, of, operation.id, operation.epoch if epoch is None else epoch)


def _unlocked(operation_ids: Sequence[UUID]) -> Select[UUID]:
    """Those that nobody else is writing to: waiting for several rows could deadlock, and a lease ends by itself."""
    chosen = select(Operation.id).where(Operation.id.in_(operation_ids)).with_for_update(skip_locked=True).cte("chosen")
    return select(chosen.c.id)
