"""Only the statements that carry a rule.

Statements run on Core connections: a fetched row has its model's attributes and is read-only. Rows are locked in
the order VM, operation, snapshot, volume, attachment, address, so that nobody waits for anybody in a circle.
"""

from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Select, and_, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.models import VM, Operation
from domain.data.queries import fetch_one, from_now, update_vm
from domain.progress import resource_claims
from domain.rules import lifecycle
from domain.rules.errors import SupersededError
from domain.rules.lifecycle import Claim
from domain.rules.messages import own_workflow_id
from domain.rules.resources import Kind
from domain.rules.states import OPEN_STATUSES, Action, OperationStatus, Status
from domain.rules.table import TABLE

_OF_VM: Final = [action for action, rule in TABLE.items() if rule.of_vm]


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
        await resource_claims.take_over(tx, vm.id, operation_id)
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


async def supersede(tx: AsyncConnection, message: str, *which: ColumnElement[bool]) -> None:
    """End those of a locked VM's operations that are open, because of what the message says."""
    values = {
        "status": OperationStatus.SUPERSEDED,
        "error": {"code": SupersededError.code, "message": message},
        "next_retry_at": None,
        "finished_at": func.clock_timestamp(),
    }
    await tx.execute(update(Operation).where(Operation.status.in_(OPEN_STATUSES), *which).values(values))
