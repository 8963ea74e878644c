"""Which old rows may go, and the statements that delete them in batches.

An operation stays as long as something needs it: a row names it in `operation_id`, a retry names it, or it belongs to a
resize whose decision a workflow may still wait for. A DELETED VM goes with its deletes (the last one names those that
failed before it in `retry_of`), after all its other operations and its snapshots. What the catalogue keeps although
the cloud no longer offers it goes last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Integer, Select, TextClause, and_, delete, exists, func, or_, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute, aliased

from domain.data.accounts import IdempotencyKey, ProgramToken, RefreshToken
from domain.data.base import Base
from domain.data.cloud import Finding
from domain.data.guests import ConsoleAnswer
from domain.data.models import DELETED, VM, Attachment, Interface, Operation, Snapshot, Volume
from domain.data.projects import Project
from domain.rules.resources import Kind
from domain.rules.states import RESIZE_DECISIONS, Action, OperationStatus, Status
from domain.upkeep import withdrawn

BATCH: Final = 1_000  # rows in a statement: fast enough to hold up nobody who waits for one of them
SLOW_BATCH: Final = 10  # no index leads from a flavor or an image to VMs, so PostgreSQL reads all of them to delete one
IDEMPOTENCY_KEY_LIFETIME: Final = timedelta(hours=48)  # twice what the API promises

ENDED_TOKEN: Final = timedelta(days=30)  # so that its owner can see why a program has stopped
UNTAKEN_ANSWER: Final = timedelta(minutes=5)  # its request has gone away

_other = aliased(Operation)
_later = aliased(Operation)


@dataclass(frozen=True, slots=True)
class Expiry:
    """Rows of one table that are deleted once `since` is older than `age`.

    `indexed` is the condition of the partial index on `since`. Rows that fail one of the `conditions` stay for now.
    `is_slow`: no index helps to find out what needs a row. Then a statement passes over all that is needed at once, and
    deletes few rows. Others may refer to these rows meanwhile.
    """

    model: type[Base]
    since: InstrumentedAttribute[Any]
    age: timedelta
    indexed: TextClause | None = None
    conditions: tuple[ColumnElement[bool], ...] = ()
    is_slow: bool = False

    def candidates(self, after: Sequence[Any] | None) -> Select[*tuple[Any, ...]]:
        """The next old rows after the position `after`, with their positions; rows that are locked are left out."""
        position = (self.since, *self.model.__table__.primary_key)
        old = select(*position).where(self.since < func.now() - self.age)
        if self.indexed is not None:
            old = old.where(self.indexed)
        if after is not None:
            old = old.where(tuple_(*position) > after)
        if self.is_slow:
            old = old.where(*self.conditions)
        batch = old.order_by(*position).limit(SLOW_BATCH if self.is_slow else BATCH)
        return batch.with_for_update(skip_locked=True, key_share=self.is_slow)


def _named_by_no_row() -> list[ColumnElement[bool]]:
    """Whether no row names this operation in its `operation_id`."""
    # A volume may name an operation on another resource. All other rows only name operations of their VM.
    of_vm: list[type[Snapshot | Attachment | Interface]] = [Snapshot, Attachment, Interface]
    return [
        ~exists().where(VM.id == Operation.vm_id, VM.operation_id == Operation.id),
        ~exists().where(Volume.operation_id == Operation.id),
        *(~exists().where(model.vm_id == Operation.vm_id, model.operation_id == Operation.id) for model in of_vm),
    ]


def _awaits_a_decision() -> ColumnElement[bool]:
    """Whether the workflow of this resize may be open and wait: its VM lives, and nothing is known to have decided it.

    A reset of the VM leaves the workflow waiting. A later decision is then one on another resize.
    """
    reset_between = (
        exists()
        .where(
            _later.vm_id == Operation.vm_id,
            _is_reset_of_vm(_later),
            _later.created_at.between(Operation.created_at, _other.created_at),
        )
        .correlate(Operation, _other)
    )
    decided = exists().where(
        _other.vm_id == Operation.vm_id,
        _other.action.in_(RESIZE_DECISIONS),
        _other.status == OperationStatus.SUCCEEDED,
        _other.created_at > Operation.created_at,
        ~reset_between,
    )
    moved = Operation.status.in_((OperationStatus.SUCCEEDED, OperationStatus.SUPERSEDED))
    lives = exists().where(VM.id == Operation.vm_id, VM.status != Status.DELETED)
    return and_(Operation.action == Action.RESIZE, moved, lives, ~decided)


def _tells_about_a_resize() -> ColumnElement[bool]:
    """Whether this operation tells if an earlier resize, which is still there, was decided."""
    earlier = exists().where(
        _other.vm_id == Operation.vm_id, _other.action == Action.RESIZE, _other.created_at < Operation.created_at
    )
    return and_(or_(Operation.action.in_(RESIZE_DECISIONS), _is_reset_of_vm(Operation)), earlier)


def _is_reset_of_vm(operation: type[Operation]) -> ColumnElement[bool]:
    """Whether the operation resets its VM, and not a volume, an interface or a snapshot."""
    return and_(operation.action == Action.RESET_STATE, operation.resource_type == Kind.VM)


_UNUSED_OPERATION: Final = (
    *_named_by_no_row(),
    ~exists().where(_other.retry_of == Operation.id),
    ~_awaits_a_decision(),
    ~_tells_about_a_resize(),
)
_UNUSED_VM: Final = (
    ~exists().where(Snapshot.vm_id == VM.id),
    ~exists().where(Attachment.vm_id == VM.id),
    ~exists().where(Interface.vm_id == VM.id),
    ~exists().where(Operation.vm_id == VM.id, Operation.action != Action.DELETE),
    # A volume that outlived the VM names the delete that detached it.
    ~exists().where(Operation.vm_id == VM.id, Volume.operation_id == Operation.id),
)

_UNUSED_PROJECT: Final = tuple(
    ~exists().where(model.owner_id == Project.id) for model in (VM, Volume, Snapshot, Operation)
)


def expiries(retention_days: int) -> list[Expiry]:
    """What expires, in the order in which one table's rows free those of the next; history stays if the days are 0."""
    credentials = [
        Expiry(IdempotencyKey, IdempotencyKey.created_at, IDEMPOTENCY_KEY_LIFETIME),
        Expiry(RefreshToken, RefreshToken.expires_at, timedelta()),
        Expiry(ProgramToken, ProgramToken.expires_at, ENDED_TOKEN),
        Expiry(ConsoleAnswer, ConsoleAnswer.created_at, UNTAKEN_ANSWER),
    ]
    if not retention_days:
        return credentials
    age = timedelta(days=retention_days)
    return [
        *credentials,
        Expiry(Finding, Finding.resolved_at, age, text("resolved_at IS NOT NULL")),
        Expiry(Snapshot, Snapshot.updated_at, age, DELETED),
        Expiry(Volume, Volume.updated_at, age, DELETED, (~exists().where(Attachment.volume_id == Volume.id),)),
        Expiry(Operation, Operation.finished_at, age, text("finished_at IS NOT NULL"), _UNUSED_OPERATION),
        Expiry(VM, VM.updated_at, age, DELETED, _UNUSED_VM),
        Expiry(Project, Project.deleted_at, age, text("deleted_at IS NOT NULL"), _UNUSED_PROJECT),
        *(
            Expiry(model, model.withdrawn_at, age, None, conditions, is_slow=True)
            for model, conditions in withdrawn.UNUSED.items()
        ),
    ]


