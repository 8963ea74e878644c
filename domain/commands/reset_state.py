"""Put a VM into another status at once, like Nova's os-resetState: by an admin, or because the cloud has changed."""

from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands.acceptance import Accepted, NewOperation, Requester, record_done, requested, supersede
from domain.commands.resize_decisions import undecided_resize
from domain.data import parameters
from domain.data.models import VM, Operation
from domain.data.parameters import Resize, parameters_of
from domain.data.queries import get_operation, lock_vm, update_vm
from domain.data.views import shown_vm
from domain.progress import resource_claims
from domain.rules import lifecycle
from domain.rules.errors import InvalidTransitionError, NotFoundError
from domain.rules.states import OPEN_STATUSES, Action, Status
from domain.rules.table import Residue

FAULT_CODE: Final = "state_reset"


async def reset_vm_by_admin(tx: AsyncConnection, admin: Requester, vm_id: UUID, status: Status) -> Accepted[VM]:
    """Put any user's VM into a status, even while an operation holds it, and record the reset as an operation.

    InvalidTransitionError for a DELETED VM, for VERIFY_RESIZE without an undecided resize, and for ACTIVE or SHUTOFF if
    the VM was never launched.
    """
    vm = await lock_vm(tx, vm_id)
    if vm is None:
        raise NotFoundError("VM", vm_id)
    resize = await undecided_resize(tx, vm_id) if status is Status.VERIFY_RESIZE else None
    if not _may_become(vm, status, resize):
        launched = vm.launched_at is not None
        allowed = lifecycle.allowed_actions(vm.status, vm.task_state, launched=launched, attaching=vm.attaching > 0)
        raise InvalidTransitionError(f"reset to {status}", vm.status, vm.task_state, allowed)
    reset = parameters.ResetState(status, was=vm.status, task_state=vm.task_state)
    new = requested(admin, Action.RESET_STATE, reset)
    message = f"{admin.username} put the VM into ERROR."
    fault = {"code": FAULT_CODE, "message": message} if status is Status.ERROR else None
    flavor = {"flavor_id": parameters_of(resize, Resize).flavor_id} if resize else {}
    await reset_state(tx, vm, status, new, fault, **flavor)
    return Accepted(await shown_vm(tx, vm_id), new.id)


async def reset_state(
    tx: AsyncConnection, vm: VM, status: Status, new: NewOperation, fault: dict[str, Any] | None = None, **values: Any
) -> VM:
    """Put a locked VM into a status, record the reset as an operation, and return the VM.

    `fault` goes with ERROR only; `values` are further columns of the VM.
    An open operation that held the VM ends as SUPERSEDED. Nothing is undone in the cloud. The other resources that the
    operation held are settled as after a failure with Residue.STILL_THERE.
    """
    # The holder is read without a lock, but it cannot end now: to end, it needs the VM's lock (see step_records).
    holder = await get_operation(tx, vm.operation_id)
    if holder.status in OPEN_STATUSES:
        message = "The VM's state was reset."
        await supersede(tx, message, Operation.id == holder.id)
        await resource_claims.settle_failure(tx, holder, Residue.STILL_THERE)
    await record_done(tx, new, vm.owner_id, vm.id, vm.status)
    state = {"status": status, "task_state": None, "fault": fault, "confirm_by": None, "operation_id": new.id}
    return await update_vm(tx, vm.id, state | values)


def _may_become(vm: VM, status: Status, undecided: Operation | None) -> bool:
    if vm.status is Status.DELETED:
        return False
    if status is Status.VERIFY_RESIZE:
        return undecided is not None
    return status is Status.ERROR or vm.launched_at is not None
