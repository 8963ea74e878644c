"""Accept a new operation: let it claim its VM and record it, in the caller's transaction.

The operation's row is the outbox: after the commit, the dispatcher delivers it from there to Temporal.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.data.models import VM, Operation
from domain.data.parameters import NO_CONTROL, NO_PARAMETERS, Control, Parameters, to_json
from domain.data.projects import roles_in
from domain.data.queries import from_now, lock_vm, update_vm
from domain.progress import resource_claims
from domain.rules import access, lifecycle
from domain.rules.access import Verb
from domain.rules.errors import AttachmentInProgressError, InvalidTransitionError, NotFoundError, SupersededError
from domain.rules.lifecycle import Claim
from domain.rules.messages import own_workflow_id
from domain.rules.resources import Kind
from domain.rules.states import OPEN_STATUSES, Action, OperationStatus, Status
from domain.rules.table import TABLE

R = TypeVar("R")

_OF_VM: Final = [action for action, rule in TABLE.items() if rule.of_vm]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a request comes from: the address and the program of its client, as far as they are known."""

    address: str = ""
    user_agent: str = ""


NOWHERE: Final = Source()


@dataclass(frozen=True, slots=True)
class Requester:
    """The user who makes a request, by id and name, the id of the request, and where it comes from.

    An admin who acts on behalf of others `may_change_all` projects. `is_admin_by_provider`: the identity provider says
    that the user is an admin, whatever the role of the account.
    """

    user_id: UUID
    username: str
    request_id: str
    source: Source = NOWHERE
    may_change_all: bool = False
    is_admin_by_provider: bool = False


@dataclass(frozen=True, slots=True)
class Accepted(Generic[R]):
    """What a command did: the resource's row as it is now, and the operation to follow.

    `is_new` is False if an earlier request created the operation, as for the second delete of a VM.
    """

    resource: R
    operation_id: UUID
    is_new: bool = True


@dataclass(frozen=True, slots=True)
class NewOperation:
    """An operation that is not recorded yet; `actor` is the name of the requester, `requested_by` the id of a user.

    It acts on the VM that it claims, unless `resource_id` names a snapshot, volume or interface.
    """

    action: Action
    actor: str
    request_id: str
    parameters: Parameters
    control: Control = NO_CONTROL
    resource_type: Kind = Kind.VM
    resource_id: UUID | None = None
    id: UUID = field(default_factory=uuid4)
    requested_by: UUID | None = None

    @property
    def input(self) -> dict[str, Any]:
        """The value of its column `input`."""
        return to_json(self.parameters, self.control)


def requested(requester: Requester, action: Action, parameters: Parameters, **values: Any) -> NewOperation:
    """The operation for a user's request."""
    values["requested_by"] = requester.user_id
    return NewOperation(action, requester.username, requester.request_id, parameters, **values)


async def check_may(  # noqa: PLR0913, PLR0917 - who wants to do what with which resource of which project
    tx: AsyncConnection,
    requester: Requester,
    verb: Verb,
    project_id: UUID,
    kind: str,
    id: UUID,
    field: str | None = None,
) -> None:
    """Raise NotFoundError or ForbiddenError unless the requester may do this with a resource of the project."""
    # A personal project has the id of its user, who stays its owner.
    if project_id == requester.user_id or requester.may_change_all:
        return
    roles = await roles_in(tx, requester.user_id, [project_id])
    access.check(roles.get(project_id), verb, kind, id, field)


async def lock_changeable_vm(tx: AsyncConnection, requester: Requester, vm_id: UUID) -> VM:
    """Lock a VM that the requester may change, and return it; NotFoundError if there is none, or ForbiddenError.

    Commands on a VM begin with this lock, so that two commands on the same VM run one after the other.
    """
    vm = await lock_vm(tx, vm_id)
    if vm is None:
        raise NotFoundError("VM", vm_id)
    await check_may(tx, requester, Verb.CHANGE, vm.owner_id, "VM", vm_id)
    return vm


async def check_allowed(tx: AsyncConnection, vm: VM, action: Action) -> Claim:
    """Raise InvalidTransitionError if the table refuses the action; return the state that the VM gets otherwise."""
    launched, attaching = vm.launched_at is not None, vm.attaching > 0
    try:
        return lifecycle.accept(action, vm.status, vm.task_state, launched=launched, attaching=attaching)
    except AttachmentInProgressError as error:
        error.operation_id = await _attaching(tx, vm.id)
        raise
    except InvalidTransitionError as error:
        error.operation_id = vm.operation_id if vm.task_state else None
        raise


