"""Request the cancel of an operation before its point of no return."""

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import Accepted, Requester, check_may
from domain.data.models import Operation
from domain.data.queries import fetch_one, has_begun
from domain.rules.access import Verb
from domain.rules.errors import NotFoundError, TooLateError
from domain.rules.states import OPEN_STATUSES
from domain.rules.table import TABLE


async def cancel_operation(tx: AsyncConnection, requester: Requester, operation_id: UUID) -> Accepted[Operation]:
    """Request that an operation ends before its next step; a second request changes nothing.

    TooLateError if it has ended, or has begun something that cannot be undone. Every step checks for the request when
    it begins. Workflow recovery also cancels the workflow, in case it is waiting.
    """
    # A step that begins updates the same row, so the lock puts this request before or after it: either the step finds
    # the request, or `has_begun` sees the step.
    operation = await fetch_one(tx, select(Operation).where(Operation.id == operation_id).with_for_update())
    if operation is None:
        raise NotFoundError("operation", operation_id)
    await check_may(tx, requester, Verb.CHANGE, operation.owner_id, "operation", operation_id)
    if operation.status not in OPEN_STATUSES:
        raise TooLateError(f"The operation has ended: {operation.status}.")
    if not operation.cancel_requested_by:
        _check_in_time(operation)
        request = {
            "cancel_requested_at": func.now(),
            "cancel_requested_by": requester.username,
            # The next delivery or check is due now. An earlier time is kept, because rows are taken in that order.
            "deliver_after": func.least(Operation.deliver_after, func.now()),
        }
        await tx.execute(update(Operation).where(Operation.id == operation_id).values(request))
    return Accepted(operation, operation_id)


def _check_in_time(operation: Operation) -> None:
    rule = TABLE[operation.action]
    if not rule.may_be_canceled(begun=has_begun(operation)):
        reason = "cannot be canceled" if rule.preempts else "that has begun cannot be undone"
        raise TooLateError(f"A {operation.action.word} {reason}. Wait for it to end.")
