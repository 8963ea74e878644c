"""What the service asks of itself, where time or the cloud has decided."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID, uuid5

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.commands import acceptance
from domain.data import queries
from domain.data.models import VM, Operation
from domain.progress import resource_claims
from domain.rules.states import OPEN_STATUSES, Action, OperationStatus, Status
from domain.rules.table import Residue

CONFIRM_WINDOW_ACTOR: Final = "@confirm-window"  # no username begins like this
_CONFIRM: Final = UUID("0b9b7c1e-5a53-4c8b-8a44-2f6d1e7c9a10")  # any namespace of its own


async def claim_confirm(tx: AsyncConnection, vm_id: UUID, resize_id: UUID, deliver_in: float = 0.0) -> Operation | None:
    """Let the end of its window confirm a resize; the operation that does, or None where somebody was faster.

    Again answers the same, whoever asks, until that operation has ended.
    """
    confirm_id = uuid5(_CONFIRM, str(resize_id))
    vm = await queries.lock_vm(tx, vm_id)
    if vm is not None and vm.operation_id == resize_id and vm.status is Status.VERIFY_RESIZE:
        request_id = (await _operation(tx, resize_id)).request_id
        asked = acceptance.Asked(Action.CONFIRM_RESIZE, CONFIRM_WINDOW_ACTOR, request_id, id=confirm_id)
        await acceptance.accept(tx, vm, asked, deliver_in=deliver_in)
    elif vm is None or vm.operation_id != confirm_id:
        return None
    confirm = await _operation(tx, confirm_id)
    return confirm if confirm.status in OPEN_STATUSES else None


async def is_decided(tx: AsyncConnection, vm_id: UUID, resize_id: UUID) -> bool:
    """Whether nobody can confirm or revert the resize any more."""
    status = await tx.scalar(select(VM.status).where(VM.id == vm_id))
    last = await queries.fetch_one(tx, acceptance.last_resize(vm_id))
    return status is not Status.VERIFY_RESIZE or last is None or last.id != resize_id


async def overdue_resizes(tx: AsyncConnection, limit: int, by: float) -> Sequence[VM]:
    """Up to `limit` VMs whose resize should have been confirmed `by` seconds ago, and nobody did."""
    overdue = select(VM).where(VM.confirm_by < queries.from_now(-by), VM.task_state.is_(None))
    return await queries.fetch_all(tx, overdue.order_by(VM.confirm_by).limit(limit))


async def _operation(tx: AsyncConnection, id: UUID) -> Operation:
    operation = await queries.fetch_one(tx, select(Operation).where(Operation.id == id))
    assert operation is not None  # noqa: S101 - operations are never deleted
    return operation


async def reset_state(
    tx: AsyncConnection,
    vm: VM,
    status: Status,
    asked: acceptance.Asked,
    fault: dict[str, Any] | None = None,
    **values: Any,
) -> VM:
    """Put a locked VM into a status, whatever held it, and write down who did; `fault` goes with ERROR only.

    An operation that held the VM ends as SUPERSEDED, and what else it held as the lifecycle table has it for a failure
    that leaves everything where it is, as nothing is undone in the cloud.
    """
    holder = await _operation(tx, vm.operation_id)
    if holder.status in OPEN_STATUSES:
        message = "The VM's state was reset."
        await acceptance.supersede(tx, message, Operation.id == holder.id)
        await resource_claims.settle_failure(tx, holder, Residue.STILL_THERE)
    await write_down(tx, asked, vm.owner_id, vm.id, vm.status)
    reset = {"status": status, "task_state": None, "fault": fault, "confirm_by": None, "operation_id": asked.id}
    return await queries.update_vm(tx, vm.id, reset | values)


async def write_down(
    tx: AsyncConnection, asked: acceptance.Asked, owner_id: UUID, vm_id: UUID | None, previous: Status | None = None
) -> None:
    """An operation that is done with being written down: no workflow carries it out."""
    row = acceptance.operation_row(asked, owner_id, vm_id, previous)
    done = {"status": OperationStatus.SUCCEEDED, "progress": 100, "workflow_id": ""}
    times = dict.fromkeys(("created_at", "started_at", "finished_at"), func.clock_timestamp())
    await tx.execute(insert(Operation).values(row | done | times))