async def accept(
    tx: AsyncConnection,
    vm: VM,
    new: NewOperation,
    *,
    deliver_in: float = 0.0,
    resize: Operation | None = None,
) -> VM:
    """Let a new operation claim a locked VM, record it, and return the claimed VM.

    The dispatcher delivers it after `deliver_in` seconds by starting a workflow. A confirm or revert names its
    `resize`: the dispatcher signals the workflow of the resize, and `previous_status` is the status before the resize.
    InvalidTransitionError if the lifecycle table refuses the action.
    """
    claimed = await claim_vm(tx, vm, new.action, new.id)
    row = operation_row(new, vm.owner_id, vm.id, vm.status if TABLE[new.action].steps else None)
    # The claim has cleared the VM's fault. It comes back if the operation ends before it begins.
    if vm.fault and claimed.fault is None:
        row["input"] |= to_json(NO_PARAMETERS, Control(previous_fault=vm.fault))
    if resize is not None:
        row |= {"previous_status": resize.previous_status}
        # No workflow waits after a resize that somebody made in the cloud: the decision has one of its own.
        row |= {"workflow_id": resize.workflow_id} if resize.workflow_id else {}
    await _insert(tx, row | {"deliver_after": from_now(deliver_in)})
    return claimed


async def accept_without_vm(tx: AsyncConnection, owner_id: UUID, new: NewOperation, vm_id: UUID | None = None) -> None:
    """Record a new operation that claims no VM; for the delete of a snapshot, `vm_id` is the snapshot's VM."""
    await _insert(tx, operation_row(new, owner_id, vm_id, None))


async def record_done(
    tx: AsyncConnection, new: NewOperation, owner_id: UUID, vm_id: UUID | None, previous: Status | None = None
) -> None:
    """Record an operation that is done already, such as a reset-state, as SUCCEEDED and without a workflow."""
    done = {"status": OperationStatus.SUCCEEDED, "progress": 100, "workflow_id": ""}
    times = dict.fromkeys(("started_at", "finished_at"), func.clock_timestamp())
    await _insert(tx, operation_row(new, owner_id, vm_id, previous) | done | times)


async def claim_vm(tx: AsyncConnection, vm: VM, action: Action, operation_id: UUID) -> VM:
    """Let an operation claim a locked VM and return the VM; InvalidTransitionError if the table refuses.

    An action without steps (attach, detach) does not hold the VM: it is only counted in `attaching`. A delete ends all
    open operations on the VM as SUPERSEDED, and takes over the resources that they hold. (Deletes of its snapshots go
    on, because they are not operations on the VM.)
    """
    claim = await check_allowed(tx, vm, action)
    if not TABLE[action].steps:
        return await update_vm(tx, vm.id, {"attaching": VM.attaching + 1})
    values: dict[str, Any] = {
        "status": claim.status,
        "task_state": claim.task_state,
        "operation_id": operation_id,
        "fault": vm.fault if claim.status is Status.ERROR else None,
        "confirm_by": None,  # a decision or a delete ends the confirm window
    }
    if TABLE[action].preempts:
        message = f"A {action.word} of the VM superseded the operation."
        await supersede(tx, message, Operation.vm_id == vm.id, Operation.action.in_(_OF_VM))
        await resource_claims.take_over(tx, vm.id, operation_id)
        values |= {"attaching": 0}  # superseded attaches and detaches will not count themselves down
    return await update_vm(tx, vm.id, values)


async def _attaching(tx: AsyncConnection, vm_id: UUID) -> UUID | None:
    """The oldest of the operations that attach something to a VM or detach it."""
    beside = [action for action, rule in TABLE.items() if rule.of_vm and not rule.steps and rule.sources]
    open_ones = (Operation.vm_id == vm_id, Operation.action.in_(beside), Operation.status.in_(OPEN_STATUSES))
    return await tx.scalar(select(Operation.id).where(*open_ones).order_by(Operation.created_at).limit(1))


async def supersede(tx: AsyncConnection, message: str, *which: ColumnElement[bool]) -> None:
    """End those open operations of a locked VM that meet the conditions as SUPERSEDED; the message says why."""
    values = {
        "status": OperationStatus.SUPERSEDED,
        "error": {"code": SupersededError.code, "message": message},
        "next_retry_at": None,
        "finished_at": func.clock_timestamp(),
    }
    await tx.execute(update(Operation).where(Operation.status.in_(OPEN_STATUSES), *which).values(values))


def operation_row(
    new: NewOperation, owner_id: UUID, vm_id: UUID | None, previous_status: Status | None
) -> dict[str, Any]:
    """The columns of a new operation's row."""
    resource_id = new.resource_id or vm_id
    assert resource_id is not None  # noqa: S101 - an operation acts on a VM or names another resource
    return {
        "id": new.id,
        "owner_id": owner_id,
        "actor": new.actor,
        "requested_by": new.requested_by,
        "action": new.action,
        "resource_type": new.resource_type,
        "resource_id": resource_id,
        "vm_id": vm_id,
        "input": new.input,
        "previous_status": previous_status,
        "workflow_id": own_workflow_id(new.action, vm_id or resource_id, new.id),
        "request_id": new.request_id,
    }


async def _insert(tx: AsyncConnection, row: dict[str, Any]) -> None:
    # Sorted by `created_at`, a VM's operations are in the order in which they got its lock. now() would not give this
    # order: it is the time when the transaction began, and an older transaction may get the lock after a younger one.
    await tx.execute(insert(Operation).values(row | {"created_at": func.clock_timestamp()}))
