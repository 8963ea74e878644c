"""Asks the database about the operations that wait in this worker, with one statement for all of them.

A cancel from Temporal reaches an activity only in the answer to a heartbeat. Waits send few heartbeats, because a
worker may have thousands of waits. The database knows sooner that an operation was superseded by a delete, ended by a
reset, restarted by workflow recovery, or that its cancel was requested.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import UUID

from sqlalchemy import ARRAY, Integer, Row, Text, Uuid, cast, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from domain.data import database, outages
from domain.data.models import Operation
from domain.rules.errors import CanceledError, ServiceError, SupersededError
from domain.rules.messages import OperationInput
from domain.rules.states import OPEN_STATUSES

CHECK_INTERVAL: Final = 1.0  # seconds; polls may be more frequent
CHECK_TIMEOUT: Final = 2.0  # seconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiter:
    """A wait for an operation. One that observes what a failure has left goes on after a request to cancel."""

    operation_id: UUID
    epoch: int
    may_be_canceled: bool = True

    @classmethod
    def of(cls, operation: OperationInput, *, may_be_canceled: bool = True) -> Self:
        """Return the waiter of an operation."""
        return cls(operation.operation_id, operation.epoch, may_be_canceled)


class WaitingOperations:
    """Checks the operations of one poll, at most once per CHECK_INTERVAL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = database.autocommit(engine)
        self._due_at = 0.0

    async def refusals(
        self, waiters: Collection[Waiter], reasons: Mapping[Waiter, str | None]
    ) -> Mapping[Waiter, ServiceError]:
        """Return why waiters should stop, by waiter.

        The cloud has answered, so its reasons for what takes long, or none, replace the errors of earlier polls.
        Returns nothing before the next check is due, or if the database does not answer: the next poll asks again.
        """
        now = asyncio.get_running_loop().time()
        if now < self._due_at:
            return {}
        self._due_at = now + CHECK_INTERVAL
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                stopped = await self._check(waiters, reasons)
        except (SQLAlchemyError, *outages.UNREACHABLE) as error:
            if outages.is_outage(error):
                outages.log.failed(error)
            else:
                logger.warning("Could not check the operations that wait: %s", outages.describe(error))
            return {}
        found = {waiter: _refusal(waiter, stopped.get(waiter.operation_id)) for waiter in waiters}
        return {waiter: refusal for waiter, refusal in found.items() if refusal}

    async def _check(
        self, waiters: Collection[Waiter], reasons: Mapping[Waiter, str | None]
    ) -> Mapping[UUID, Row[*tuple[Any, ...]]]:
        """Replace the last errors, and return the operations that have ended, have a new epoch, or are canceled."""
        ids = cast([waiter.operation_id for waiter in waiters], ARRAY(Uuid))
        epochs = cast([waiter.epoch for waiter in waiters], ARRAY(Integer))
        texts = cast([reasons.get(waiter) for waiter in waiters], ARRAY(Text))
        waiting = func.unnest(ids, epochs, texts).table_valued("id", "epoch", "reason").render_derived()
        is_stopped = or_(
            Operation.epoch != waiting.c.epoch,
            Operation.status.not_in(OPEN_STATUSES),
            Operation.cancel_requested_by.is_not(None),
        )
        stopped = select(Operation.id, Operation.epoch, Operation.status, Operation.cancel_requested_by).join(
            waiting, waiting.c.id == Operation.id
        )
        is_new = Operation.last_error.is_distinct_from(waiting.c.reason)
        changed = (Operation.id == waiting.c.id, is_new, Operation.status.in_(OPEN_STATUSES))
        note = update(Operation).where(*changed).values(last_error=waiting.c.reason, next_retry_at=None)
        async with self._engine.connect() as connection:
            await connection.execute(note)
            return {row.id: row for row in await connection.execute(stopped.where(is_stopped))}


def _refusal(waiter: Waiter, operation: Row[*tuple[Any, ...]] | None) -> ServiceError | None:
    if operation is None:
        return None
    if operation.epoch != waiter.epoch or operation.status not in OPEN_STATUSES:
        return SupersededError(f"Operation {operation.id} has ended, or another workflow carries it out.")
    return CanceledError(operation.cancel_requested_by) if waiter.may_be_canceled else None
