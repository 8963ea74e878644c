"""The statements by which accepted operations are taken to Temporal: the operation's row is the outbox."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Interval, Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.lifecycle import OperationStatus
from domain.models import Operation
from domain.store import fetch_all, fetch_one, from_now, own_workflow_id


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
    leased = update(Operation).where(Operation.id.in_(select(wanting.c.id))).values(deliver_after=from_now(lease))
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
        update(Operation).where(Operation.id.in_(_unlocked(operation_ids))).values(deliver_after=from_now(retry_in))
    )


async def reroute(tx: AsyncConnection, operation: Operation) -> Operation | None:
    """Give an operation whose receipt has not come a workflow of its own; None where it needs none any more."""
    wanting = (
        Operation.id == operation.id,
        Operation.status == OperationStatus.QUEUED,
        Operation.started_at.is_(None),
    )
    own = own_workflow_id(operation.action, operation.vm_id or operation.resource_id, operation.id)
    rerouted = update(Operation).where(*wanting).values(workflow_id=own).returning(Operation)
    return await fetch_one(tx, rerouted)


def _unlocked(operation_ids: Sequence[UUID]) -> Select[UUID]:
    """Those that nobody else is writing to: waiting for several rows could deadlock, and a lease ends by itself."""
    chosen = select(Operation.id).where(Operation.id.in_(operation_ids)).with_for_update(skip_locked=True).cte("chosen")
    return select(chosen.c.id)
