"""Only the statements that carry a rule.

Statements run on Core connections: a fetched row has its model's attributes and is read-only. Rows are locked in
the order VM, operation, snapshot, volume, attachment, address, so that nobody waits for anybody in a circle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar, cast
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Select, and_, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.selectable import TypedReturnsRows

from domain import holdings, lifecycle
from domain.errors import SupersededError
from domain.lifecycle import OPEN_STATUSES, TABLE, Action, Claim, OperationStatus, Status
from domain.markdown import quoted
from domain.messages import OperationInput
from domain.models import VM, Operation
from domain.resources import Kind

T = TypeVar("T")

_OF_VM: Final = [action for action, rule in TABLE.items() if rule.of_vm]
_ABOUT: Final = {
    Action.RESIZE: "from {previous_flavor} to {flavor}",
    Action.CONFIRM_RESIZE: "to {flavor}",
    Action.REVERT_RESIZE: "back to {flavor}",
    Action.SNAPSHOT: "as {name}",
    Action.RESTORE: "from {name}",
    Action.DELETE_SNAPSHOT: "snapshot {name}",
    Action.CREATE_VOLUME: "{name} of {size_gb} GiB",
    Action.DELETE_VOLUME: "{name}",
    Action.ATTACH_VOLUME: "volume {name} as {device}",
    Action.DETACH_VOLUME: "volume {name} from {device}",
    Action.ATTACH_INTERFACE: "address {ip_address} in network {network}",
    Action.DETACH_INTERFACE: "address {ip_address} in network {network}",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A new operation: what is asked, by whom, in which request; `input` is kept with it.

    What it is about is the VM, or else the resource with `resource_id`.
    """

    action: Action
    actor: str
    request_id: str
    input: dict[str, Any] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid4)
    resource_type: Kind = Kind.VM
    resource_id: UUID | None = None


async def fetch_one(tx: AsyncConnection, statement: TypedReturnsRows[T]) -> T | None:
    """The statement's only row, typed as its model; None where there is none."""
    return cast("T | None", (await tx.execute(statement)).one_or_none())


async def fetch_all(tx: AsyncConnection, statement: TypedReturnsRows[T]) -> Sequence[T]:
    """The statement's rows, typed as their model."""
    return cast("Sequence[T]", (await tx.execute(statement)).all())


async def lock_vm(tx: AsyncConnection, vm_id: UUID) -> VM | None:
    """The VM's row, which stays as it is until the transaction ends."""
    return await fetch_one(tx, select(VM).where(VM.id == vm_id).with_for_update())


def begin(vm: VM, action: Action) -> Claim:
    """What the VM shows once the action is accepted; InvalidTransitionError where the lifecycle table refuses."""
    launched, attaching = vm.launched_at is not None, vm.attaching > 0
    return lifecycle.begin(action, vm.status, vm.task_state, launched=launched, attaching=attaching)


async def claim_vm(tx: AsyncConnection, vm: VM, action: Action, operation_id: UUID) -> VM:
    """Let an operation take a locked VM; InvalidTransitionError where the table refuses.

    An action that pre-empts closes every open operation of the VM as SUPERSEDED and takes over what they hold. One
    that leaves the VM as it is is only counted.
    """
    claim = begin(vm, action)
    if not TABLE[action].steps:
        return await update_vm(tx, vm.id, {"attaching": VM.attaching + 1})
    values: dict[str, Any] = {
        "status": claim.status,
        "task_state": claim.task_state,
        "operation_id": operation_id,
        "fault": vm.fault if claim.status is Status.ERROR else None,
        "confirm_by": None,
    }
    if TABLE[action].preempts:
        message = f"A {action.word} of the VM took over."
        await supersede(tx, message, Operation.vm_id == vm.id, Operation.action.in_(_OF_VM))
        await holdings.take_over(tx, vm.id, operation_id)
        values |= {"attaching": 0}
    return await update_vm(tx, vm.id, values)


async def accept(tx: AsyncConnection, vm: VM, asked: Asked, deliver_in: float = 0.0) -> VM:
    """Let a new operation take a locked VM and write it down; it is delivered after `deliver_in` seconds.

    What ends a resize goes to the workflow of the resize, and returns to the status before that.
    InvalidTransitionError where the table refuses.
    """
    claimed = await claim_vm(tx, vm, asked.action, asked.id)
    row = operation_row(asked, vm.owner_id, vm.id, vm.status if TABLE[asked.action].steps else None)
    if vm.fault and claimed.fault is None:
        row["input"] = asked.input | {"previous_fault": vm.fault}
    if TABLE[asked.action].signal:
        row |= await _of_resize(tx, vm.id, asked.action)
    # The lock decides who is first, not whose transaction began first, so that now() would tell it wrongly.
    row |= {"created_at": func.clock_timestamp(), "deliver_after": from_now(deliver_in)}
    await tx.execute(insert(Operation).values(row))
    return claimed