async def delete_batch(tx: AsyncConnection, expiry: Expiry, after: Sequence[Any] | None) -> Sequence[Any] | None:
    """Delete the unused rows among the next old ones, and return the position of the last one; None at the end.

    The position moves on even if rows stay. Otherwise rows that are still in use would fill every batch.
    """
    rows = (await tx.execute(expiry.candidates(after))).all()
    if not rows:
        return None
    key = tuple_(*expiry.model.__table__.primary_key)
    chosen = (key.in_([tuple(row)[1:] for row in rows]), *expiry.conditions)
    if expiry.model is VM:
        await _delete_vms(tx, chosen)
    else:
        await tx.execute(delete(expiry.model).where(*chosen))
    return tuple(rows[-1])


async def delete_old_audit_events(tx: AsyncConnection, age: timedelta) -> int:
    """Delete some of the security events that are older; returns how many. The database keeps those of 30 days."""
    # A function of the database deletes them: the role of this process may not (migration 0022).
    deleted = select(func.delete_old_audit_events(age, BATCH, type_=Integer))
    return await tx.scalar(deleted) or 0


async def _delete_vms(tx: AsyncConnection, chosen: Sequence[ColumnElement[bool]]) -> None:
    """Delete VMs and their deletes; only these are left. The VM names the last one, which may name those before it."""
    gone = delete(VM).where(*chosen).returning(VM.id).cte("gone")
    # PostgreSQL checks foreign keys at the end of the statement.
    await tx.execute(delete(Operation).where(Operation.vm_id.in_(select(gone.c.id))))
