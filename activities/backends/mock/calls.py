"""How the mock cloud is called: idempotent by token, refusing revoked ones, failing on demand or by chance."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, exists, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.backends.mock.schema import FaultMode, calls, create_schema, faults, hiccups, revocations
from activities.backends.protocol import BackendError, Token
from domain.data.database import create_engine
from domain.settings import Settings

Effect = Callable[[AsyncConnection], Awaitable[object]]


class MockCalls:
    """What every part of the mock cloud has in common."""

    poll_interval = 0.2

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine = create_engine(settings)

    async def prepare(self) -> None:
        async with self._engine.begin() as tx:
            await create_schema(tx)

    async def close(self) -> None:
        await self._engine.dispose()

    async def revoke(self, operation_id: UUID) -> None:
        async with self._engine.begin() as tx:
            await _lock_operation(tx, operation_id, "pg_advisory_xact_lock")
            await tx.execute(insert(revocations).values(operation_id=operation_id).on_conflict_do_nothing())

    async def _call(
        self, verb: str, token: Token, target: UUID, effect: Effect, *, may_be_doomed: bool = False
    ) -> None:
        fault = await self._take_fault(verb, token, target)
        if fault is FaultMode.NEVER_ANSWER:
            await asyncio.Event().wait()
        if fault is FaultMode.FAIL:
            raise BackendError("mock_transient", f"The mock cloud failed {verb}; try again.", retryable=True)
        if fault is FaultMode.REFUSE:
            raise BackendError("mock_refused", f"The mock cloud refused {verb}.", retryable=False)
        if may_be_doomed and not token.compensates and self._is_doomed(token.operation_id):
            raise BackendError("mock_error", f"The mock cloud failed {verb} (MOCK_ERROR_RATE).", retryable=False)
        try:
            async with self._engine.begin() as tx:
                await _once(tx, token, effect)
        except IntegrityError:
            message = f"The mock cloud refused {verb}: a device or an address is used already."
            raise BackendError("mock_conflict", message, retryable=False) from None
        if fault is FaultMode.FAIL_AFTER_EFFECT:
            raise BackendError("mock_lost_answer", f"The mock cloud lost the answer to {verb}.", retryable=True)

    async def _take_fault(self, verb: str, token: Token, target: UUID) -> FaultMode | None:
        async with self._engine.begin() as tx:
            matches = and_(faults.c.verb == verb, or_(faults.c.vm_id.is_(None), faults.c.vm_id == target))
            first = select(faults).where(matches).order_by(faults.c.id).limit(1).with_for_update()
            row = (await tx.execute(first)).one_or_none()
            if row is None:
                return await self._draw_transient(tx, token)
            if row.times == 1:
                await tx.execute(delete(faults).where(faults.c.id == row.id))
            elif row.times is not None:
                await tx.execute(update(faults).where(faults.c.id == row.id).values(times=row.times - 1))
            return FaultMode(row.mode)

    async def _draw_transient(self, tx: AsyncConnection, token: Token) -> FaultMode | None:
        if not _draw(f"{token.operation_id}/{token.step}", self._settings.mock_transient_rate):
            return None
        first = insert(hiccups).values(operation_id=token.operation_id, step=token.step).on_conflict_do_nothing()
        return FaultMode.FAIL if (await tx.execute(first)).rowcount else None

    def _is_doomed(self, operation_id: UUID) -> bool:
        return _draw(str(operation_id), self._settings.mock_error_rate)


async def _once(tx: AsyncConnection, token: Token, effect: Effect) -> None:
    await _lock_operation(tx, token.operation_id, "pg_advisory_xact_lock_shared")
    is_revoked = select(exists().where(revocations.c.operation_id == token.operation_id))
    if not token.compensates and await tx.scalar(is_revoked):
        raise BackendError("token_revoked", "The operation was revoked.", retryable=False)
    first = insert(calls).values(operation_id=token.operation_id, step=token.step).on_conflict_do_nothing()
    if (await tx.execute(first)).rowcount:
        await effect(tx)


async def _lock_operation(tx: AsyncConnection, operation_id: UUID, function: str) -> None:
    await tx.execute(text(f"SELECT {function}(hashtextextended(:id, 0))"), {"id": str(operation_id)})


def after(seconds: float) -> ColumnElement[object]:
    """The database's time in so many seconds."""
    return func.clock_timestamp() + timedelta(seconds=seconds)


def _draw(seed: str, probability: float) -> bool:
    """A draw that comes out the same for the same seed, so that a retry cannot change an operation's luck."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8])
    return number < probability * 2**64
