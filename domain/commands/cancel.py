"""Ask an operation to end before its point of no return."""

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import Accepted, Requester
from domain.data.models import Operation
from domain.data.queries import fetch_one, has_begun
from domain.rules.errors import NotFoundError, TooLateError
from domain.rules.states import OPEN_STATUSES
from domain.rules.table import TABLE


async def cancel_operation(tx: AsyncConnection, requester: Requester, operation_id: UUID) -> Accepted[Operation]:
    """Ask the requester's operation to end before its next step; a second request changes nothing.

    TooLateError where it has ended, or has begun something that cannot be undone. The fence of every step reads the
    request; the workflow recovery cancels a workflow that is waiting.
    """
    # The row's lock orders this request and the update of a step that begins: either that step finds the request, or
    # `has_begun` sees the step.
    mine = select(Operation).where(Operation.id == operation_id, Operation.owner_id == requester.user_id)
    operation = await fetch_one(tx, mine.with_for_update())
    if operation is None:
        raise NotFoundError("operation", operation_id)
    if operation.status not in OPEN_STATUSES:
        raise TooLateError(f"The operation has ended: {operation.status}.")
    if not operation.cancel_requested_by:
        _check_in_time(operation)
        request = {
            "cancel_requested_at": func.now(),
            "cancel_requested_by": requester.username,
            # The next delivery or check is due at once; one that is overdue already keeps its turn.
            "deliver_after": func.least(Operation.deliver_after, func.now()),
        }
        await tx.execute(update(Operation).where(Operation.id == operation_id).values(request))
    return Accepted(operation, operation_id)


def _check_in_time(operation: Operation) -> None:
    rule = TABLE[operation.action]
    if not rule.may_be_canceled(begun=has_begun(operation)):
        reason = "cannot be canceled" if rule.preempts else "that has begun cannot be undone"
        raise TooLateError(f"A {operation.action.word} {reason}. Wait for it to end.")