async def accept_without_vm(tx: AsyncConnection, owner_id: UUID, asked: Asked, vm_id: UUID | None = None) -> None:
    """Write a new operation down that takes no VM, though it may be about something of one."""
    row = operation_row(asked, owner_id, vm_id, None) | {"created_at": func.clock_timestamp()}
    await tx.execute(insert(Operation).values(row))


def operation_row(asked: Asked, owner_id: UUID, vm_id: UUID | None, previous_status: Status | None) -> dict[str, Any]:
    """The columns of a new operation."""
    resource_id = asked.resource_id or vm_id
    assert resource_id is not None  # noqa: S101 - it is about a VM, or names something else
    return {
        "id": asked.id,
        "owner_id": owner_id,
        "actor": asked.actor,
        "action": asked.action,
        "resource_type": asked.resource_type,
        "resource_id": resource_id,
        "vm_id": vm_id,
        "input": asked.input,
        "previous_status": previous_status,
        "workflow_id": own_workflow_id(asked.action, vm_id or resource_id, asked.id),
        "request_id": asked.request_id,
    }


def own_workflow_id(action: Action, of: UUID, operation_id: UUID, epoch: int = 0) -> str:
    """The id of a workflow that is started for one operation; `of` a VM, or of what else it is about."""
    return f"{action.word}-{of}-{operation_id}" + (f"-{epoch}" if epoch else "")


def last_resize(vm_id: UUID) -> Select[Operation]:
    """The VM's latest resize that succeeded, or that a reset of the VM cut off: the one that waits to be decided."""
    resizes = select(Operation).where(Operation.vm_id == vm_id, Operation.action == Action.RESIZE)
    cut_off = (*OPEN_STATUSES, OperationStatus.SUPERSEDED)
    moved = or_(
        Operation.status == OperationStatus.SUCCEEDED,
        and_(Operation.status.in_(cut_off), Operation.started_at.is_not(None)),
    )
    return resizes.where(moved).order_by(Operation.created_at.desc()).limit(1)


async def _of_resize(tx: AsyncConnection, vm_id: UUID, action: Action) -> dict[str, Any]:
    resize = await fetch_one(tx, last_resize(vm_id))
    assert resize is not None  # noqa: S101 - only a resize leaves a VM in VERIFY_RESIZE
    kept = "previous_flavor" if action is Action.REVERT_RESIZE else "flavor"
    return {
        "previous_status": resize.previous_status,
        "workflow_id": resize.workflow_id,
        "input": {"flavor_id": resize.input[f"{kept}_id"], "flavor": resize.input[kept]},
    }


def input_of(operation: Operation, vm_name: str | None) -> OperationInput:
    """What the operation's workflow is given; `vm_name` is None where it has no VM."""
    return OperationInput(
        operation.id,
        operation.vm_id,
        operation.action,
        operation.epoch,
        operation.previous_status,
        vm_name or "",
        operation.actor,
        _about(operation),
        operation.resource_id,
        operation.interruption or "",
    )


def _about(operation: Operation) -> str:
    """What people want to know of an operation beside its action and its VM."""
    peoples = {key: quoted(operation.input[key]) for key in ("name", "network") if key in operation.input}
    return _ABOUT.get(operation.action, "").format_map(operation.input | peoples)


async def supersede(tx: AsyncConnection, message: str, *which: ColumnElement[bool]) -> None:
    """End those of a locked VM's operations that are open, because of what the message says."""
    values = {
        "status": OperationStatus.SUPERSEDED,
        "error": {"code": SupersededError.code, "message": message},
        "next_retry_at": None,
        "finished_at": func.clock_timestamp(),
    }
    await tx.execute(update(Operation).where(Operation.status.in_(OPEN_STATUSES), *which).values(values))


async def insert_row(tx: AsyncConnection, model: type[T], **values: Any) -> T:
    """Insert one row and return it with what the database filled in."""
    return cast("T", (await tx.execute(insert(model).values(**values).returning(model))).one())


async def update_vm(tx: AsyncConnection, vm_id: UUID, values: dict[str, Any]) -> VM:
    """Change a VM's row; returns what it is then."""
    return cast("VM", (await tx.execute(update(VM).where(VM.id == vm_id).values(values).returning(VM))).one())


def from_now(seconds: float) -> ColumnElement[datetime]:
    """The database's time in so many seconds."""
    return func.now() + timedelta(seconds=seconds)
