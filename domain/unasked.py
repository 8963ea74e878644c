"""What the service asks of itself, where time or the cloud has decided."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID, uuid5

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain import store
from domain.lifecycle import Action, Status
from domain.models import VM, Operation

CONFIRM_WINDOW_ACTOR: Final = "@confirm-window"  # no username begins like this
_CONFIRM: Final = UUID("0b9b7c1e-5a53-4c8b-8a44-2f6d1e7c9a10")  # any namespace of its own


async def claim_confirm(tx: AsyncConnection, vm_id: UUID, resize_id: UUID, deliver_in: float = 0.0) -> Operation | None:
    """Let the end of its window confirm a resize; the operation that does, or None where somebody was faster.

    Again answers the same, whoever asks.
    """
    confirm_id = uuid5(_CONFIRM, str(resize_id))
    vm = await store.lock_vm(tx, vm_id)
    if vm is not None and vm.operation_id == resize_id and vm.status is Status.VERIFY_RESIZE:
        request_id = (await _operation(tx, resize_id)).request_id
        asked = store.Asked(Action.CONFIRM_RESIZE, CONFIRM_WINDOW_ACTOR, request_id, id=confirm_id)
        await store.accept(tx, vm, asked, deliver_in=deliver_in)
    elif vm is None or vm.operation_id != confirm_id:
        return None
    return await _operation(tx, confirm_id)


async def overdue_resizes(tx: AsyncConnection, limit: int, by: float) -> Sequence[VM]:
    """Up to `limit` VMs whose resize should have been confirmed `by` seconds ago, and nobody did."""
    overdue = select(VM).where(VM.confirm_by < store.from_now(-by), VM.task_state.is_(None))
    return await store.fetch_all(tx, overdue.order_by(VM.confirm_by).limit(limit))


async def _operation(tx: AsyncConnection, id: UUID) -> Operation:
    operation = await store.fetch_one(tx, select(Operation).where(Operation.id == id))
    assert operation is not None  # noqa: S101 - operations are never deleted
    return operation
