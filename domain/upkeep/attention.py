"""What needs a person's attention, in one list: differences from the cloud, errors, operations that get nowhere."""

from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Select, Uuid, and_, cast, func, literal, null, or_, select, union_all
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import aliased

from domain.data.models import UNBEGUN, UNDELIVERED, VM, Finding, Operation, Snapshot, User, Volume
from domain.rules.resources import Kind
from domain.rules.states import OPEN_STATUSES, OperationStatus

UNRECEIVED: Final = timedelta(minutes=1)  # from where on it is odd that no worker has begun an operation
SLOW: Final = timedelta(hours=1)
MANY_ATTEMPTS: Final = 5
REMEMBERED: Final = timedelta(days=7)  # how long an interrupted operation that nobody has asked for again is shown

_later = aliased(Operation)
_ABOUT: Final = ((VM, Operation.vm_id), (Volume, Operation.resource_id), (Snapshot, Operation.resource_id))
_ASKED_AGAIN: Final = or_(
    _later.retry_of == Operation.id,
    and_(
        _later.owner_id == Operation.owner_id,
        _later.resource_id == Operation.resource_id,
        _later.action == Operation.action,
        _later.created_at > Operation.created_at,
    ),
)
_NOBODY: Final = cast(null(), Uuid)
_NOTHING: Final = cast(null(), JSONB)

# Columns: kind, resource_type, resource_id, vm_id, owner_id, operation_id, detail, since.
_FINDINGS = select(
    Finding.kind,
    Finding.resource_type,
    Finding.resource_id,
    cast(Finding.seen["vm_id"].astext, Uuid).label("vm_id"),
    _NOBODY.label("owner_id"),
    _NOBODY.label("operation_id"),
    Finding.seen.label("detail"),
    Finding.found_at.label("since"),
).where(Finding.resolved_at.is_(None))


def _in_error(model: type[VM | Volume | Snapshot], kind: Kind, vm_id: Any, detail: Any) -> Select[*tuple[Any, ...]]:
    what = (literal(f"{kind}_in_error"), literal(kind.value), model.id, vm_id)
    return select(*what, model.owner_id, model.operation_id, detail, model.updated_at).where(model.status == "ERROR")


def _operations(kind: str, *conditions: Any) -> Select[*tuple[Any, ...]]:
    what = (literal(kind), Operation.resource_type, Operation.resource_id, Operation.vm_id, Operation.owner_id)
    error = func.jsonb_build_object("last_error", Operation.last_error, "attempt", Operation.attempt)
    detail = func.coalesce(Operation.error, error)
    since = func.coalesce(Operation.finished_at, Operation.created_at)
    return select(*what, Operation.id, detail, since).where(*conditions)


_RUNNING = Operation.status == OperationStatus.RUNNING
_OPEN = Operation.status.in_(OPEN_STATUSES)
_ALL = union_all(
    _FINDINGS,
    _in_error(VM, Kind.VM, VM.id, VM.fault),
    _in_error(Volume, Kind.VOLUME, _NOBODY, _NOTHING),
    _in_error(Snapshot, Kind.SNAPSHOT, Snapshot.vm_id, _NOTHING),
    _operations("operation_retrying", _OPEN, Operation.attempt >= MANY_ATTEMPTS),
    _operations("operation_not_begun", UNBEGUN, Operation.delivered_at < func.now() - UNRECEIVED),
    _operations("operation_slow", or_(UNDELIVERED, _RUNNING), Operation.created_at < func.now() - SLOW),
    _operations(
        "operation_interrupted",
        Operation.status == OperationStatus.FAILED,
        Operation.interruption.is_not(None),
        Operation.finished_at > func.now() - REMEMBERED,
        ~select(_later.id).where(_ASKED_AGAIN).exists(),
        *(~select(model.id).where(id == model.id, model.status == "DELETED").exists() for model, id in _ABOUT),
    ),
    # Neither can be; a person is told all the same.
    _operations(
        "vm_held_by_nobody",
        Operation.id == VM.operation_id,
        VM.task_state.is_not(None),
        ~_OPEN,
    ),
).subquery("attention")

ATTENTION = select(_ALL, User.username.label("owner")).select_from(
    _ALL.outerjoin(User, User.id == _ALL.c.owner_id).outerjoin(Operation, Operation.id == _ALL.c.operation_id)
)
"""What needs attention, with its owner's name, joined with the operation concerned, if one is."""

SINCE, RESOURCE_ID, KIND = _ALL.c.since, _ALL.c.resource_id, _ALL.c.kind
