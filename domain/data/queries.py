"""Reading and writing typed rows on Core connections: a fetched row has its model's attributes and is read-only."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar, cast
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, Select, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import TypedReturnsRows

from domain.data import outages
from domain.data.models import VM, Operation
from domain.rules.resources import Kind
from domain.rules.states import Action

T = TypeVar("T")


async def fetch_one(tx: AsyncConnection, statement: TypedReturnsRows[T]) -> T | None:
    """The statement's only row, typed as its model; None if there is none."""
    return cast("T | None", (await tx.execute(statement)).one_or_none())


async def fetch_all(tx: AsyncConnection, statement: TypedReturnsRows[T]) -> Sequence[T]:
    """The statement's rows, typed as their model."""
    return cast("Sequence[T]", (await tx.execute(statement)).all())


async def lock_vm(tx: AsyncConnection, vm_id: UUID | ScalarSelect[UUID]) -> VM | None:
    """Lock the VM's row until the transaction ends and return it; None if there is no such VM."""
    return await fetch_one(tx, select(VM).where(VM.id == vm_id).with_for_update())


async def try_long_lock(tx: AsyncConnection, number: int) -> bool:
    """Take an advisory lock until the transaction ends, which may be long after; False if somebody else has it.

    A lock of the session would last without a transaction, but behind PgBouncer a session has many connections.
    """
    is_taken = await tx.scalar(select(func.pg_try_advisory_xact_lock(number)))
    # The server keeps the snapshot of a query until the next statement. It would hold back VACUUM, and CREATE INDEX
    # CONCURRENTLY would wait for it. SET needs no snapshot. It also keeps the server from ending the idle transaction.
    await tx.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    return bool(is_taken)


async def insert_row(tx: AsyncConnection, model: type[T], **values: Any) -> T:
    """Insert one row and return it with what the database filled in."""
    return cast("T", (await tx.execute(insert(model).values(**values).returning(model))).one())


async def update_vm(tx: AsyncConnection, vm_id: UUID, values: dict[str, Any]) -> VM:
    """Change a VM's row and return it."""
    return cast("VM", (await tx.execute(update(VM).where(VM.id == vm_id).values(values).returning(VM))).one())


async def note_vm_changed(tx: AsyncConnection, vm_id: UUID | None) -> None:
    """Note that what a client sees of a VM changes, although none of its columns does: an interface or attachment."""
    # `onupdate` writes `updated_at`, and a trigger `changed`. The VM's row is locked before the other (see models.py).
    await tx.execute(update(VM).where(VM.id == vm_id).values(attaching=VM.attaching))


def violated_constraint(error: IntegrityError) -> str | None:
    """The name of the constraint or unique index that the statement violated; None for a NOT NULL."""
    # A field of PostgreSQL's error, because its text is for people and in the server's language.
    name: str | None = getattr(outages.original(error), "constraint_name", None)
    return name


HAS_BEGUN: Final = Operation.started_at.is_not(None)
"""Whether an operation has begun, as an SQL condition: its first step was recorded, so the cloud may have changed."""


def snapshots_without_image(*of_operations: ColumnElement[bool]) -> Select[tuple[UUID]]:
    """Select the ids of complete snapshots whose images the cloud had no longer, which may come back.

    By the latest operation on each that has begun, among the operations with these conditions.
    """
    is_on_snapshot = (Operation.resource_type == Kind.SNAPSHOT, HAS_BEGUN)
    query = select(Operation.resource_id, Operation.action).where(*is_on_snapshot, *of_operations)
    ordered = query.order_by(Operation.resource_id, Operation.created_at.desc())
    latest = ordered.ext(distinct_on(Operation.resource_id)).subquery()
    return select(latest.c.resource_id).where(latest.c.action == Action.RESET_STATE)


def from_now(seconds: float) -> ColumnElement[datetime]:
    """The database's time in `seconds` from now."""
    return func.now() + timedelta(seconds=seconds)


def has_begun(operation: Operation) -> bool:
    """Whether the operation has begun: its first step was recorded, so the cloud may have changed."""
    return operation.started_at is not None


async def get_operation(tx: AsyncConnection, operation_id: UUID) -> Operation:
    """The operation, which must exist: housekeeping deletes none that is open or that a row names."""
    return cast("Operation", (await tx.execute(select(Operation).where(Operation.id == operation_id))).one())
