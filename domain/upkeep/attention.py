"""The list of what needs a person's attention: open findings, resources in ERROR, operations that make no progress."""

from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Uuid, cast, func, literal, not_, null, or_, select, text, union_all
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import aliased

from domain.data.cloud import Finding
from domain.data.models import IN_ERROR, IN_TEMPORAL, UNBEGUN, UNDELIVERED, VM, Operation, Snapshot, Volume
from domain.data.projects import Project
from domain.rules.resources import Kind
from domain.rules.states import OPEN_STATUSES, OperationStatus
from domain.upkeep.findings import Drift


class Concern(StrEnum):
    """Why something needs attention, if it is not a difference between the cloud and the database."""

    VM_IN_ERROR = "vm_in_error"
    VOLUME_IN_ERROR = "volume_in_error"
    SNAPSHOT_IN_ERROR = "snapshot_in_error"
    OPERATION_RETRYING = "operation_retrying"
    OPERATION_NOT_BEGUN = "operation_not_begun"
    OPERATION_SLOW = "operation_slow"
    OPERATION_INTERRUPTED = "operation_interrupted"
    VM_HELD_BY_NOBODY = "vm_held_by_nobody"


KINDS: Final = (*Drift, *Concern)
"""All kinds of items in the list."""

NOT_BEGUN_AFTER: Final = timedelta(minutes=1)  # a worker begins a delivered operation within seconds
SLOW_AFTER: Final = timedelta(hours=1)
MANY_ATTEMPTS: Final = 5
INTERRUPTED_SHOWN_FOR: Final = timedelta(days=7)

_NO_ID: Final = cast(null(), Uuid)
_NO_DETAIL: Final = cast(null(), JSONB)
_RUNNING: Final = text("status = 'RUNNING'")
_OPEN: Final = Operation.status.in_(OPEN_STATUSES)

_newer = aliased(Operation)
# Three conditions, because for one with OR in it PostgreSQL would read all newer operations of the owner for each
# interrupted one. The first two have indexes; for the last, which is about volumes, PostgreSQL can use a hash join.
_SAME: Final = (
    _newer.resource_id == Operation.resource_id,
    _newer.action == Operation.action,
    _newer.created_at > Operation.created_at,
)
_REQUESTED_AGAIN: Final = [
    select(_newer.id).where(*conditions).exists()
    for conditions in (
        (_newer.retry_of == Operation.id,),
        (_newer.vm_id == Operation.vm_id, *_SAME),
        (_newer.vm_id.is_(None), Operation.vm_id.is_(None), *_SAME),
    )
]


def _is_deleted(model: type[VM | Volume | Snapshot], id: Any) -> ColumnElement[bool]:
    return select(model.id).where(model.id == id, model.status == "DELETED").exists()


# The members of a UNION have the same columns in the same order:
# kind, resource_type, resource_id, vm_id, owner_id, operation_id, detail, since. The first member names them.
_OPEN_FINDINGS: Final = select(
    Finding.kind,
    Finding.resource_type,
    Finding.resource_id,
    cast(Finding.seen["vm_id"].astext, Uuid).label("vm_id"),
    _NO_ID.label("owner_id"),
    _NO_ID.label("operation_id"),
    Finding.seen.label("detail"),
    Finding.found_at.label("since"),
).where(Finding.resolved_at.is_(None))


def _in_error(model: type[VM | Volume | Snapshot], kind: Kind, vm_id: Any, detail: Any) -> Select[*tuple[Any, ...]]:
    concern = Concern(f"{kind}_in_error")
    resource = (literal(concern.value), literal(kind.value), model.id, vm_id, model.owner_id)
    return select(*resource, model.operation_id, detail, model.updated_at).where(IN_ERROR)


def _operations(concern: Concern, *conditions: Any) -> Select[*tuple[Any, ...]]:
    resource = (Operation.resource_type, Operation.resource_id, Operation.vm_id, Operation.owner_id)
    last_attempt = func.jsonb_build_object("last_error", Operation.last_error, "attempt", Operation.attempt)
    detail = func.coalesce(Operation.error, last_attempt)
    since = func.coalesce(Operation.finished_at, Operation.created_at)
    return select(literal(concern.value), *resource, Operation.id, detail, since).where(*conditions)


_ITEMS: Final = union_all(
    _OPEN_FINDINGS,
    _in_error(VM, Kind.VM, VM.id, VM.fault),
    _in_error(Volume, Kind.VOLUME, _NO_ID, _NO_DETAIL),
    _in_error(Snapshot, Kind.SNAPSHOT, Snapshot.vm_id, _NO_DETAIL),
    # The literal conditions of partial indexes keep these lists cheap, however long the tables are. A wait begins a new
    # attempt every few minutes, so many attempts are no failure if there is no error.
    _operations(
        Concern.OPERATION_RETRYING,
        or_(UNDELIVERED, IN_TEMPORAL),
        Operation.attempt >= MANY_ATTEMPTS,
        Operation.last_error.is_not(None),
    ),
    _operations(Concern.OPERATION_NOT_BEGUN, UNBEGUN, Operation.delivered_at < func.now() - NOT_BEGUN_AFTER),
    _operations(Concern.OPERATION_SLOW, or_(UNDELIVERED, _RUNNING), Operation.created_at < func.now() - SLOW_AFTER),
    _operations(
        Concern.OPERATION_INTERRUPTED,
        Operation.status == OperationStatus.FAILED,
        Operation.interruption.is_not(None),
        Operation.finished_at > func.now() - INTERRUPTED_SHOWN_FOR,
        *map(not_, _REQUESTED_AGAIN),
        ~_is_deleted(VM, Operation.vm_id),
        ~_is_deleted(Volume, Operation.resource_id),
        ~_is_deleted(Snapshot, Operation.resource_id),
    ),
    # The VM is busy, but its operation has ended. Only a bug can cause this, and nothing repairs it.
    _operations(
        Concern.VM_HELD_BY_NOBODY,
        Operation.id == VM.operation_id,
        VM.task_state.is_not(None),
        ~_OPEN,
    ),
).subquery("attention")

ATTENTION: Final = select(_ITEMS, Project.name.label("owner")).select_from(
    _ITEMS.outerjoin(Project, Project.id == _ITEMS.c.owner_id).outerjoin(
        Operation, Operation.id == _ITEMS.c.operation_id
    )
)
"""All items, each with the name of its project, joined with its operation if it has one."""

SINCE, RESOURCE_ID, KIND = _ITEMS.c.since, _ITEMS.c.resource_id, _ITEMS.c.kind
